from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from starlette.applications import Starlette

from eventstore import EventStore, EventType, FailurePolicy, NewEvent
from eventstore.dashboard import dashboard
from eventstore.reports.actions import Action, list_actions, recorded
from tests.dashboard.conftest import SECRET, WITHIN, browser, own_csrf, signed_in, submit

PAGE = "/subscriptions/billing"


@pytest.fixture
async def billing(store: EventStore) -> str:
    """A subscription with events before it."""
    await store.append("order-1", [NewEvent("A", {"n": n}) for n in range(4)])
    await store.subscribe("billing", EventType("A"), pool_size=2)
    return "billing"


@pytest.fixture
async def parked(store: EventStore) -> str:
    """A subscription that has parked four events of two streams."""
    await store.append("s-1", [NewEvent("A", {}), NewEvent("A", {})])
    await store.append("s-2", [NewEvent("A", {}), NewEvent("A", {})])

    @store.handler("billing", EventType("A"), policy=FailurePolicy(attempts=1))
    async def fail(_event: object, _delivery: object) -> None:
        raise ValueError("no")

    async with store.running():
        await store.subscriptions.wait_for("billing", 4, timeout=WITHIN)
    return "billing"


async def done(store: EventStore) -> list[tuple[str, str, str, dict[str, Any], str]]:
    rows: list[Action] = list(await list_actions(store.database))
    return [(one.via, one.action, one.subject, one.arguments, one.outcome) for one in rows]


async def test_pausing_and_resuming(store: EventStore, client: httpx.AsyncClient, billing: str) -> None:
    answer = await submit(client, "pause", PAGE, name=billing)
    assert answer.url.path == PAGE
    assert "billing is paused" in answer.text
    assert (await store.subscriptions.get(billing)).state == "paused"
    assert "billing is paused" not in (await client.get(PAGE)).text
    await submit(client, "resume", PAGE, name=billing)
    assert (await store.subscriptions.get(billing)).state == "active"
    assert await done(store) == [
        ("dashboard", "resume", billing, {}, "done"),
        ("dashboard", "pause", billing, {}, "done"),
    ]


@pytest.mark.parametrize("by", ["position", "time", "id"])
async def test_rewinding(store: EventStore, client: httpx.AsyncClient, billing: str, by: str) -> None:
    await store.subscriptions.ack(billing, 4)
    second = [event async for event in store.read("order-1")][1]
    to = {"position": "2", "time": "2001-01-01T00:00", "id": str(second.id)}[by]
    await submit(client, "rewind", PAGE, name=billing, to=to)
    checkpoints = {one.checkpoint for one in (await store.subscriptions.get(billing)).partitions}
    assert checkpoints == ({0} if by == "time" else {1, 2} & checkpoints)
    (row,) = await done(store)
    assert (row[1], list(row[3]), row[4]) == ("rewind", ["after"], "done")  # as the command line calls it


async def test_resizing(store: EventStore, client: httpx.AsyncClient, billing: str) -> None:
    answer = await submit(client, "resize", PAGE, name=billing, pool_size="5")
    assert "billing has 5 partitions now" in answer.text
    assert (await store.subscriptions.get(billing)).pool_size == 5


