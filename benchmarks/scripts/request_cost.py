"""What request analytics costs a request: a plain ASGI application with it and without, in turns.

    python -m benchmarks.scripts.request_cost

It runs in one process, without a server or a network, on the embedded Postgres; each request has the headers a browser
sends. Three of them: alone, with `RequestTracker` alone (nobody subscribes), and as `install` puts it there, where
requests are also gathered and stored meanwhile.
"""

from __future__ import annotations

import asyncio
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

from eventstore import EventStore
from eventstore.analytics import RequestPubSub, RequestTracker, install
from eventstore.analytics.tracking import ASGIApp, Message, Receive, Scope, Send

ROUNDS, EACH = 40, 500

HEADERS = [
    (b"host", b"shop.example"),
    (
        b"user-agent",
        b"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130",
    ),
    (b"accept", b"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
    (b"accept-encoding", b"gzip, deflate, br, zstd"),
    (b"accept-language", b"en-GB,en;q=0.9"),
    (b"referer", b"https://shop.example/items?page=2"),
    (b"cookie", b"theme=dark; pa_session_id=0f8fad5bd9cb469fa16570867728950e; pa_page_views=7"),
    (b"sec-fetch-mode", b"navigate"),
]


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"hello"})


def scope(n: int) -> dict[str, Any]:
    return {
        "type": "http",
        "method": "GET",
        "scheme": "https",
        "path": f"/items/{n % 500}",
        "query_string": b"page=2",
        "headers": HEADERS,
        "client": (f"203.0.113.{n % 250}", 5000),
    }


async def receive() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


async def send(_message: Message) -> None:
    return None


async def times(served: ASGIApp) -> list[float]:
    """Return how many microseconds each of `EACH` requests took."""
    taken = []
    for n in range(EACH):
        request = scope(n)
        began = perf_counter()
        await served(request, receive, send)
        taken.append((perf_counter() - began) * 1e6)
        if n % 50 == 0:
            await asyncio.sleep(0)
    return taken


def line(name: str, taken: list[float], alone: list[float]) -> str:
    p99 = quantiles(taken, n=100)[98]
    more = median(taken) - median(alone)
    return f"{name:<22} p50 {median(taken):>6.1f} µs   p99 {p99:>7.1f} µs   more than alone, p50: {more:>5.1f} µs"


async def main() -> None:
    with TemporaryDirectory() as directory:
        async with EventStore(data_dir=directory) as store:
            requests = RequestPubSub(store.pubsub, shared_storage=True)
            kinds: dict[str, ASGIApp] = {
                "alone": app,
                "RequestTracker": RequestTracker(app, requests, address_key=b"secret"),
                "install": install(app, store),
            }
            taken: dict[str, list[float]] = {name: [] for name in kinds}
            await times(kinds["install"])
            await asyncio.sleep(1.5)
            for _ in range(ROUNDS):
                for name, served in kinds.items():
                    taken[name] += await times(served)
                await asyncio.sleep(0.05)
            for name, values in taken.items():
                print(line(name, values, taken["alone"]))


if __name__ == "__main__":
    asyncio.run(main())
