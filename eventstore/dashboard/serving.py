"""The dashboard on a port of its own, by uvicorn, which ends at once also while somebody watches."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import ssl
from collections.abc import Callable, Iterator

import uvicorn
from starlette.applications import Starlette

from eventstore.dashboard.sampler import Sampler
from eventstore.errors import ConfigurationError
from eventstore.service import to_its_end

__all__ = ["bind", "check_certificate", "serve", "url_of"]

ENDS_WITHIN = 1
"""Seconds that answers under way may take when the server ends."""


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that listens at *host* and *port*; 0 is any that is free.

    Raises:
        ConfigurationError: the port is taken, or there is no such address here.
    """
    try:
        info = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(info[4][:2], family=info[0], backlog=128)
    except OSError as error:
        advice = "another port, or --port 0 for any that is free" if port else "another --host"
        reason = error.strerror or error
        raise ConfigurationError(f"cannot listen at {host} port {port} ({reason}): try {advice}") from None


def url_of(listening: socket.socket, *, tls: bool, root_path: str = "", name: str | None = None) -> str:
    """Return the address that people open; of one that listens everywhere, under *name*."""
    host, port = listening.getsockname()[:2]
    address = ipaddress.ip_address(host)
    everywhere, literal = address.is_unspecified, f"[{host}]" if address.version == 6 else host
    name = (name or socket.gethostname()) if everywhere else literal
    return f"{'https' if tls else 'http'}://{name}:{port}{root_path}/"


def check_certificate(cert: str, key: str) -> None:
    """Refuse a certificate and key that cannot be used together (`ConfigurationError`)."""
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(cert, key, password=lambda: "")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigurationError(f"cannot use the certificate {cert} with the key {key}: {reason}") from None


async def serve(
    app: Starlette,
    listening: socket.socket,
    *,
    certificate: tuple[str, str] | None = None,
    behind_tls_proxy: bool = False,
    root_path: str = "",
    started: Callable[[], object] = lambda: None,
) -> None:
    """Serve *app* until cancelled.

    Args:
        certificate: files of certificate and key, for TLS.
        started: called when requests are answered.
    """
    cert, key = certificate or (None, None)
    config = uvicorn.Config(
        app,
        ssl_certfile=cert,
        ssl_keyfile=key,
        root_path=root_path,
        # Only a proxy tells where requests come from; whose word counts is told by FORWARDED_ALLOW_IPS.
        proxy_headers=behind_tls_proxy,
        server_header=False,
        access_log=False,
        log_config=None,
        lifespan="on",
        ws="none",
        timeout_graceful_shutdown=ENDS_WITHIN,
    )
    server = _Server(config, app.state.site.sampler, started)
    serving = asyncio.ensure_future(server.serve([listening]))
    try:
        await asyncio.shield(serving)
    except asyncio.CancelledError:
        server.should_exit = True
        await to_its_end(serving)
        raise


class _Server(uvicorn.Server):
    """Tells those who watch before it waits for them; leaves signals to the program."""

    def __init__(self, config: uvicorn.Config, sampler: Sampler, started: Callable[[], object]) -> None:
        super().__init__(config)
        self._sampler, self._told_started = sampler, started

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._told_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._sampler.end()
        await super().shutdown(sockets)
