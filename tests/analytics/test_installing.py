from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket

from eventstore import EventStore, Settings, metrics
from eventstore.analytics import RequestLog, RequestTable, install
from eventstore.analytics.installing import Installed
from eventstore.dashboard import dashboard
from eventstore.errors import ConfigurationError
from eventstore.mailbox import Mailbox
from tests.analytics.asgi import hello, lifespan, request
from tests.conftest import QUICK


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits is stored at the end, however busy the machine is."""
    for module in ("batching", "installing", "sharing"):
        monkeypatch.setattr(f"eventstore.analytics.{module}.CLOSED_WITHIN", 60.0)


async def home(_request: Request) -> PlainTextResponse:
    return PlainTextResponse("hello")


def starlette(**options: Any) -> Starlette:
    return Starlette(routes=[Route("/{rest:path}", home)], **options)


async def stored(sql: asyncpg.Connection) -> list[asyncpg.Record]:
    return list(await sql.fetch("select * from eventstore.request_logs order by request_id"))


@pytest.mark.parametrize("made", [lambda: hello, starlette], ids=["plain", "starlette"])
async def test_of_two_nodes_on_one_postgres_only_the_one_that_answered_stores_its_requests(
    db: str, sql: asyncpg.Connection, made: Any
) -> None:
    heard: Mailbox[Any] = Mailbox()
    async with (
        EventStore(db, settings=QUICK, node_name="a") as one,
        EventStore(db, settings=QUICK, node_name="b") as other,
    ):
        app, elsewhere = install(made(), one, interval=0.01), install(made(), other)
        other.pubsub.codec.register(RequestLog)  # it could read them
        for topic in ("request_topic", "end"):
            other.pubsub.subscribe(topic, heard)
        await request(app, "/items/0")
        while not await stored(sql):
            await asyncio.sleep(0.01)
        for n in range(1, 50):
            await request(app, f"/items/{n}")
        # What one task broadcasts arrives in order: a request would have come before this.
        await one.pubsub.broadcast("end", "end")
        assert await heard.get() == "end"
    rows = await stored(sql)
    assert (len(rows), len({row["path"] for row in rows}), len(heard)) == (50, 50, 0)
    assert elsewhere is not app


async def test_a_starlette_application_is_returned_itself() -> None:
    app = starlette()
    assert install(app, EventStore("postgresql://nowhere/x")) is app


def test_a_store_opened_in_the_lifespan_records_until_the_lifespan_ends(db: str) -> None:
    store = EventStore(db, settings=QUICK)
    told: list[int] = []

    @asynccontextmanager
    async def living(_app: Starlette) -> AsyncIterator[None]:
        async with store:
            yield
            # The application is told to end: what it answered is stored already.
            rows = await RequestTable(store.database).months()
            told.append(len(rows))

    app = install(starlette(lifespan=living), store)
    for _ in range(2):
        with TestClient(app) as client:
            assert client.get("/a").text == "hello"
            assert client.get("/b").cookies["pa_page_views"] == "2"
    assert told == [1, 1]
    assert asyncio.run(count(db)) == 4


async def count(db: str) -> int:
    connection = await asyncpg.connect(db)
    try:
        return int(await connection.fetchval("select count(*) from eventstore.request_logs"))
    finally:
        await connection.close()


async def test_the_end_of_a_plain_application_stores_what_it_answered(
    store: EventStore, sql: asyncpg.Connection
) -> None:
    served: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            return await hello(scope, receive, send)
        served.append((await receive())["type"])
        await send({"type": "lifespan.startup.complete"})
        await request(installed, "/a")
        served.append((await receive())["type"])
        served.append(str(len(await stored(sql))))
        await send({"type": "lifespan.shutdown.complete"})

    installed = install(app, store)
    answers = await lifespan(installed, "startup", "shutdown")
    assert answers == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert served == ["lifespan.startup", "lifespan.shutdown", "1"]


async def test_without_an_open_store_requests_pass(db: str) -> None:
    app = install(hello, EventStore(db))
    sent = await request(app)
    assert (sent[1]["body"], sent[0]["headers"]) == (b"hello", [(b"content-type", b"text/plain")])


async def test_a_store_that_is_opened_again_records_again(db: str, sql: asyncpg.Connection) -> None:
    store = EventStore(db, settings=QUICK)
    app = install(hello, store)
    for _ in range(2):
        async with store:
            await request(app)
        await request(app)
    assert len(await stored(sql)) == 2


@pytest.mark.parametrize("by", ["argument", "settings"])
async def test_a_key_that_is_given_counts_more_than_the_database_s(db: str, sql: asyncpg.Connection, by: str) -> None:
    key = "from elsewhere"
    settings = Settings(address_key=key if by == "settings" else "another")
    async with EventStore(db, settings=settings) as store:
        await request(install(hello, store, address_key=key if by == "argument" else None))
    (row,) = await stored(sql)
    assert row["remote_ip"] == hmac.new(key.encode(), b"192.0.2.1", "sha256").hexdigest()[:16]
    assert await sql.fetchval("select count(*) from eventstore.request_keys") == 0


async def test_nodes_without_a_key_share_the_one_of_the_database(db: str, sql: asyncpg.Connection) -> None:
    for _ in range(2):
        async with EventStore(db, settings=QUICK) as store:
            await request(install(hello, store))
    first, second = await stored(sql)
    assert first["remote_ip"] == second["remote_ip"]
    assert "192.0.2.1" not in repr(first)


def test_a_secret_is_not_shown_with_the_settings() -> None:
    assert "sesame" not in repr(Settings(address_key="sesame"))


@pytest.mark.parametrize("options", [{"keep_days": 0}, {"address_key": 5}, {"trusted_proxies": ["x"]}])
def test_options_out_of_range_are_refused_at_once(db: str, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        install(hello, EventStore(db), **options)


async def test_old_months_are_dropped_when_it_begins(store: EventStore, sql: asyncpg.Connection) -> None:
    await sql.execute("select eventstore.ensure_request_month_v1('2020-01-01')")
    app = install(hello, store, keep_days=30)
    await request(app)
    while await sql.fetchval("select count(*) from eventstore.request_months_v1(0, 30)"):
        await asyncio.sleep(0.01)


async def test_of_an_application_below_another_a_request_is_recorded_once(db: str, sql: asyncpg.Connection) -> None:
    async with EventStore(db, settings=QUICK) as store:
        outer = install(Starlette(routes=[Mount("/under", app=install(starlette(), store))]), store)
        sent = await request(outer, "/under/it")
        await request(outer, "/under/it")
        assert sum(name == b"set-cookie" for name, _ in sent[0]["headers"]) == 2
    assert [row["path"] for row in await stored(sql)] == ["/under/it"] * 2


async def test_applications_on_one_store_hand_each_request_to_it_once(
    store: EventStore, sql: asyncpg.Connection
) -> None:
    one, other = (install(hello, store, interval=1000) for _ in range(2))
    assert isinstance(one, Installed)
    assert isinstance(other, Installed)
    for app in (one, other):
        await request(app)
        await app._ready.wait()
    assert one._batcher is other._batcher
    await one.close()
    assert len(await stored(sql)) == 2
    await request(other)
    await other.close()
    assert other._batcher is not None
    assert (len(await stored(sql)), other._batcher.stored) == (3, 3)


async def test_paths_can_be_left_out(db: str, sql: asyncpg.Connection) -> None:
    async with EventStore(db, settings=QUICK) as store:
        for app in (install(hello, store, exclude=["/health"]), install(starlette(), store, exclude=["/health"])):
            for path in ("/health", "/a"):
                await request(app, path)
    assert [row["path"] for row in await stored(sql)] == ["/a"] * 2


async def test_pages_and_metrics_of_a_store_are_no_requests_of_the_application(
    db: str, sql: asyncpg.Connection
) -> None:
    async with EventStore(db, settings=QUICK) as store:
        mounts = [Mount("/ops", app=dashboard(store)), Mount("/metrics", app=metrics.app(store)), Route("/", home)]
        app = install(Starlette(routes=mounts), store)
        for path in ("/ops/", "/ops/static/none.css", "/ops/nodes", "/metrics/", "/"):
            await request(app, path, ("host", "127.0.0.1"), client=("127.0.0.1", 1), query_string=b"")
    assert [row["path"] for row in await stored(sql)] == ["/"]


async def test_what_came_before_the_start_was_answered_then(db: str, sql: asyncpg.Connection) -> None:
    async with EventStore(db, settings=QUICK) as store:
        await broken_function(sql, "request_address_key_v1")
        app = install(hello, store)
        await request(app)
        answered = await sql.fetchval("select clock_timestamp()")
        await sql.execute("alter function eventstore.request_address_key_v1_away rename to request_address_key_v1")
    (row,) = await stored(sql)
    assert row["inserted_at"] <= answered


# -- what breaks


async def broken_function(sql: asyncpg.Connection, name: str) -> None:
    await sql.execute(f"alter function eventstore.{name} rename to {name}_away")


async def test_a_database_that_is_gone_changes_no_answer(
    store: EventStore, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventstore.analytics.batching.CLOSED_WITHIN", 0.01)
    await broken_function(sql, "insert_requests_v1")
    app: Any = install(hello, store, batch_size=1)
    assert [(await request(app))[1]["body"] for _ in range(3)] == [b"hello"] * 3
    await app.close()
    assert (app._batcher.stored, app._batcher.dropped) == (0, 3)


async def test_requests_that_come_before_the_key_is_known_are_recorded_once_it_is(
    store: EventStore, sql: asyncpg.Connection
) -> None:
    await broken_function(sql, "request_address_key_v1")
    app = install(hello, store, batch_size=1)
    assert (await request(app))[1]["body"] == b"hello"
    await sql.execute("alter function eventstore.request_address_key_v1_away rename to request_address_key_v1")
    while not await stored(sql):
        await asyncio.sleep(0.01)


async def test_a_pubsub_that_was_closed_changes_no_answer(store: EventStore) -> None:
    app: Any = install(hello, store)
    await request(app)
    await app._ready.wait()
    await store.pubsub.close()
    assert (await request(app))[1]["body"] == b"hello"
    assert app._tracker.failures == 1


async def test_too_many_early_requests_are_counted(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventstore.analytics.installing.EARLY", 1)
    app: Any = install(hello, store)
    for _ in range(3):
        await request(app)
    assert (len(app._early), app._lost.count) == (1, 2)


# -- under Starlette


def of_all_kinds() -> Starlette:
    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text(await websocket.receive_text())
        await websocket.close()

    async def parts(_request: Request) -> StreamingResponse:
        async def numbers() -> AsyncIterator[str]:
            for n in range(3):
                yield str(n)

        return StreamingResponse(numbers(), background=BackgroundTask(lambda: None))

    async def fails(_request: Request) -> PlainTextResponse:
        raise LookupError("lost")

    routes = [Route("/", home), Route("/parts", parts), Route("/fails", fails), WebSocketRoute("/socket", socket)]
    return Starlette(routes=[*routes, Mount("/under", app=Starlette(routes=[Route("/it", home)]))])


def test_starlette_serves_as_before(db: str) -> None:
    store = EventStore(db, settings=QUICK)

    @asynccontextmanager
    async def living(_app: Starlette) -> AsyncIterator[None]:
        async with store:
            yield

    app = install(Starlette(routes=[Mount("/", app=of_all_kinds())], lifespan=living), store)
    with TestClient(app, raise_server_exceptions=False) as client:
        assert (client.get("/parts").text, client.get("/under/it").text) == ("012", "hello")
        assert (client.get("/fails").status_code, client.get("/none").status_code) == (500, 404)
        with client.websocket_connect("/socket") as socket:
            socket.send_text("hi")
            assert socket.receive_text() == "hi"
    found = asyncio.run(answered(db))
    assert found == {"/parts": 200, "/under/it": 200, "/fails": 500, "/none": 404}


async def answered(db: str) -> dict[str, int]:
    connection = await asyncpg.connect(db)
    rows = await stored(connection)
    await connection.close()
    return {row["path"]: row["status_code"] for row in rows}


async def test_closing_at_once_from_both_ends_waits_for_the_same_end(
    store: EventStore, sql: asyncpg.Connection
) -> None:
    app = install(hello, store)
    assert isinstance(app, Installed)
    await request(app)
    await asyncio.gather(app.close(), app.close())
    assert len(await stored(sql)) == 1
