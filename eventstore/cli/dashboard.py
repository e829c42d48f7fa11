"""``eventstore dashboard``: the web page over a store."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from eventstore.cli.failures import Terminated
from eventstore.cli.output import result
from eventstore.cli.session import Session, shared_options

if TYPE_CHECKING:
    from eventstore.dashboard.security import Token

__all__ = ["command"]

TOKEN = "EVENTSTORE_DASHBOARD_TOKEN"
OPERATOR = "operator"
"""The name of the token in the environment."""

PACKAGES = ("itsdangerous", "jinja2", "starlette", "uvicorn")


@dataclass(frozen=True)
class Serving:
    """How to serve, as the options say."""

    host: str
    port: int
    allow_actions: bool
    token_file: str | None
    tls_cert: str | None
    tls_key: str | None
    behind_tls_proxy: bool
    allow_host: tuple[str, ...]
    root_path: str
    open_browser: bool


@click.command()
@click.option("--host", default="127.0.0.1", metavar="ADDRESS", help="Where to listen.  [default: 127.0.0.1]")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=4000, metavar="N", help="0: any free one.  [default: 4000]"
)
@click.option("--allow-actions", is_flag=True, help="Let people pause, resume, rewind, resize, replay and discard.")
@click.option("--token-file", metavar="FILE", help="Who may come in: a line each, name and secret.")
@click.option("--tls-cert", metavar="FILE", help="Certificate, to speak TLS; with --tls-key.")
@click.option("--tls-key", metavar="FILE", help="Its key.")
@click.option("--behind-tls-proxy", is_flag=True, help="A proxy before it speaks TLS.")
@click.option("--allow-host", metavar="NAME", multiple=True, help="A host name that people reach it by; repeatable.")
@click.option("--root-path", default="", metavar="PATH", help="Path that a proxy shows it under, such as /events.")
@click.option("--open", "open_browser", is_flag=True, help="Open it in the browser.")
@shared_options
def command(session: Session, **options: Any) -> None:
    """Serve the dashboard as a web page, until Ctrl-C.

    It shows what the log, subscriptions, nodes and topics do, live. Nothing can be changed without --allow-actions;
    what is done is recorded with who did it. `eventstore actions` lists that.

    By default only this machine reaches it. To listen elsewhere it needs tokens, and TLS: a certificate of its own, or
    a proxy before it. Tokens come from --token-file, with lines "name secret [act|read|metrics]", or one of the name
    operator from EVENTSTORE_DASHBOARD_TOKEN; `openssl rand -hex 32` makes a secret.

    \b
    Examples:
      eventstore dashboard
      eventstore dashboard --allow-actions --port 0 --open
      eventstore dashboard --host 0.0.0.0 --token-file tokens --tls-cert cert.pem --tls-key key.pem \\
        --allow-host events.example.org
    """
    _check_packages()
    try:
        session.run(_serve(session, Serving(**options)))
    except Terminated:
        return


def _check_packages() -> None:
    from importlib.util import find_spec

    if any(find_spec(name) is None for name in PACKAGES):
        raise click.UsageError("the dashboard needs more packages: pip install '.[dashboard]' in a checkout")


async def _serve(session: Session, serving: Serving) -> None:
    from eventstore.dashboard import dashboard
    from eventstore.dashboard.security import check_binding
    from eventstore.dashboard.serving import bind, serve, url_of

    tokens, certificate = _tokens(serving), _certificate(serving)
    check_binding(
        serving.host, tokens=bool(tokens), tls=certificate is not None, behind_tls_proxy=serving.behind_tls_proxy
    )
    root_path = _root_path(serving.root_path)
    with bind(serving.host, serving.port) as listening:
        async with session.store(listen=True) as store:
            app = dashboard(
                store,
                allow_actions=serving.allow_actions,
                tokens=tokens or None,
                open_to_all=not tokens,  # it listens at the loopback address alone then
                hosts=(*serving.allow_host, *_named(serving.host)),
                behind_tls_proxy=serving.behind_tls_proxy,
            )
            name = next((one.partition(":")[0] for one in serving.allow_host), None)
            url = url_of(listening, tls=certificate is not None, root_path=root_path, name=name)
            await serve(
                app,
                listening,
                certificate=certificate,
                behind_tls_proxy=serving.behind_tls_proxy,
                root_path=root_path,
                started=_announcement(session, serving, url, sorted(tokens)),
            )


def _announcement(session: Session, serving: Serving, url: str, names: list[str]) -> Callable[[], None]:
    def announce() -> None:
        result(session.json, {"url": url, "actions": serving.allow_actions, "tokens": names}, url)
        if not session.json:
            allowed = "actions are allowed" if serving.allow_actions else "read-only"
            click.echo(f"{allowed}; Ctrl-C ends it", err=True)
        if serving.open_browser:
            click.launch(url)

    return announce


def _tokens(serving: Serving) -> dict[str, Token]:
    from eventstore.dashboard.security import Token, parse_tokens
    from eventstore.errors import ConfigurationError

    found: dict[str, Token] = {}
    if serving.token_file is not None:
        try:
            with open(serving.token_file, encoding="utf-8") as lines:
                _warn_of_readers(lines.fileno(), serving.token_file)
                found = parse_tokens(lines, serving.token_file)
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is no text"
            raise ConfigurationError(f"cannot read {serving.token_file}: {reason}") from None
    if secret := os.environ.get(TOKEN):
        if OPERATOR in found:
            raise ConfigurationError(f"{serving.token_file} names a token {OPERATOR}, which is the one of {TOKEN}")
        found[OPERATOR] = Token(secret)
    return found


def _warn_of_readers(file: int, name: str) -> None:
    """Say so if others on this machine can read the file. It is not refused: they may be meant to, as a group is."""
    if os.name == "posix" and (mode := os.fstat(file).st_mode & 0o077):
        who = "others" if mode & 0o007 else "its group"
        click.echo(f"Warning: {who} can read or change the tokens in {name}: chmod 600 {name}", err=True)


def _certificate(serving: Serving) -> tuple[str, str] | None:
    from eventstore.dashboard.serving import check_certificate

    if serving.tls_cert is None and serving.tls_key is None:
        return None
    if serving.tls_cert is None or serving.tls_key is None:
        raise click.UsageError("--tls-cert and --tls-key go together")
    check_certificate(serving.tls_cert, serving.tls_key)
    return serving.tls_cert, serving.tls_key


def _root_path(text: str) -> str:
    path = text.rstrip("/")
    if path and (not path.startswith("/") or not path.isprintable() or "?" in path or "#" in path):
        raise click.UsageError(f"--root-path begins with a slash, as in /events, not {text!r}")
    return path


def _named(host: str) -> tuple[str, ...]:
    """Return the name to listen at, which people then also ask for; a wildcard is nobody's name."""
    return () if host in ("", "0.0.0.0", "::") else (f"[{host}]" if ":" in host else host,)
