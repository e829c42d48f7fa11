"""`subscription`: what is stored, shown, changed and watched; operators reach the nodes that run."""

from __future__ import annotations

import asyncio
import io
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from eventstore import All, Delivery, Event, EventStore, FailurePolicy, NewEvent
from eventstore.cli.subscription import changing
from eventstore.cli.subscription.changing import _show_progress
from eventstore.cli.subscription.showing import _glob, _owners, row_of, status_of
from eventstore.cli.subscription.watching import _line, _row, _rows, _Watched
from eventstore.lifecycle import stores
from eventstore.mailbox import Mailbox
from eventstore.subscriptions.model import Lag, Partition, Subscription
from tests.cli.conftest import Run, Spawn, failure, interrupted, line_with, rows
from tests.cli.test_output import Terminal
from tests.subscriptions.test_run import running

CREATE = ("subscription", "create", "billing", "--type", "Placed", "--pool-size", "2")
NOW = datetime(2025, 1, 31, tzinfo=UTC)
NO_EVENT = "00000000-0000-7000-8000-000000000000"


@pytest.fixture(autouse=True)
def _time_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """What operators do not wait for: to tell what was done, and to count."""
    monkeypatch.setattr(stores, "STOP_WITHIN", 60.0)
    monkeypatch.setattr(changing, "COUNTED_WITHIN", 60.0)


async def beside(cli: Run, *args: str) -> list[dict[str, Any]]:
    """What a command prints that runs beside this event loop."""
    return rows(await asyncio.to_thread(cli, "subscription", *args, "--json"))


# -- create


def test_a_subscription_is_created_shown_and_listed(cli: Run) -> None:
    (created,) = rows(cli(*CREATE, "--json"))
    assert (created["name"], created["pool_size"], created["after"], created["start_position"]) == ("billing", 2, 0, 0)
    (shown,) = rows(cli("subscription", "show", "billing", "--json"))
    known = {"head": 0, "behind": 0, "seconds": 0}
    assert {**shown, "partitions": None} == {**created, **known, "parked": 0, "partitions": None}
    assert shown["partitions"] == [one | {"behind": 0, "seconds": 0} for one in created["partitions"]]
    (listed,) = rows(cli("subscription", "list", "--json"))
    assert listed.items() <= shown.items()


def test_the_selector_is_printed_as_json(cli: Run) -> None:
    (created,) = rows(cli(*CREATE, "--json"))
    assert created["selector"] == {"kind": "event_type", "types": ["Placed"]}


def test_partitions_are_shown(cli: Run) -> None:
    (created,) = rows(cli(*CREATE, "--json"))
    assert [(one["number"], one["checkpoint"], one["state"]) for one in created["partitions"]] == [
        (0, 0, "idle"),
        (1, 0, "idle"),
    ]


def test_without_selector_options_it_wants_everything(cli: Run) -> None:
    assert rows(cli("subscription", "create", "audit", "--json"))[0]["selector"] == {"kind": "all"}


def test_creating_the_same_again_is_fine_and_says_the_size_it_has(cli: Run) -> None:
    assert rows(cli(*CREATE, "--json")) == rows(cli(*CREATE, "--json"))
    assert cli(*CREATE[:-1], "3").stdout == (
        "subscription billing begins after position 0; it was stored before and has 2 partitions: "
        "`eventstore subscription resize`\n"
    )


@pytest.mark.parametrize("args", [("--type", "Other"), ("--attempts", "2"), ("--sink", "stdout")], ids=" ".join)
def test_another_definition_under_the_name_is_a_conflict(cli: Run, args: tuple[str, ...]) -> None:
    cli(*CREATE)
    result = cli(*CREATE, *args, "--json")
    assert failure(result) == (5, "SubscriptionExists")
    assert ("eventstore subscription update" in result.stderr) is ("--type" not in args)


@pytest.mark.parametrize(("after", "start"), [("current", 2), ("1", 1), ("2020-01-01", 0)])
def test_it_begins_where_it_is_told(cli: Run, append: Callable[..., None], after: str, start: int) -> None:
    append("s", NewEvent("T"), NewEvent("T"))
    assert rows(cli("subscription", "create", "x", "--after", after, "--json"))[0]["start_position"] == start


