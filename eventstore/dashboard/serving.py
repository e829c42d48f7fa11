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
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from eventstore.dashboard.routes import KINDS
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
        _Served(app, root_path, lambda: server.should_exit),
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


class _Served:
    """The application as this server has it.

    It is reached below *root_path* whether or not a proxy takes that away, so that the address which is printed leads
    there without one. Where a page has the name of the path, nobody could tell: then a proxy has to.

    What the server cancels because it ends, as a form that comes in slowly, is answered; it would log a traceback.
    """

    def __init__(self, app: ASGIApp, root_path: str, is_ending: Callable[[], bool]) -> None:
        self._app, self._is_ending = app, is_ending
        root = root_path.rstrip("/")
        self._root = "" if root.split("/")[1:2] and root.split("/")[1] in KINDS else root

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._root and scope["type"] == "http":
            # The server has put the path before the one that was asked for.
            asked = scope["path"].removeprefix(self._root)
            if asked == self._root or asked.startswith(self._root + "/"):
                scope = {**scope, "path": asked if asked != self._root else asked + "/"}
        try:
            await self._app(scope, receive, send)
        except asyncio.CancelledError:
            if scope["type"] != "http" or not self._is_ending():
                raise
            # The task ends here and now, as it was told to; what has begun is cut off with the connection.
            with contextlib.suppress(Exception):
                await PlainTextResponse("the server ends", 503)(scope, receive, send)


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
