"""Small ASGI applications, and a client that talks to them without a server."""

from __future__ import annotations

from typing import Any

from eventstore.analytics.tracking import ASGIApp, Message, Receive, Scope, Send

START = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]}


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    await send(dict(START))
    await send({"type": "http.response.body", "body": b"hello"})


def answering(status: int) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START | {"status": status})
        await send({"type": "http.response.body", "body": b""})

    return app


async def request(app: ASGIApp, path: str = "/", *headers: tuple[str, str], **scope: Any) -> list[Message]:
    """Send one request; return what the application sent."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope_of(path, *headers, **scope), scope.get("receive", receive), scope.get("send", send))
    return sent


def scope_of(path: str, *headers: tuple[str, str], **scope: Any) -> dict[str, Any]:
    encoded = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    given = {"client": ("192.0.2.1", 1), "scheme": "http", "method": "GET"} | scope
    return {"type": "http", "path": path, "query_string": b"", "headers": encoded} | given


def cookies(sent: list[Message]) -> list[str]:
    return [value.decode() for name, value in sent[0]["headers"] if name == b"set-cookie"]


async def lifespan(app: ASGIApp, *said: str) -> list[str]:
    """Tell the application what a server says; return what it answers."""
    saying, answers = iter(said), []

    async def receive() -> Message:
        return {"type": f"lifespan.{next(saying)}"}

    async def send(message: Message) -> None:
        answers.append(message["type"])

    await app({"type": "lifespan"}, receive, send)
    return answers