def test_a_failure_policy_is_stored_as_the_library_stores_it(cli: Run, db: str) -> None:
    given = ("--attempts", "forever", "--delay", "1", "--delay-max", "9", "--factor", "2", "--timeout", "5")
    (created,) = rows(cli("subscription", "create", "x", *given, "--then", "halt", "--json"))
    policy = FailurePolicy(attempts=None, delay=1, delay_max=9, factor=2, timeout=5, then="halt")

    async def same() -> Subscription:
        async with EventStore(db) as store:
            return await store.subscribe("x", All(), policy=policy)

    assert asyncio.run(same()).options == created["options"]


def test_a_sink_is_stored_with_its_options_and_shown_without_secrets(cli: Run) -> None:
    options = ("secret_env=ORDERS_SECRET", "timeout=5", "tags=true")
    args = [word for option in options for word in ("--sink-option", option)]
    result = cli("subscription", "create", "x", "--sink", "https://me:hunter2@shop.example/?token=hunter2", *args)
    assert result.exit_code == 0, result.stderr
    for command in ("show", "list"):
        assert "hunter2" not in cli("subscription", command, *(["x"] if command == "show" else [])).output
    (shown,) = rows(cli("subscription", "show", "x", "--json"))
    assert shown["options"] == {
        "sink": "https://***@shop.example/?***",
        "sink_options": {"secret_env": "ORDERS_SECRET", "timeout": 5, "tags": True},
    }


@pytest.mark.parametrize(
    ("args", "error", "says"),
    [
        (("--pool-size", "0"), "ConfigurationError", "pool_size must be between"),
        (("--pool-size", "2000"), "ConfigurationError", "pool_size must be between"),
        (("--after", "99"), "ConfigurationError", ""),
        (("--attempts", "0"), "ConfigurationError", "--attempts must be"),
        (("--attempts", "often"), "BadParameter", "neither a whole number nor 'forever'"),
        (("--delay", "0"), "ConfigurationError", "--delay must be"),
        (("--delay", "5", "--delay-max", "1"), "ConfigurationError", "--delay-max must be"),
        (("--factor", "0"), "ConfigurationError", "--factor must be"),
        (("--timeout", "nan"), "ConfigurationError", "--timeout must be"),
        (("--then", "shout"), "BadParameter", "--then"),
        (("--sink", "ftp://x"), "ConfigurationError", "no sink delivers to ftp"),
        (("--sink", "stdout", "--sink-option", "x=1"), "ConfigurationError", "no option 'x'"),
        (("--sink", "stdout", "--sink-option", "x"), "BadParameter", "NAME=JSON"),
        (("--sink", "http://h", "--sink-option", "timeout=[1"), "BadParameter", "'timeout' is not JSON"),
        (("--sink", "http://h", "--sink-option", "tags=1", "--sink-option", "tags=1"), "UsageError", "given twice"),
        (("--sink-option", "timeout=1"), "UsageError", "goes with --sink"),
    ],
    ids=str,
)
def test_values_out_of_range_are_refused(cli: Run, args: tuple[str, ...], error: str, says: str) -> None:
    result = cli("subscription", "create", "x", *args, "--json")
    assert failure(result) == (2, error)
    assert says in result.stderr
    assert rows(cli("subscription", "list", "--json")) == []


def test_an_empty_name_is_refused(cli: Run) -> None:
    assert failure(cli("subscription", "create", "", "--json")) == (2, "ConfigurationError")


@pytest.mark.parametrize(
    "command",
    [("show",), ("delete", "--yes"), ("update", "--no-sink"), ("pause",), ("resume",), ("resize",),
     ("rewind", "--after", "0", "--yes"), ("watch",)],
    ids=" ".join,
)  # fmt: skip
def test_an_unknown_subscription_is_not_found(cli: Run, command: tuple[str, ...]) -> None:
    size = ("2",) if command == ("resize",) else ()
    assert failure(cli("subscription", *command, "nobody", *size, "--json")) == (6, "SubscriptionNotFound")


# -- list and show


def stored(state: str = "active", *, halted: int = 0, owners: tuple[str | None, ...] = (None,), **fields: Any) -> Any:
    partitions = [
        Partition(n, 5, 1, owner, owner and NOW, "idle", {"error": "E", "message": "m"} if n < halted else None)
        for n, owner in enumerate(owners)
    ]
    return Subscription(1, "k", "s", All(), len(partitions), 0, state, {}, NOW, 0, partitions, **fields)


