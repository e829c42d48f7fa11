"""Pages of subscriptions, and one of them in full."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from eventstore import All, EventPattern, EventPayload, EventStore, EventType, FailurePolicy, Stream, Tags
from eventstore.errors import ConfigurationError, SubscriptionNotFound
from eventstore.reports.subscriptions import list_subscriptions, read_subscription, selector_text
from eventstore.selectors import Selector, dump
from tests.reports.conftest import DEAD, NODE, aged, halt, park, place, queries


@pytest.fixture
async def listed(store: EventStore, sql: asyncpg.Connection, events: None, nodes: None) -> EventStore:
    """Three subscriptions: one well, one far behind with parked events, one halted."""
    await store.subscribe("Billing", EventType("T0"), pool_size=2)
    await store.subscribe("audit/all", All())
    await store.subscribe("bill_mail", Tags("n:1"), sink="https://u:secret@mail.example/in?key=1")
    for partition in (0, 1):
        await place(sql, "Billing", 10, NODE, partition)
    await place(sql, "audit/all", 2, DEAD)
    await place(sql, "bill_mail", 7)
    await halt(sql, "bill_mail")
    await aged(sql, 5, 120)
    for position in (1, 2):
        await park(sql, "audit/all", position)
    await park(sql, "audit/all", 3, state="discarded")
    return store


async def names(listed: EventStore, **asked: Any) -> list[str]:
    return [row.name for row in (await list_subscriptions(listed.database, **asked)).rows]


async def test_a_row_tells_all_of_a_subscription(listed: EventStore) -> None:
    billing, audit, mail = (await list_subscriptions(listed.database)).rows
    assert (billing.status, billing.behind, billing.seconds, billing.nodes) == ("active", 0, 0.0, ["ada"])
    assert (billing.selector, billing.selector_text) == ({"kind": "event_type", "types": ["T0"]}, "EventType('T0')")
    assert (audit.status, audit.checkpoint, audit.behind, audit.parked, audit.unowned) == ("unowned", 2, 8, 2, 1)
    assert audit.seconds >= 120
    assert (mail.status, mail.halted, mail.sink) == ("halted", 1, "https://***@mail.example/in?***")


async def test_a_part_of_the_name_is_looked_for_whatever_its_case(listed: EventStore) -> None:
    assert await names(listed, search="BILL") == ["Billing", "bill_mail"]
    assert await names(listed, search="t/A") == ["audit/all"]
    assert await names(listed, search="l_m") == ["bill_mail"]
    assert await names(listed, search="%") == []
    assert await names(listed, prefix="bill") == ["bill_mail"]


@pytest.mark.parametrize("search", ["\0", "\ud800"])
async def test_what_no_name_can_hold_finds_nothing(listed: EventStore, search: str) -> None:
    assert await names(listed, search=search) == await names(listed, prefix=search) == []


async def test_a_status_chooses_and_all_are_counted(listed: EventStore) -> None:
    page = await list_subscriptions(listed.database, status="halted")
    assert ([row.name for row in page.rows], page.total, page.head) == (["bill_mail"], 1, 10)
    assert page.counts == {"active": 1, "unowned": 1, "halted": 1}
    searched = await list_subscriptions(listed.database, search="bill", status="paused")
    assert (searched.rows, searched.total, searched.counts) == ([], 0, {"active": 1, "halted": 1})


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("name", ["Billing", "audit/all", "bill_mail"]),
        ("behind", ["audit/all", "bill_mail", "Billing"]),
        ("seconds", ["audit/all", "bill_mail", "Billing"]),
        ("parked", ["audit/all", "Billing", "bill_mail"]),
    ],
)
async def test_the_order_can_be_chosen(listed: EventStore, order: Any, expected: list[str]) -> None:
    assert await names(listed, order=order) == expected


async def test_pages_follow_each_other_and_know_how_many_there_are(listed: EventStore) -> None:
    pages = [await list_subscriptions(listed.database, offset=offset, limit=2) for offset in (0, 2, 4)]
    assert [[row.name for row in page.rows] for page in pages] == [["Billing", "audit/all"], ["bill_mail"], []]
    assert {page.total for page in pages} == {3}


async def test_the_subscriptions_of_one_node_can_be_asked_for(listed: EventStore) -> None:
    assert await names(listed, node=UUID(NODE)) == ["Billing"]
    assert await names(listed, node=UUID(DEAD)) == ["audit/all"]


@pytest.mark.parametrize(
    "asked", [{"limit": 0}, {"limit": 501}, {"offset": -1}, {"status": "well"}, {"order": "age"}, {"limit": True}]
)
async def test_what_is_out_of_range_is_refused(listed: EventStore, asked: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        await list_subscriptions(listed.database, **asked)


async def test_a_page_is_one_query_and_a_subscription_three(listed: EventStore) -> None:
    assert await queries(listed.database, list_subscriptions(listed.database)) == 1
    assert await queries(listed.database, read_subscription(listed.database, "Billing")) == 3


# -- one of them


async def test_a_subscription_is_told_with_its_partitions(listed: EventStore, sql: asyncpg.Connection) -> None:
    await place(sql, "Billing", 4, NODE, 1)
    found = await read_subscription(listed.database, "Billing")
    assert (found.status, found.state, found.behind, found.head) == ("behind", "active", 6, 10)
    assert [(one.number, one.checkpoint, one.owner, one.behind) for one in found.partitions] == [
        (0, 10, "ada", 0), (1, 4, "ada", 6)
    ]  # fmt: skip
    assert json.loads(json.dumps(asdict(found), default=str))["policy"]["attempts"] == 5


async def test_what_is_set_aside_is_counted_by_what_became_of_it(listed: EventStore) -> None:
    found = await read_subscription(listed.database, "audit/all")
    assert (found.parked, found.replaying, found.skipped, found.discarded) == (2, 0, 0, 1)
    assert found.oldest_parked is not None
    assert (await read_subscription(listed.database, "Billing")).oldest_parked is None


async def test_list_and_detail_agree_on_the_status(listed: EventStore) -> None:
    for row in (await list_subscriptions(listed.database)).rows:
        found = await read_subscription(listed.database, row.name)
        assert (found.status, found.behind, found.parked, found.sink) == (row.status, row.behind, row.parked, row.sink)


async def test_the_policy_and_why_it_is_halted_are_told(listed: EventStore) -> None:
    await listed.subscriptions.update("bill_mail", policy=FailurePolicy(attempts=2, then="halt"))
    found = await read_subscription(listed.database, "bill_mail")
    assert (found.policy["attempts"], found.policy["then"]) == (2, "halt")
    assert (found.partitions[0].halted or {})["message"] == "no"


async def test_a_name_that_is_not_stored_is_named(listed: EventStore) -> None:
    with pytest.raises(SubscriptionNotFound):
        await read_subscription(listed.database, "none")


@pytest.mark.parametrize(
    ("selector", "text"),
    [
        (All(), "All()"),
        (Stream("a'b"), 'Stream("a\'b")'),
        (EventType("A", "B") & Tags("x", "y", match="any"), "EventType('A', 'B') & Tags('x', 'y', match='any')"),
        ((EventType("A") | All()) & EventPattern("s-*"), "(EventType('A') | All()) & EventPattern('s-*')"),
        (EventPattern({"type": "A"}), "EventPattern({'type': 'A'})"),
        (EventPayload({"n": {"$gt": 1}}), "EventPayload({'n': {'$gt': 1}})"),
    ],
)
def test_a_selector_is_told_as_it_would_be_written(selector: Selector, text: str) -> None:
    assert selector_text(json.loads(dump(selector))) == text
