"""`parked`: what subscriptions set aside, and what an operator can do with it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from click.testing import Result

from eventstore import All, Delivery, Event, EventStore, FailurePolicy, NewEvent
from eventstore.cli import parked
from eventstore.cli.parked import _told
from tests.cli.conftest import Run, failure, rows


class Shop:
    """A subscription whose handler refuses the streams named, and what it has handled since."""

    def __init__(self, store: EventStore) -> None:
        self.store, self.refuses = store, {"a", "b"}
        self.handled: list[int] = []
        store.handler("s", All(), policy=FailurePolicy(attempts=1))(self._handle)

    async def _handle(self, event: Event, delivery: Delivery) -> None:
        if event.stream in self.refuses:
            raise ValueError(f"no\n{event.position}")
        self.handled.append(event.position)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        claimed = self.store._pools.moments.next("claimed")
        task = asyncio.create_task(self.store.run())
        try:
            await claimed
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


@pytest.fixture
async def shop(store: EventStore) -> Shop:
    """A subscription that has parked 1 and 2 of stream a, 3 of b, and handled 4."""
    shop = Shop(store)
    for stream in ("a", "a", "b", None):
        await store.append(stream, [NewEvent("T", {"of": stream})])
    await store.subscribe("s", All(), policy=FailurePolicy(attempts=1))
    async with asyncio.timeout(120), shop.running():
        await store.subscriptions.wait_for("s", 4)
    assert (shop.handled, len(await store.subscriptions.parked("s"))) == ([4], 3)
    return shop


async def beside(cli: Run, *args: str, **options: Any) -> Result:
    """Run a command beside this event loop."""
    return await asyncio.to_thread(cli, "parked", *args, **options)


async def listed(cli: Run, *args: str) -> list[tuple[int, str, str, int]]:
    found = rows(await beside(cli, "list", "s", *args, "--json"))
    return [(one["position"], one["key"], one["state"], one["attempts"]) for one in found]


# -- list and show


async def test_parked_events_are_listed_by_position(cli: Run, shop: Shop) -> None:
    assert await listed(cli) == [(1, "a", "parked", 1), (2, "a", "parked", 0), (3, "b", "parked", 1)]
    assert await listed(cli, "--key", "a", "--after", "1") == [(2, "a", "parked", 0)]
    assert await listed(cli, "--limit", "2") == [(1, "a", "parked", 1), (2, "a", "parked", 0)]
    assert await listed(cli, "--state", "skipped") == []
    first = (await beside(cli, "list", "s")).stdout.splitlines()[0].split("\t")
    assert first[:-1] == ["1", "a", "parked", "T", "1", "ValueError", "no\\n1"]


async def test_lists_of_several_pages_are_whole(cli: Run, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parked, "PAGE", 2)
    assert [position for position, *_ in await listed(cli)] == [1, 2, 3]
    monkeypatch.setattr(parked, "PAGE", 1)
    assert [position for position, *_ in await listed(cli, "--limit", "2")] == [1, 2]


async def test_one_is_shown_with_the_event_and_its_traceback(cli: Run, shop: Shop) -> None:
    (shown,) = rows(await beside(cli, "show", "s", "3", "--json"))
    assert (shown["data"], shown["stream"], shown["error"], shown["message"]) == (
        {"of": "b"},
        "b",
        "ValueError",
        "no\n3",
    )
    lines = (await beside(cli, "show", "s", "3")).stdout.splitlines()
    assert "position            3" in lines
    assert lines[-2:] == ["ValueError: no", "3"]


async def test_a_position_where_nothing_is_parked_is_not_found(cli: Run, shop: Shop) -> None:
    assert failure(await beside(cli, "show", "s", "4", "--json")) == (6, "ParkedNotFound")
    for command in ("replay", "discard"):
        args = ("--yes",) if command == "discard" else ()
        result = await beside(cli, command, "s", "--position", "4", *args, "--json")
        assert failure(result) == (2, "ConfigurationError")


@pytest.mark.parametrize("command", [("replay",), ("replay", "--wait"), ("discard", "--yes")], ids=" ".join)
@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("nope", "'s' has no event of key 'nope' parked; `eventstore parked list` shows what it has"),
        ("s:a", "'s' has no event of key 's:a' parked; did you mean 'a'?"),
        ("e:1", "'s' has no event of key 'e:1' parked; did you mean '1'?"),
    ],
)
async def test_a_key_under_which_nothing_is_parked_is_not_found(
    cli: Run, shop: Shop, command: tuple[str, ...], key: str, says: str
) -> None:
    name, *options = command
    result = await beside(cli, name, "s", "--key", key, *options)
    assert (result.exit_code, result.stdout, result.stderr) == (6, "", f"ParkedNotFound: {says}\n")


# -- replay


async def test_a_replay_is_asked_for_and_does_not_wait(cli: Run, shop: Shop) -> None:
    result = await beside(cli, "replay", "s", "--key", "a")
    assert result.stdout == "2 events of s will be delivered again\n"
    assert [one.replay for one in await shop.store.subscriptions.parked("s")] == [True, True, False]


async def test_a_replay_that_is_waited_for_ends_when_the_queue_is_empty(cli: Run, shop: Shop) -> None:
    shop.refuses.clear()
    async with asyncio.timeout(120), shop.running():
        (row,) = rows(await beside(cli, "replay", "s", "--all", "--wait", "--json"))
        (nothing,) = rows(await beside(cli, "replay", "s", "--all", "--wait", "--json"))
    assert row == {"name": "s", "replayed": 3, "parked_again": []}
    assert nothing["replayed"] == 0
    assert (shop.handled, await listed(cli)) == ([4, 1, 2, 3], [])


async def test_what_fails_again_is_named_and_the_exit_code_says_so(cli: Run, shop: Shop) -> None:
    shop.refuses = {"a"}
    async with asyncio.timeout(120), shop.running():
        result = await beside(cli, "replay", "s", "--all", "--wait", "--json")
    assert result.exit_code == 1
    told = json.loads(result.stdout)["parked_again"]
    assert [(one["position"], one["key"], one["attempts"]) for one in told] == [(1, "a", 2), (2, "a", 0)]
    assert json.loads(result.stderr)["message"] == "2 events parked again: position 1 of a: ValueError: no\\n1"
    assert shop.handled == [4, 3]


async def test_one_event_is_replayed_alone(cli: Run, shop: Shop) -> None:
    shop.refuses.clear()
    async with asyncio.timeout(120), shop.running():
        result = await beside(cli, "replay", "s", "--position", "1", "--wait")
    assert (result.exit_code, result.stdout) == (0, "1 event of s replayed, 0 of them parked again\n")
    assert await listed(cli) == [(2, "a", "parked", 0), (3, "b", "parked", 1)]


async def test_an_event_behind_another_of_its_key_is_not_replayed_alone(cli: Run, shop: Shop) -> None:
    result = await beside(cli, "replay", "s", "--position", "2", "--json")
    assert failure(result) == (2, "ConfigurationError")
    assert "waits behind the one at 1" in result.stderr


async def test_waiting_where_nobody_runs_says_so_and_ends_in_time(cli: Run, shop: Shop) -> None:
    result = await beside(cli, "replay", "s", "--all", "--wait", "--timeout", "0.1")
    assert (result.exit_code, result.stdout) == (3, "")
    assert "nobody runs s now: `eventstore work`" in result.stderr
    assert "TimeoutError: not all of 's' is replayed after 0.1 s" in result.stderr
    await shop.store.subscriptions.pause("s")
    result = await beside(cli, "replay", "s", "--all", "--wait", "--timeout", "0.1")
    assert "s is paused: `eventstore subscription resume`" in result.stderr


def test_of_very_many_keys_some_are_named() -> None:
    class One:
        attempts, error, message = 1, "E", "m"

        def __init__(self, position: int) -> None:
            self.position, self.key = position, str(position)

    told = _told([One(n) for n in range(12)])  # type: ignore[misc]
    assert (told.startswith("12 events parked again: position 0"), told.endswith("; and 2 keys more")) == (True, True)


# -- discard


async def test_events_are_given_up_after_confirmation_and_stay_listed(cli: Run, shop: Shop) -> None:
    result = await beside(cli, "discard", "s", "--key", "a", input="y\n")
    assert (result.exit_code, result.stdout) == (0, "discarded 2 events of s\n")
    assert result.stderr == "Give up the parked events of a in s, for good? [y/N] "
    assert await listed(cli) == [(3, "b", "parked", 1)]
    assert await listed(cli, "--state", "discarded") == [(1, "a", "discarded", 1), (2, "a", "discarded", 0)]
    assert len(await listed(cli, "--state", "all")) == 3
    assert rows(await beside(cli, "discard", "s", "--all", "--yes", "--json")) == [{"name": "s", "discarded": 1}]


async def test_without_confirmation_nothing_is_discarded(cli: Run, shop: Shop) -> None:
    result = await beside(cli, "discard", "s", "--position", "3", input="n\n")
    assert (result.exit_code, "nothing was discarded" in result.stderr) == (1, True)
    assert len(await listed(cli)) == 3


# -- refusals


@pytest.mark.parametrize("which", [(), ("--all", "--key", "a"), ("--position", "1", "--all")], ids=" ".join)
@pytest.mark.parametrize("command", [("replay",), ("discard", "--yes")], ids=" ".join)
def test_it_has_to_be_said_which(plain: Run, command: tuple[str, ...], which: tuple[str, ...]) -> None:
    assert failure(plain("parked", *command, "s", *which, "--json")) == (2, "UsageError")


@pytest.mark.parametrize(
    "args",
    [("list", "--state", "lost"), ("show", "0"), ("replay", "--position", "0"), ("replay", "--key", "a\0b"),
     ("replay", "--all", "--timeout", "5"), ("list", "--after", "-1")],
    ids=lambda args: " ".join(args).replace("\0", "?"),
)  # fmt: skip
def test_bad_arguments_are_refused(plain: Run, args: tuple[str, ...]) -> None:
    command, *rest = args
    assert plain("parked", command, "s", *rest).exit_code == 2


@pytest.mark.parametrize(
    "args", [("list",), ("show", "1"), ("replay", "--all"), ("discard", "--all", "--yes")], ids=" ".join
)
def test_an_unknown_subscription_is_not_found(cli: Run, args: tuple[str, ...]) -> None:
    command, *rest = args
    assert failure(cli("parked", command, "nobody", *rest, "--json")) == (6, "SubscriptionNotFound")


def test_nothing_parked_is_an_empty_list(cli: Run, execute: Callable[[str], None]) -> None:
    cli("subscription", "create", "s")
    assert rows(cli("parked", "list", "s", "--json")) == []
    assert cli("parked", "discard", "s", "--all", "--yes").stdout == "discarded 0 events of s\n"