@pytest.mark.parametrize(
    ("subscription", "status"),
    [
        (stored(owners=("a",)), "active"),
        (stored(owners=("a", None)), "unowned"),
        (stored("paused"), "paused"),
        (stored(halted=1, owners=("a", "b", None)), "halted 1 of 3"),
        (stored(owners=("a",), resize_to=8), "resizing to 8"),
        (stored("paused", halted=1, resize_to=8), "paused, halted 1 of 1, resizing to 8"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_status_says_what_is_the_matter(subscription: Subscription, status: str) -> None:
    assert status_of(subscription) == status


def test_a_lease_that_ran_out_is_nobody_s_and_what_is_late_is_behind() -> None:
    late, well = (Lag("s", 9, 4, seconds, []) for seconds in (61.0, 1.0))
    ran_out, runs = NOW, NOW - timedelta(seconds=1)
    assert status_of(stored(owners=("a",)), late, ran_out) == "unowned"
    assert [status_of(stored(owners=("a",)), lag, runs) for lag in (late, well)] == ["behind", "active"]


def test_owners_are_named_once_and_a_few_of_many_in_the_table() -> None:
    assert row_of(stored(owners=("b", "a", "b", None)))["owners"] == ["a", "b"]
    assert _owners(["a", "b", "c"]) == "a, b, c"
    assert _owners(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"


@pytest.mark.parametrize(
    ("glob", "fits"), [("a*", ["a.b", "abc"]), ("a?b", ["a.b"]), ("a.*", ["a.b"]), ("*", ["a.b", "abc"]), ("b", [])]
)
def test_a_glob_knows_stars_and_question_marks_alone(glob: str, fits: list[str]) -> None:
    assert [name for name in ("a.b", "abc") if _glob(glob).fullmatch(name)] == fits


def test_the_list_can_be_narrowed_and_cut(cli: Run) -> None:
    for name in ("mail", "bill-2", "bill-1"):
        cli("subscription", "create", name)
    assert [row["name"] for row in rows(cli("subscription", "list", "--match", "bill*", "--json"))] == [
        "bill-1",
        "bill-2",
    ]
    assert [row["name"] for row in rows(cli("subscription", "list", "--limit", "1", "--json"))] == ["bill-1"]


def test_the_list_says_how_far_behind_each_is(cli: Run, append: Callable[..., None]) -> None:
    cli("subscription", "create", "x")
    append("s", NewEvent("T"), NewEvent("T"))
    cli("subscription", "create", "y", "--after", "current")
    x, y = rows(cli("subscription", "list", "--json"))
    assert (x["behind"], x["seconds"] > 0, x["head"]) == (2, True, 2)
    assert (y["behind"], y["seconds"], y["settled"]) == (0, 0, 2)
    assert cli("subscription", "list").stdout.splitlines()[1] == "y\tunowned\t1\t2\t0\t0.0\t"


def test_show_as_text_has_facts_and_partitions(cli: Run) -> None:
    cli(*CREATE)
    lines = cli("subscription", "show", "billing").stdout.splitlines()
    assert "pool_size       2" in lines
    assert lines[-1].split("\t")[:3] == ["1", "0", "idle"]


@pytest.fixture
def halted(cli: Run, execute: Callable[[str], None]) -> None:
    """A subscription one of whose partitions is halted."""
    cli(*CREATE)
    told = {"error": "ValueError", "message": "no", "traceback": "Traceback\n  at \x1b[31mx", "at": "2025-01-31"}
    execute(f"update eventstore.checkpoints set halted = '{json.dumps(told)}' where partition = 1")


@pytest.mark.usefixtures("halted")
def test_a_halted_partition_is_shown_with_its_error_and_on_request_its_traceback(cli: Run) -> None:
    (shown,) = rows(cli("subscription", "show", "billing", "--json"))
    assert (shown["status"], shown["halted"], shown["partitions"][1]["state"]) == ("halted 1 of 2", 1, "halted")
    assert shown["partitions"][1]["halted"]["traceback"] == "Traceback\n  at \x1b[31mx"
    assert cli("subscription", "show", "billing").stdout.splitlines()[-1].endswith("\tValueError: no")
    assert cli("subscription", "show", "billing", "-v").stdout.splitlines()[-3:] == [
        "partition 1, halted at 2025-01-31:",
        "  Traceback",
        "    at \\x1b[31mx",
    ]


@pytest.mark.usefixtures("halted")
def test_resume_lets_halted_partitions_go_on(cli: Run) -> None:
    assert rows(cli("subscription", "resume", "billing", "--json")) == [{"name": "billing", "resumed": True}]
    assert rows(cli("subscription", "list", "--json"))[0]["status"] == "unowned"
    assert cli("subscription", "resume", "billing").stdout == "subscription billing has nothing to resume\n"


# -- pause, resume, rewind, resize


def test_pausing_is_said_once_and_shown(cli: Run) -> None:
    cli(*CREATE)
    assert cli("subscription", "pause", "billing").stdout == "subscription billing is paused\n"
    assert cli("subscription", "pause", "billing").stdout == "subscription billing was already paused\n"
    assert rows(cli("subscription", "show", "billing", "--json"))[0]["status"] == "paused"
    assert cli("subscription", "resume", "billing").stdout == "resumed subscription billing\n"


async def test_a_node_that_runs_hears_of_pause_and_resume(cli: Run, store: EventStore) -> None:
    @store.handler("s", All())
    async def handle(event: Event, delivery: Delivery) -> None:
        pass

    claimed, released = store._pools.moments.next("claimed"), store._pools.moments.next("released")
    async with asyncio.timeout(120), running(store):
        await claimed
        await beside(cli, "pause", "s")
        await released
        claimed = store._pools.moments.next("claimed")
        await beside(cli, "resume", "s")
        assert (await claimed).name == "s"


async def test_a_node_that_runs_gives_its_partitions_back_for_a_resize(cli: Run, store: EventStore) -> None:
    @store.handler("s", All())
    async def handle(event: Event, delivery: Delivery) -> None:
        pass

    claimed = store._pools.moments.next("claimed")
    async with asyncio.timeout(120), running(store):
        await claimed
        assert await beside(cli, "resize", "s", "3") == [{"name": "s", "pool_size": 3}]
        (shown,) = await beside(cli, "show", "s")
        assert (shown["pool_size"], shown["resize_to"]) == (3, None)


def test_a_resize_that_nobody_makes_room_for_names_who_does_not(cli: Run, execute: Callable[[str], None]) -> None:
    cli(*CREATE)
    execute(
        f"with n as (insert into eventstore.nodes (incarnation, name, started_at, lease_until)"
        f" values ('{uuid4()}', 'frozen', now(), now() + interval '1 hour') returning incarnation)"
        " update eventstore.checkpoints set owner = n.incarnation from n where partition = 0"
    )
    result = cli("subscription", "resize", "billing", "4", "--timeout", "0.1", "--json")
    assert failure(result) == (3, "TimeoutError")
    assert "given back, by frozen" in result.stderr
    assert rows(cli("subscription", "list", "--json"))[0]["status"] == "unowned, resizing to 4"


@pytest.mark.parametrize(("screen", "drawn"), [(Terminal(), True), (io.StringIO(), False)], ids=["terminal", "file"])
async def test_on_a_terminal_a_resize_shows_what_is_given_back(
    store: EventStore, monkeypatch: pytest.MonkeyPatch, screen: io.StringIO, drawn: bool
) -> None:
    await store.subscribe("s", All())
    monkeypatch.setattr(sys, "stderr", screen)
    showing = asyncio.create_task(_show_progress(store, "s"))
    async with asyncio.timeout(60):
        while not showing.done() and "partitions given back" not in screen.getvalue():
            await asyncio.sleep(0.005)
    assert showing.done() is not drawn
    showing.cancel()
    await asyncio.wait([showing])
    assert ("partitions given back" in screen.getvalue()) is drawn


@pytest.mark.parametrize("size", ["0", "1025", "many"])
def test_a_size_that_no_pool_has_is_refused(cli: Run, size: str) -> None:
    cli(*CREATE)
    assert cli("subscription", "resize", "billing", size).exit_code == 2
    assert rows(cli("subscription", "list", "--json"))[0]["pool_size"] == 2


async def rewindable(store: EventStore) -> list[UUID]:
    """A subscription that has handled three events, and parked the second; returns the ids of the events."""

    @store.handler("s", All(), policy=FailurePolicy(attempts=1, then="park_event"))
    async def handle(event: Event, delivery: Delivery) -> None:
        if event.version == 2:
            raise ValueError("no")

    await store.append("a", [NewEvent("T"), NewEvent("T"), NewEvent("T")])
    parked = store._pools.moments.next("parked")
    async with asyncio.timeout(120), running(store):
        await parked
        await store.subscriptions.wait_for("s", 3)
    return [event.id async for event in store.read("a")]


async def test_a_rewind_says_where_to_and_how_many_parked_events_it_forgot(cli: Run, store: EventStore) -> None:
    first, *_ = await rewindable(store)
    yesterday = (datetime.now(UTC) - timedelta(days=1)).isoformat()
    assert await beside(cli, "rewind", "s", "--event", str(first), "--yes") == [
        {"name": "s", "after": 1, "partitions": 1, "forgotten": 1}
    ]
    told = await asyncio.to_thread(cli, "subscription", "rewind", "s", "--after", yesterday, "--yes")
    assert told.stdout == "rewound 1 partition of s to position 0; 0 parked events forgotten\n"


def test_a_rewind_asks_first(cli: Run, append: Callable[..., None]) -> None:
    append("s", NewEvent("T"))
    cli("subscription", "create", "x", "--after", "1")
    result = cli("subscription", "rewind", "x", "--after", "0", input="n\n")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(
        "Deliver to x again what comes after position 0 (1 event), and forget what is parked of that?"
    )
    assert rows(cli("subscription", "list", "--json"))[0]["settled"] == 1
    assert cli("subscription", "rewind", "x", "--after", "0", input="y\n").exit_code == 0
    assert rows(cli("subscription", "list", "--json"))[0]["settled"] == 0


async def test_before_a_rewind_it_is_said_which_position_a_time_or_an_event_is(cli: Run, store: EventStore) -> None:
    first, *_ = await rewindable(store)
    places = {f"--event={first}": "position 1 (2 events)", "--after=2011-01-01": "position 0 (3 events)"}
    for place, told in places.items():
        result = await asyncio.to_thread(cli, "subscription", "rewind", "s", place, input="n\n")
        assert f", which is {told}, and forget" in result.stderr
    assert (await asyncio.to_thread(cli, "subscription", "rewind", "s", place, input="y\n")).exit_code == 0
    assert (await store.subscriptions.get("s")).partitions[0].checkpoint == 0


def test_what_would_take_long_to_count_is_many(
    cli: Run, append: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    append("s", NewEvent("T"))
    cli("subscription", "create", "x", "--after", "1")
    monkeypatch.setattr(changing, "COUNTED_WITHIN", 0.0)
    assert "after position 0 (many events), " in cli("subscription", "rewind", "x", "--after", "0", input="n\n").stderr


@pytest.mark.parametrize(
    ("args", "code", "error"),
    [
        ((), 2, "UsageError"),
        (("--after", "0", "--event", NO_EVENT), 2, "UsageError"),
        (("--after", "current"), 2, "BadParameter"),
        (("--after", "-1"), 2, "BadParameter"),
        (("--event", "7"), 2, "BadParameter"),
        (("--after", "99"), 1, "CheckpointAheadOfLog"),
        (("--after", "2999-01-01"), 2, "ConfigurationError"),
        (("--event", NO_EVENT), 2, "ConfigurationError"),
    ],
    ids=str,
)
def test_a_place_that_is_none_is_refused(cli: Run, args: tuple[str, ...], code: int, error: str) -> None:
    cli(*CREATE)
    assert failure(cli("subscription", "rewind", "billing", *args, "--yes", "--json")) == (code, error)


# -- update


SHOP = ("--sink", "https://shop.example/events", "--sink-option", "timeout=5")


@pytest.mark.parametrize(
    ("created", "given", "options"),
    [
        (("--attempts", "2", "--delay", "1"), ("--attempts", "forever"), {"policy": {"attempts": None, "delay": 1}}),
        (("--attempts", "2"), ("--default-policy",), {}),
        (("--attempts", "2"), ("--default-policy", "--then", "halt"), {"policy": {"then": "halt"}}),
        ((), ("--sink", "stdout"), {"sink": "stdout"}),
        (SHOP, ("--sink-option", "tags=true"), {"sink": SHOP[1], "sink_options": {"timeout": 5, "tags": True}}),
        (SHOP, ("--sink", "http://h"), {"sink": "http://h"}),
        (SHOP, ("--sink", SHOP[1], "--sink-option", "tags=true"), {"sink": SHOP[1], "sink_options": {"tags": True}}),
        (SHOP, ("--sink", "stdout"), {"sink": "stdout"}),
        ((*SHOP, "--attempts", "2"), ("--no-sink",), {"policy": {"attempts": 2}}),
    ],
    ids=str,
)  # fmt: skip
def test_an_update_changes_what_is_given(
    cli: Run, created: tuple[str, ...], given: tuple[str, ...], options: dict[str, Any]
) -> None:
    cli("subscription", "create", "x", *created)
    assert rows(cli("subscription", "update", "x", *given, "--json")) == [{"name": "x", "updated": True}]
    assert rows(cli("subscription", "show", "x", "--json"))[0]["options"] == options
    assert rows(cli("subscription", "update", "x", *given, "--json")) == [{"name": "x", "updated": False}]


def test_an_update_says_whether_it_was_so_already(cli: Run) -> None:
    cli(*CREATE)
    update = ("subscription", "update", "billing", "--then", "halt")
    assert cli(*update).stdout == "updated subscription billing\n"
    assert cli(*update).stdout == "subscription billing was so already\n"


@pytest.mark.parametrize(
    ("args", "error", "says"),
    [
        ((), "UsageError", "say what to change"),
        (("--no-sink", "--sink", "stdout"), "UsageError", "--no-sink goes without"),
        (("--no-sink", "--sink-option", "x=1"), "UsageError", "--no-sink goes without"),
        (("--sink-option", "timeout=1"), "ConfigurationError", "go with a sink"),
        (("--sink", "ftp://x"), "ConfigurationError", "no sink delivers to ftp"),
        (("--attempts", "0"), "ConfigurationError", "--attempts must be"),
        (("--delay-max", "0.01"), "ConfigurationError", "--delay-max must be"),
    ],
    ids=str,
)
def test_an_update_to_values_out_of_range_is_refused(cli: Run, args: tuple[str, ...], error: str, says: str) -> None:
    cli(*CREATE)
    result = cli("subscription", "update", "billing", *args, "--json")
    assert failure(result) == (2, error)
    assert says in result.stderr
    assert rows(cli("subscription", "show", "billing", "--json"))[0]["options"] == {}


async def test_running_nodes_go_on_with_the_new_policy(cli: Run, store: EventStore) -> None:
    @store.handler("s", All(), policy=FailurePolicy(attempts=None, delay=0.01))
    async def handle(event: Event, delivery: Delivery) -> None:
        raise ValueError

    await store.append("a", [NewEvent("T")])
    async with asyncio.timeout(120), running(store):
        await store._pools.moments.next("failed")
        assert await beside(cli, "update", "s", "--attempts", "1") == [{"name": "s", "updated": True}]
        await store.subscriptions.wait_for("s", 1)
    assert [one.attempts for one in await store.subscriptions.parked("s")] == [1]


# -- delete


def test_a_subscription_is_deleted_after_confirmation(cli: Run) -> None:
    cli(*CREATE)
    result = cli("subscription", "delete", "billing", input="y\n")
    assert (result.exit_code, result.stdout) == (0, "deleted subscription billing\n")
    assert result.stderr == "Delete subscription billing, its checkpoints and what it has parked? [y/N] "
    assert rows(cli("subscription", "list", "--json")) == []


@pytest.mark.parametrize("answer", ["n\n", "\n", "", "sure\n"])
def test_without_confirmation_nothing_is_deleted(cli: Run, answer: str) -> None:
    cli(*CREATE)
    assert cli("subscription", "delete", "billing", input=answer).exit_code == 1
    assert len(rows(cli("subscription", "list", "--json"))) == 1


def test_an_error_after_the_end_of_input_has_a_line_of_its_own(cli: Run) -> None:
    result = cli("subscription", "delete", "billing", input="")
    assert result.stderr.splitlines()[1:] == ["Error: not confirmed, nothing was deleted; --yes does not ask"]


def test_yes_does_not_ask(cli: Run) -> None:
    cli(*CREATE)
    result = cli("subscription", "delete", "billing", "--yes", "--json")
    assert (rows(result), result.stderr) == ([{"name": "billing", "deleted": True}], "")


# -- watch


def watching(spawn: Spawn, *args: str) -> subprocess.Popen[str]:
    process = spawn("subscription", "watch", "-v", *args)
    line_with(process.stderr, "watching")
    return process


def test_what_operators_do_is_seen_by_who_watches(cli: Run, spawn: Spawn, append: Callable[..., None]) -> None:
    cli("subscription", "create", "x")
    process = watching(spawn, "x", "--json", "--limit", "5")
    assert json.loads(process.stdout.readline())["kind"] == "lag"
    for args in (("pause", "x"), ("resume", "x"), ("rewind", "x", "--after", "0", "--yes"), ("resize", "x", "2")):
        assert cli("subscription", *args).exit_code == 0
    seen = [json.loads(line) for line in process.stdout]
    assert [(one["kind"], one["subscription"]) for one in seen] == [
        ("subscription_paused", "x"),
        ("subscription_resumed", "x"),
        ("subscription_rewound", "x"),
        ("subscription_resized", "x"),
    ]
    assert (process.wait(120), {one["node"] for one in seen} != set()) == (0, True)


def test_of_all_subscriptions_those_created_later_are_seen_too(cli: Run, spawn: Spawn) -> None:
    process = watching(spawn, "--limit", "3")
    cli("subscription", "create", "x")
    cli("subscription", "pause", "x")
    cli("subscription", "delete", "x", "--yes")
    lines = [line.split("\t")[1:3] for line in process.communicate(timeout=120)[0].splitlines()]
    assert lines == [["x", "subscription_created"], ["x", "subscription_paused"], ["x", "subscription_deleted"]]


def test_the_lag_is_told_whenever_it_has_changed(cli: Run, spawn: Spawn, append: Callable[..., None]) -> None:
    cli("subscription", "create", "x")
    process = watching(spawn, "--every", "0.1", "--json")
    append("s", NewEvent("T"))
    told = json.loads(process.stdout.readline())
    assert (told["kind"], told["subscription"], told["behind"], told["head"]) == ("lag", "x", 1, 1)
    assert interrupted(process, signal.SIGTERM)[0] == 143


def test_what_others_broadcast_there_is_left_out() -> None:
    watched = _Watched(None, None, [])  # type: ignore[arg-type]
    about = {"subscription": "x", "at": NOW.isoformat()}
    for message in ("hello", ("a", "b"), ("store_event", "k", {}), ("store_event", "k", {**about, "at": "noon"})):
        assert _row(message) is None
        watched._meet(message)
    (row,) = _rows([("store_event", "event_parked", {**about, "position": 7})])
    assert _line(row) == "00:00:00\tx\tevent_parked\tposition=7"


@pytest.mark.parametrize("at_once", [True, False])
async def test_what_a_new_subscription_begins_with_is_seen_once_at_any_pace(store: EventStore, at_once: bool) -> None:
    """Each is told on the topic of all first, then on its own; who prints may come in between, or after all of it."""
    inbox, seen = Mailbox[Any](), list[Any]()
    watched = _Watched(store, inbox, [])
    await watched.begin()
    topics = store.lifecycle.subscriptions_topic(), store.lifecycle.subscription_topic("x")
    told = [("store_event", kind, {"subscription": "x", "at": NOW.isoformat()}) for kind in ("created", "paused")]
    for message in told:
        for topic in topics:
            await store.pubsub.local_broadcast(topic, message, dispatcher="fastlane")
            seen += [] if at_once else _rows(inbox.take_nowait(9))
    seen += _rows(inbox.take_nowait(9))
    assert [row["kind"] for row in seen] == ["created", "paused"]


async def test_what_is_met_twice_in_any_order_is_seen_once(store: EventStore) -> None:
    inbox, seen = Mailbox[Any](), list[Any]()
    watched = _Watched(store, inbox, [])
    await watched.begin()
    shared, own = store.lifecycle.subscriptions_topic(), store.lifecycle.subscription_topic("x")
    first, second = (("store_event", kind, {"subscription": "x", "at": NOW.isoformat()}) for kind in ("one", "two"))
    for topic, message in (shared, first), (own, second), (own, first), (shared, second):
        await store.pubsub.local_broadcast(topic, message, dispatcher="fastlane")
    watched._follow("x")
    await store.pubsub.local_broadcast(own, second, dispatcher="fastlane")
    seen += _rows(inbox.take_nowait(9))
    assert [row["kind"] for row in seen] == ["one", "two", "two"]


def test_nothing_is_watched_with_limit_0(plain: Run) -> None:
    assert plain("subscription", "watch", "--limit", "0").output == ""
