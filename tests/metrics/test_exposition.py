"""A scrape: its format, its size, and that it never fails, never hangs, and asks the database once a second at most."""

from __future__ import annotations

import asyncio
import gzip
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import asyncpg
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics

from eventstore import All, Delivery, Event, EventStore, EventType, NewEvent
from eventstore.errors import ConfigurationError, DatabaseUnavailable
from eventstore.metrics import app, collector, exposition, looking
from eventstore.metrics.families import FAMILIES
from eventstore.metrics.looking import looks_of
from eventstore.reports.overview import read_overview
from eventstore.reports.subscriptions import list_subscriptions
from tests.conftest import QUICK
from tests.metrics.scraping import Scrape, scrape


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look anew at every scrape."""
    monkeypatch.setattr(looking, "EVERY", 0.0)


async def get(application: Any, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    await application({"type": "http", "method": method, "path": "/metrics", "headers": raw}, None, send)
    answered = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], answered, sent[1]["body"]


async def test_it_is_text_for_prometheus(store: EventStore) -> None:
    status, headers, body = await get(app(store))
    assert (status, headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert headers["content-length"] == str(len(body))
    assert Scrape.of(body)["eventstore_up"] == 1


async def test_who_asks_for_openmetrics_gets_it(store: EventStore) -> None:
    await store.append("s", [NewEvent("A")])
    _, headers, body = await get(app(store), accept="application/openmetrics-text; version=1.0.0; charset=utf-8")
    assert headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    families = {family.name for family in openmetrics(body.decode())}
    assert {"eventstore_appends", "eventstore_append_duration_seconds"} <= families


async def test_it_is_compressed_for_those_who_take_that(store: EventStore) -> None:
    _, headers, body = await get(app(store), accept_encoding="deflate, gzip;q=0.9")
    assert (headers["content-encoding"], headers["content-length"]) == ("gzip", str(len(body)))
    assert Scrape.of(gzip.decompress(body))["eventstore_up"] == 1
    assert "content-encoding" not in (await get(app(store), accept_encoding="br, gzip;q=0"))[1]


@pytest.mark.parametrize("method", ["POST", "HEAD", "DELETE"])
async def test_only_get_is_answered(store: EventStore, method: str) -> None:
    status, headers, _ = await get(app(store), method)
    assert (status, headers["allow"]) == (405, "GET")


async def test_every_metric_is_one_that_is_described_and_the_other_way_round(store: EventStore) -> None:
    await a_bit_of_everything(store)
    found = {family.name: family for family in collector_families(await refreshed(store))}
    assert set(found) == set(FAMILIES)
    for name, family in FAMILIES.items():
        labels = {frozenset(sample.labels) - {"le"} for sample in found[name].samples}
        assert labels <= {frozenset({"schema", *family.labels})}, name
        assert found[name].type == family.kind


async def refreshed(store: EventStore) -> Any:
    made = collector(store)
    await made.refresh()
    return made


def collector_families(made: Any) -> Iterator[Any]:
    for metric in made.collect():
        metric.name += "_total" if metric.type == "counter" else ""
        yield metric


async def a_bit_of_everything(store: EventStore) -> None:
    @store.handler("h", All())
    async def handle(event: Event, delivery: Delivery) -> None: ...

    await store.append("s", [NewEvent("A")])
    async with store.running():
        await store.subscriptions.wait_for("h", 1, timeout=60)


async def test_a_scrape_without_a_database_tells_what_the_node_counts(store: EventStore, always: None) -> None:
    await store.append("s", [NewEvent("A")])
    await store._control.stop()
    found = await scrape(store)
    assert (found["eventstore_up"], found["eventstore_appends_total", {"outcome": "stored"}]) == (0, 1)
    assert "eventstore_horizon_position" not in found.names


async def test_a_scrape_of_a_store_that_is_not_open_is_answered_too() -> None:
    assert (await scrape(EventStore()))["eventstore_up"] == 0


async def test_a_database_that_hangs_is_not_waited_for(
    store: EventStore, monkeypatch: pytest.MonkeyPatch, always: None
) -> None:
    hangs = asyncio.Event()

    async def rows(*_: object) -> None:
        await hangs.wait()
        raise DatabaseUnavailable("at last")

    monkeypatch.setattr(store._control, "rows", rows)
    made = collector(store)
    for _ in range(3):
        await made.refresh(within=0.01)
    assert Scrape.of(generate_latest(made))["eventstore_up"] == 0
    hangs.set()
    assert await looks_of(store).latest(store, 60) is None


async def test_however_many_scrape_the_database_is_asked_once(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, rows = [], store._control.rows

    async def counted(function: str, *args: Any, **named: Any) -> Any:
        asked.append(function)
        return await rows(function, *args, **named)

    monkeypatch.setattr(store._control, "rows", counted)
    monkeypatch.setattr(looking, "EVERY", 1e6)
    await asyncio.gather(*(exposition(store) for _ in range(20)), get(app(store)))
    await exposition(store)
    assert asked == ["store_measures_v1", "subscription_measures_v1"]


async def test_a_registry_of_ones_own_takes_the_collector(store: EventStore) -> None:
    registry = CollectorRegistry()
    registry.register(made := collector(store))
    assert Scrape.of(generate_latest(registry))["eventstore_up"] == 0
    await made.refresh()
    assert Scrape.of(generate_latest(registry))["eventstore_up"] == 1


async def with_subscriptions(store: EventStore) -> None:
    """Ten at the head, three behind, one of them paused, and one of those at the head with a halted partition."""
    await store.append("s", [NewEvent("A"), NewEvent("B")])
    for number in range(10):
        await store.subscribe(f"head-{number}", EventType("A"), after="current")
    for number in range(3):
        await store.subscribe(f"late-{number}", EventType("A"), after=number // 2)
    await store.subscriptions.pause("late-0")


async def test_those_in_trouble_and_furthest_behind_come_first_and_the_rest_is_told(
    store: EventStore, sql: asyncpg.Connection
) -> None:
    await with_subscriptions(store)
    await sql.execute(
        "update eventstore.checkpoints set halted = '{}' where subscription_id ="
        " (select id from eventstore.subscriptions where name = 'head-7')"
    )
    found = await scrape(store, subscriptions=3)
    assert found.labels("eventstore_subscription_lag_positions", "subscription") == {"head-7", "late-0", "late-1"}
    assert found["eventstore_subscriptions_left_out"] == 10
    assert found["eventstore_subscription_troubled_partitions", {"subscription": "head-7", "state": "halted"}] == 1
    assert found["eventstore_subscription_paused", {"subscription": "late-0"}] == 1
    assert found["eventstore_subscription_lag_positions", {"subscription": "late-0"}] == 2
    assert found["eventstore_subscription_lag_seconds", {"subscription": "late-0"}] > 0
    assert found["eventstore_subscriptions", {"state": "active"}] == 12
    states = {state: found["eventstore_partitions", {"state": state}] for state in ("halted", "paused", "unowned")}
    assert (states, found["eventstore_unhandled_partitions"]) == ({"halted": 1, "paused": 1, "unowned": 11}, 11)


async def test_what_is_unowned_is_so_by_every_name_it_is_shown_under(store: EventStore) -> None:
    await with_subscriptions(store)
    found, overview = await scrape(store), await read_overview(store.database)
    assert found["eventstore_partitions", {"state": "unowned"}] == overview.subscriptions["unowned"] == 12
    (shown,) = (await list_subscriptions(store.database, search="head-3")).rows
    of = {"subscription": "head-3"}
    assert found["eventstore_subscription_troubled_partitions", {**of, "state": "unowned"}] == shown.unowned == 1
    assert found["eventstore_subscription_unhandled_partitions", of] == found["eventstore_unhandled_partitions"] / 12


async def test_subscriptions_at_the_head_can_be_left_out(store: EventStore) -> None:
    await with_subscriptions(store)
    found = await scrape(store, at_head=False)
    assert found.labels("eventstore_subscription_lag_positions", "subscription") == {"late-0", "late-1", "late-2"}
    assert found["eventstore_subscriptions_left_out"] == 10


async def test_what_the_database_knows_can_be_left_to_another_node(store: EventStore) -> None:
    names = (await scrape(store, database=False)).names
    assert "eventstore_appends_total" in names
    assert not names & {family.name for family in FAMILIES.values() if family.database}


async def test_handlers_of_the_busiest_subscriptions_have_series_of_their_own(store: EventStore) -> None:
    for number in range(5):
        store.counts.subscriptions.of(f"s-{number}", lambda: ()).handled += number
    found = await scrape(store, subscriptions=2, database=False)
    assert found.labels("eventstore_subscription_handled_events_total", "subscription") == {"s-3", "s-4"}
    assert found["eventstore_handled_events_total", {"outcome": "handled"}] == 10


async def test_the_age_of_the_horizon_is_that_of_what_holds_it(
    store: EventStore, sql: asyncpg.Connection, always: None
) -> None:
    assert (await scrape(store))["eventstore_horizon_age_seconds"] == 0
    async with sql.transaction():
        await store.append("held", [NewEvent("A")], connection=sql)
        await store.append("s", [NewEvent("A")])
        found = await scrape(store)
        (began,) = await sql.fetchrow("select extract(epoch from clock_timestamp() - now())::float8")
        assert 0 < found["eventstore_horizon_age_seconds"] <= began
        assert (found["eventstore_horizon_position"], found["eventstore_last_position"]) == (0, 2)
    assert (await scrape(store))["eventstore_horizon_age_seconds"] == 0


async def test_a_deleted_subscription_leaves_no_series(store: EventStore, always: None) -> None:
    await a_bit_of_everything(store)
    assert (await scrape(store)).labels("eventstore_subscription_handled_events_total", "subscription") == {"h"}
    await store.unsubscribe("h")
    await scrape(store)
    found = await scrape(store)
    assert not found.labels("eventstore_subscription_handled_events_total", "subscription")
    assert found["eventstore_handled_events_total", {"outcome": "handled"}] == 1


async def test_a_lost_listen_connection_is_counted(store: EventStore, sql: asyncpg.Connection) -> None:
    assert store._signals.listener is not None
    await store._signals.listener.ready(60)
    again = store._signals.moments.next("listening")
    await sql.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where application_name = 'eventstore listener' and datname = current_database()"
    )
    await again
    found = await scrape(store)
    assert (found["eventstore_listen_losses_total"], found["eventstore_listen_reconnects_total"]) == (1, 1)


async def test_a_pool_tells_who_uses_it_and_who_waits(db: str) -> None:
    async with EventStore(db, settings=replace(QUICK, connections=1)) as store, store._database.acquire():
        waiting = asyncio.ensure_future(store.append("s", [NewEvent("A")]))
        while not store._database.usage().waiting:
            await asyncio.sleep(0)
        found = await scrape(store)
        assert found["eventstore_pool_connections", {"pool": "main", "state": "busy"}] == 1
        assert found["eventstore_pool_waiting", {"pool": "main"}] == 1
        waiting.cancel()


async def test_too_many_subscriptions_are_refused(store: EventStore) -> None:
    with pytest.raises(ConfigurationError):
        app(store, subscriptions=-1)


def test_without_prometheus_client_the_error_names_the_extra() -> None:
    program = (
        "import sys; sys.modules['prometheus_client'] = None\n"
        "import eventstore, eventstore.metrics\n"
        "try: eventstore.metrics.app(eventstore.EventStore())\n"
        "except eventstore.errors.ConfigurationError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ".[metrics]" in done.stdout