async def test_a_resize_that_has_to_wait_does_not_keep_the_page_waiting(
    store: EventStore, client: httpx.AsyncClient, billing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def waits(*_: Any, **__: Any) -> None:
        raise TimeoutError

    monkeypatch.setattr(store.subscriptions, "resize", waits)
    answer = await submit(client, "resize", PAGE, name=billing, pool_size="5")
    assert "as soon as handlers are through" in answer.text
    assert (await done(store))[0][4] == "done"


@pytest.mark.parametrize(
    ("which", "count"),
    [({}, 4), ({"seen": "4"}, 4), ({"seen": "3"}, 0), ({"key": "s-1"}, 2), ({"position": "1"}, 1)],
    ids=["all", "all seen", "more than seen", "key", "one"],
)
async def test_replaying_parked_events(
    store: EventStore, client: httpx.AsyncClient, parked: str, which: dict[str, str], count: int
) -> None:
    answer = await submit(client, "replay", PAGE, name=parked, **which)
    assert (f"{count} parked event" in answer.text) is bool(count)
    assert sum(one.replay for one in await store.subscriptions.parked(parked)) == count
    assert len(await done(store)) == 1


@pytest.mark.parametrize(
    ("which", "count"),
    [({"confirm": "yes"}, 4), ({"key": "s-1"}, 2), ({"position": "1"}, 1), ({}, 0)],
    ids=["all", "key", "one", "unconfirmed"],
)
async def test_discarding_parked_events(
    store: EventStore, client: httpx.AsyncClient, parked: str, which: dict[str, str], count: int
) -> None:
    await submit(client, "discard", PAGE, name=parked, **which)
    assert len(await store.subscriptions.parked(parked, state="discarded")) == count
    assert len(await done(store)) == (1 if count else 0)


async def test_no_more_is_discarded_than_was_seen(store: EventStore, client: httpx.AsyncClient, parked: str) -> None:
    assert 'name="seen" value="4"' in (await client.get(PAGE)).text
    answer = await submit(client, "discard", PAGE, name=parked, confirm="yes", seen="3")
    assert "4 events are parked by now, and not 3" in answer.text
    assert len(await store.subscriptions.parked(parked)) == 4
    await submit(client, "discard", PAGE, name=parked, confirm="yes", seen="4")
    assert await store.subscriptions.parked(parked) == []


async def test_an_action_is_told_as_done_however_long_the_way_back_is(
    store: EventStore, client: httpx.AsyncClient, app: Starlette
) -> None:
    name = "\U0001f4a5" * 512
    await store.subscribe(name, EventType("A"))
    page = f"/subscriptions/{quote(name)}"
    answer = await submit(client, "pause", page, name=name)
    assert (answer.status_code, answer.url.path) == (200, f"/subscriptions/{name}")
    form = {"csrf": own_csrf(app, client), "name": name, "back": "/" + "x" * 20_000}
    assert (await client.post("/actions/resume", data=form)).headers["location"] == "/"


async def test_an_action_that_took_too_long_is_not_tried_again(
    store: EventStore, client: httpx.AsyncClient, billing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*_: Any) -> bool:
        return await asyncio.Event().wait()

    monkeypatch.setattr(store.subscriptions, "pause", never)
    monkeypatch.setattr("eventstore.dashboard.forms.DONE_WITHIN", 0.05)
    answer = await submit(client, "pause", PAGE, name=billing)
    assert "was given up" in answer.text
    assert "trying again" not in answer.text


async def test_a_halted_partition_says_at_which_event_and_what_helps(
    store: EventStore, client: httpx.AsyncClient
) -> None:
    await store.append("order-9", [NewEvent("A", {})])

    @store.handler("billing", EventType("A"), policy=FailurePolicy(attempts=1, then="halt"))
    async def fail(_event: object, _delivery: object) -> None:
        raise ValueError("no")

    halted = store._pools.moments.next("halted")
    async with store.running():
        await halted
    page = (await client.get(PAGE)).text
    assert 'href="/events/1"' in page
    assert 'href="/streams/order-9"' in page
    assert "--then park_key" in page
    (failure,) = (await client.get("/?format=json")).json()["failures"]
    assert (failure["kind"], failure["position"]) == ("halted", 1)
    assert "1 halted partition begins with what failed" in (await submit(client, "resume", PAGE, name="billing")).text


async def test_what_fails_is_told_and_recorded(store: EventStore, client: httpx.AsyncClient, billing: str) -> None:
    answer = await submit(client, "rewind", PAGE, name=billing, to="999")
    assert answer.status_code == 200
    assert "999" in answer.text
    assert (await done(store))[0][4] == "failed"
    answer = await submit(client, "pause", PAGE, name="none")
    assert "there is no subscription" in answer.text


SENSELESS: list[tuple[str, dict[str, str]]] = [
    ("pause", {"name": ""}),
    ("rewind", {"to": "soon"}),
    ("rewind", {}),
    ("resize", {}),
    ("resize", {"pool_size": "0"}),
    ("resize", {"pool_size": "1025"}),
    ("replay", {"position": "x"}),
    ("replay", {"position": "1", "key": "a"}),
]


async def test_what_makes_no_sense_is_refused_and_not_recorded(
    store: EventStore, client: httpx.AsyncClient, app: Starlette, billing: str
) -> None:
    await client.get(PAGE)
    for what, form in SENSELESS:
        sent = {"csrf": own_csrf(app, client), "name": billing, **form}
        answer = await client.post(f"/actions/{what}", data=sent, headers={"accept": "application/json"})
        assert (answer.status_code, answer.json()["ok"]) == (400, False), (what, form)
    assert await done(store) == []


async def test_an_action_leads_back_to_this_dashboard_alone(
    client: httpx.AsyncClient, app: Starlette, billing: str
) -> None:
    await client.get(PAGE)
    for back in ("https://evil.example", "//evil.example", ""):
        form = {"csrf": own_csrf(app, client), "name": billing, "back": back}
        assert (await client.post("/actions/pause", data=form)).headers["location"] == "/"


async def test_it_is_recorded_who_signed_in(store: EventStore, billing: str) -> None:
    app = dashboard(store, allow_actions=True, tokens={"ada": SECRET})
    client = await signed_in(app)
    await submit(client, "pause", PAGE, name=billing)
    assert [one.who for one in await list_actions(store.database)] == ["ada"]


async def test_it_is_recorded_who_the_application_says_it_is(store: EventStore, billing: str) -> None:
    async with browser(dashboard(store, allow_actions=True, identify=lambda _: "grace")) as client:
        await submit(client, "pause", PAGE, name=billing)
    assert [one.who for one in await list_actions(store.database)] == ["grace"]


async def test_without_a_sign_in_it_is_who_runs_the_process(
    store: EventStore, billing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("getpass.getuser", lambda: "hedy")
    monkeypatch.setattr("socket.gethostname", lambda: "host")
    async with browser(dashboard(store, allow_actions=True, open_to_all=True)) as client:
        await submit(client, "pause", PAGE, name=billing)
    assert [one.who for one in await list_actions(store.database)] == ["hedy@host"]


async def test_from_elsewhere_the_address_is_recorded_with_it(store: EventStore, billing: str, app: Starlette) -> None:
    client = httpx.AsyncClient(
        transport=httpx.ASGITransport(app, client=("192.0.2.2", 1)), base_url="http://localhost:4000"
    )
    await submit(client, "pause", PAGE, name=billing)
    assert (await done(store))[0][3] == {"peer": "192.0.2.2"}


async def test_actions_lead_to_what_they_were_done_to(store: EventStore, client: httpx.AsyncClient) -> None:
    for action, subject in (("pause", "a"), ("delete stream", "b"), ("scavenge", "eventstore")):
        async with recorded(store.database, "ada", "cli", action, subject):
            pass
    page = (await client.get("/actions")).text
    assert 'href="/subscriptions/a"' in page
    assert 'href="/streams/b"' in page
    assert '/eventstore"' not in page


async def test_a_rewind_says_that_parked_events_are_forgotten(
    store: EventStore, client: httpx.AsyncClient, parked: str
) -> None:
    page = (await client.get("/rewind", params={"name": parked, "to": "0"})).text
    assert "Of the 4 parked events, those after position 0 are forgotten" in page


async def test_what_cannot_be_recorded_is_not_done(
    store: EventStore, client: httpx.AsyncClient, billing: str, sql: Any
) -> None:
    await sql.execute("alter table eventstore.operator_actions rename to gone")
    await submit(client, "pause", PAGE, name=billing)
    assert (await store.subscriptions.get(billing)).state == "active"
