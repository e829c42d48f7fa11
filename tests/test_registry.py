from __future__ import annotations

import asyncio
import gc
import logging
import random
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Iterator
from contextlib import contextmanager
from functools import partial
from heapq import heappop, heappush
from itertools import count
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventstore.errors import AlreadyStarted, ConfigurationError, NoProc, NoShape, ShapeRemoved
from eventstore.registry import Consumer, ConsumerRegistry, DirectConsumer, Suspend

Events = dict[Hashable, Any]


class Call:
    def __init__(self) -> None:
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Time:
    """A clock that stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now, self._numbers = 0.0, count()
        self._calls: list[tuple[float, int, Call, Callable[[], object]]] = []

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[[], object]) -> Call:
        call = Call()
        heappush(self._calls, (self.now + delay, next(self._numbers), call, callback))
        return call

    @property
    def timers(self) -> int:
        return sum(not call.cancelled for _, _, call, _ in self._calls)

    def go_on(self, seconds: float) -> None:
        until = self.now + seconds
        while self._calls and self._calls[0][0] <= until:
            self.now, _, call, callback = heappop(self._calls)
            if not call.cancelled:
                callback()
        self.now = until


class Stack:
    """A registry whose events are what their handler does: an async function without arguments, or a plain value."""

    def __init__(self, kind: type[ConsumerRegistry[Any]] = ConsumerRegistry, **options: Any) -> None:
        self.time = Time()
        self.unknown: set[Hashable] = {"unknown"}
        self.started: list[Hashable] = []
        self.handled: list[tuple[Hashable, Any]] = []
        self.removed: list[list[Hashable]] = []
        self.starting: Callable[[], Awaitable[object]] = nothing
        self.removing: Callable[[], Awaitable[object]] = nothing
        self.consumer_options: dict[str, Any] = {}
        self.registry = kind("stack", self.start, self.remove, clock=self.time, **options)

    async def start(self, handle: Hashable) -> Consumer:
        self.started.append(handle)
        await self.starting()
        if handle in self.unknown:
            raise NoShape(handle)
        return self.consumer(handle)

    def consumer(self, handle: Hashable, **options: Any) -> Consumer:
        return Consumer(partial(self.handle, handle), **(self.consumer_options | options))

    async def handle(self, handle: Hashable, event: Any) -> None:
        self.handled.append((handle, event))
        if callable(event):
            await event()

    async def remove(self, handles: list[Hashable]) -> None:
        await self.removing()
        self.removed.append(handles)
        self.unknown.update(handles)


class Boom(Exception):
    """What consumers crash with."""


async def nothing() -> None:
    """Be handled at once."""


async def boom() -> None:
    raise Boom


async def suspend() -> None:
    raise Suspend


def once(event: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
    """Do *event* the first time, and nothing after that."""
    left = [event]

    async def first() -> None:
        if left:
            await left.pop()()

    return first


def kinds(reasons: dict[Any, BaseException]) -> dict[Any, type[BaseException]]:
    return {handle: type(reason) for handle, reason in reasons.items()}


async def turns(number: int = 5) -> None:
    """Let everything that is ready run."""
    for _ in range(number):
        await asyncio.sleep(0)


@contextmanager
def nothing_left_behind() -> Iterator[None]:
    """Fail if a task is left, or if asyncio had to complain, as about an exception that nobody retrieved."""
    loop, complaints = asyncio.get_running_loop(), []
    before = asyncio.all_tasks()
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    yield
    gc.collect()
    assert not complaints
    assert not asyncio.all_tasks() - before - {asyncio.current_task()}


@pytest.fixture
async def stack() -> AsyncIterator[Stack]:
    with nothing_left_behind():
        one = Stack(hibernate_after=30.0)
        async with one.registry:
            yield one


# -- publish


async def test_nothing_is_published_to_nobody(stack: Stack) -> None:
    assert await stack.registry.publish({}) == {}


async def test_a_missing_consumer_is_started_and_gets_the_event(stack: Stack) -> None:
    handle = ("subscription", 3)
    assert await stack.registry.publish({handle: "event"}) == {}
    assert (stack.started, stack.handled) == ([handle], [(handle, "event")])


async def test_a_consumer_that_lives_is_not_started_again(stack: Stack) -> None:
    await stack.registry.publish({"a": 1})
    await stack.registry.publish({"a": 2, "b": 2})
    assert stack.started == ["a", "b"]
    assert stack.handled == [("a", 1), ("a", 2), ("b", 2)]


async def test_an_unknown_handle_is_told_and_the_others_get_their_events(stack: Stack) -> None:
    reasons = await stack.registry.publish({"unknown": 1, "a": 1})
    assert kinds(reasons) == {"unknown": NoShape}
    assert stack.handled == [("a", 1)]


async def test_any_other_error_of_a_start_is_raised_before_anything_is_delivered(stack: Stack) -> None:
    await stack.registry.publish({"a": 1})
    stack.starting = boom
    with pytest.raises(Boom):
        await stack.registry.publish({"a": 2, "b": 2})
    assert stack.handled == [("a", 1)]


async def test_after_a_failed_start_the_next_publish_starts_again(stack: Stack) -> None:
    stack.starting = once(boom)
    with pytest.raises(Boom):
        await stack.registry.publish({"a": 1})
    assert await stack.registry.publish({"a": 2}) == {}


async def test_all_consumers_are_called_concurrently(stack: Stack) -> None:
    meeting = asyncio.Barrier(3)
    assert await stack.registry.publish(dict.fromkeys("abc", meeting.wait)) == {}


async def test_missing_consumers_are_started_concurrently(stack: Stack) -> None:
    stack.starting = asyncio.Barrier(3).wait
    assert await stack.registry.publish(dict.fromkeys("abc", 1)) == {}


async def test_publish_waits_for_every_reply_without_a_time_limit(stack: Stack) -> None:
    first, second = asyncio.Event(), asyncio.Event()
    publish = asyncio.create_task(stack.registry.publish({"a": first.wait, "b": second.wait}))
    for event in (first, second):
        await turns()
        stack.time.go_on(1e9)
        assert not publish.done()
        event.set()
    assert await publish == {}


async def test_publish_does_not_wait_for_the_dead(stack: Stack) -> None:
    gate = asyncio.Event()
    publish = asyncio.create_task(stack.registry.publish({"a": asyncio.Event().wait, "b": gate.wait}))
    await turns()
    stack.registry.whereis("a").task.cancel()  # type: ignore[union-attr]
    gate.set()
    assert kinds(await publish) == {"a": NoProc}


# -- suspending during an event


async def test_a_consumer_that_suspends_is_started_again_and_asked_once_more(stack: Stack) -> None:
    await stack.registry.publish({"a": 1, "b": 1})
    before = stack.registry.whereis("a")
    event = once(suspend)
    assert await stack.registry.publish({"a": event, "b": 2}) == {}
    assert stack.started == ["a", "b", "a"]
    assert stack.handled[2:] == [("a", event), ("b", 2), ("a", event)]
    assert stack.registry.whereis("a") is not before


async def test_one_that_suspends_again_loses_its_shape_and_its_entry(stack: Stack) -> None:
    assert kinds(await stack.registry.publish({"a": suspend, "b": 1})) == {"a": ShapeRemoved}
    assert stack.handled.count(("a", suspend)) == 2
    assert stack.removed == [["a"]]
    assert stack.registry.whereis("a") is None
    assert kinds(await stack.registry.publish({"a": 1})) == {"a": NoShape}


async def test_one_that_is_unknown_when_it_is_to_start_again_is_told_so(stack: Stack) -> None:
    await stack.registry.publish({"a": 1})
    stack.unknown.add("a")
    assert kinds(await stack.registry.publish({"a": suspend})) == {"a": NoShape}


async def test_one_that_crashes_after_its_restart_is_told_with_its_reason(stack: Stack) -> None:
    steps = iter([suspend, boom])
    assert kinds(await stack.registry.publish({"a": lambda: next(steps)()})) == {"a": Boom}


async def test_all_who_wait_for_one_that_suspends_share_its_successor(stack: Stack) -> None:
    gate, event = asyncio.Event(), once(suspend)

    async def later() -> None:
        await gate.wait()
        await event()

    publishes = [asyncio.create_task(stack.registry.publish({"a": each})) for each in (later, 1, 2)]
    await turns()
    gate.set()
    assert await asyncio.gather(*publishes) == [{}, {}, {}]
    assert stack.started == ["a", "a"]


async def test_an_event_behind_others_that_suspend_is_no_reason_to_remove_the_shape(stack: Stack) -> None:
    gate = asyncio.Event()

    async def later() -> None:
        await gate.wait()
        raise Suspend

    publishes = [asyncio.create_task(stack.registry.publish({"a": once(later)})) for _ in range(5)]
    publishes.append(asyncio.create_task(stack.registry.publish({"a": "innocent"})))
    await turns()
    gate.set()
    assert await asyncio.gather(*publishes) == [{}] * 6
    assert (stack.removed, stack.handled.count(("a", "innocent"))) == ([], 1)


async def test_the_removal_of_a_shape_goes_on_when_its_publish_is_cancelled(stack: Stack) -> None:
    reached, gate = asyncio.Event(), asyncio.Event()

    async def slowly() -> None:
        reached.set()
        await gate.wait()

    stack.removing = slowly
    publish = asyncio.create_task(stack.registry.publish({"a": suspend}))
    await reached.wait()
    publish.cancel()
    removed = stack.registry.moments.next("removed")
    gate.set()
    assert await removed == ["a"]


# -- crashes


async def test_a_crash_is_told_with_its_reason_and_never_retried(stack: Stack) -> None:
    reason = Boom()

    async def crash() -> None:
        raise reason

    assert await stack.registry.publish({"a": crash, "b": 1}) == {"a": reason}
    assert stack.handled.count(("a", crash)) == 1
    assert stack.registry.whereis("a").task.exception() is reason  # type: ignore[union-attr]


async def test_an_entry_outlives_the_crash_and_is_dead_until_it_is_removed(stack: Stack) -> None:
    await stack.registry.publish({"a": boom})
    for _ in range(2):
        assert kinds(await stack.registry.publish({"a": 1})) == {"a": NoProc}
    assert stack.started == ["a"]
    await turns()
    stack.registry.remove_consumer("a")
    stack.unknown.discard("a")
    assert await stack.registry.publish({"a": 2}) == {}


async def test_removing_is_idempotent(stack: Stack) -> None:
    await stack.registry.publish({"a": 1})
    for _ in range(2):
        stack.registry.remove_consumer("a")
        assert stack.registry.active_consumer_count() == 0


async def test_the_count_includes_dead_entries(stack: Stack) -> None:
    await stack.registry.publish({"a": boom, "b": 1, "unknown": 1})
    assert stack.registry.active_consumer_count() == 2


async def test_a_crash_removes_the_shape_while_publish_goes_on(stack: Stack) -> None:
    gate = asyncio.Event()
    stack.removing = gate.wait
    removed = stack.registry.moments.next("removed")
    assert kinds(await stack.registry.publish({"a": boom})) == {"a": Boom}
    assert stack.removed == []
    gate.set()
    assert await removed == ["a"]


async def test_shapes_that_crash_during_a_removal_are_removed_together(stack: Stack) -> None:
    gate = asyncio.Event()
    stack.removing = gate.wait
    for handle in "abc":
        await stack.registry.publish({handle: boom})
        await turns()
    gate.set()
    await turns()
    assert stack.removed == [["a"], ["b", "c"]]


async def test_a_removal_that_fails_is_logged_and_the_next_one_happens(
    stack: Stack, caplog: pytest.LogCaptureFixture
) -> None:
    stack.removing = once(boom)
    for handle in "ab":
        removed = stack.registry.moments.next("removed")
        await stack.registry.publish({handle: boom})
        await removed
    assert stack.removed == [["b"]]
    assert "removing the shapes of ['a'] failed" in caplog.text


async def test_all_who_wait_for_one_that_crashes_are_told_its_reason(stack: Stack) -> None:
    gate, reason = asyncio.Event(), Boom()
    stack.consumer_options = {"maxsize": 3}  # the rest of them waits for room

    async def crash() -> None:
        await gate.wait()
        raise reason

    publishes = [asyncio.create_task(stack.registry.publish({"a": crash})) for _ in range(20)]
    await turns()
    gate.set()
    assert await asyncio.gather(*publishes) == [{"a": reason}] * 20
    assert len(stack.handled) == 1


async def test_a_cancellation_the_handler_raises_by_itself_is_a_crash(stack: Stack) -> None:
    async def cancelled() -> None:
        raise asyncio.CancelledError

    assert kinds(await stack.registry.publish({"a": cancelled})) == {"a": asyncio.CancelledError}
    await turns()
    assert stack.removed == [["a"]]


async def test_one_whose_task_is_cancelled_stays_as_a_dead_entry_and_keeps_its_shape(stack: Stack) -> None:
    await stack.registry.publish({"a": 1})
    stack.registry.whereis("a").task.cancel()  # type: ignore[union-attr]
    for _ in range(2):
        assert kinds(await stack.registry.publish({"a": 2})) == {"a": NoProc}
    await turns()
    assert (stack.removed, stack.registry.active_consumer_count()) == ([], 1)


# -- entries


async def test_registering_starts_the_consumer_and_returns_the_count(stack: Stack) -> None:
    assert stack.registry.register_consumer("a", stack.consumer("a")) == 1
    assert stack.registry.register_consumer("b", stack.consumer("b")) == 2
    assert await stack.registry.publish({"a": 1}) == {}
    assert (stack.started, stack.handled) == ([], [("a", 1)])


@pytest.mark.parametrize("event", [nothing, boom], ids=["alive", "dead"])
async def test_registering_never_overwrites(stack: Stack, event: Callable[[], Awaitable[None]]) -> None:
    await stack.registry.publish({"a": event})
    before = stack.registry.whereis("a")
    with pytest.raises(AlreadyStarted):
        stack.registry.register_consumer("a", stack.consumer("a"))
    assert stack.registry.whereis("a") is before


async def test_a_consumer_has_one_handle_and_registering_it_twice_changes_nothing(stack: Stack) -> None:
    one = stack.consumer("a")
    assert [stack.registry.register_consumer("a", one) for _ in range(2)] == [1, 1]
    with pytest.raises(AlreadyStarted):
        stack.registry.register_consumer("b", one)


async def test_one_registered_while_another_starts_is_the_one(stack: Stack) -> None:
    one = stack.consumer("a")

    async def register() -> None:
        stack.registry.register_consumer("a", one)

    stack.starting = register
    assert await stack.registry.publish({"a": 1}) == {}
    assert stack.registry.whereis("a") is one


async def test_whereis_knows_who_is_registered_and_nobody_else(stack: Stack) -> None:
    one = stack.consumer("a")
    stack.registry.register_consumer("a", one)
    assert stack.registry.whereis("a") is one
    assert stack.registry.whereis("b") is None


async def test_removing_a_consumer_ends_it_and_the_next_publish_starts_another(stack: Stack) -> None:
    publish = asyncio.create_task(stack.registry.publish({"a": asyncio.Event().wait}))
    await turns()
    stack.registry.remove_consumer("a")
    assert await stack.registry.publish({"a": 1}) == {}
    assert kinds(await publish) == {"a": NoProc}
    assert stack.started == ["a", "a"]


async def test_a_removed_consumer_that_ignores_its_cancellation_takes_nothing_more(stack: Stack) -> None:
    async def stubborn() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)

    publish = asyncio.create_task(stack.registry.publish({"a": stubborn}))
    await turns()
    one = stack.registry.whereis("a")
    stack.registry.remove_consumer("a")
    assert await publish == {}
    assert kinds((await stack.registry.broadcast([("a", 1, one)]))[1]) == {"a": NoProc}
    await one.task  # type: ignore[union-attr, misc]


@pytest.mark.parametrize("last_words", [suspend, boom])
async def test_how_a_removed_consumer_ends_touches_neither_its_successor_nor_the_shape(
    stack: Stack, last_words: Callable[[], Awaitable[None]]
) -> None:
    async def stubborn() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await last_words()

    publish = asyncio.create_task(stack.registry.publish({"a": once(stubborn)}))
    await turns()
    stack.registry.remove_consumer("a")
    stack.registry.register_consumer("a", successor := stack.consumer("a"))
    assert kinds(await publish) == ({} if last_words is suspend else {"a": Boom})
    await turns()
    assert (stack.registry.whereis("a"), stack.removed) == (successor, [])


# -- broadcast


async def test_broadcast_tells_who_suspended_with_its_event_and_who_crashed_with_its_reason(stack: Stack) -> None:
    ones = {handle: stack.consumer(handle) for handle in "abc"}
    for handle, one in ones.items():
        stack.registry.register_consumer(handle, one)
    events = {"a": nothing, "b": suspend, "c": boom}
    suspended, crashed = await stack.registry.broadcast([(h, events[h], ones[h]) for h in "abc"])
    assert (suspended, kinds(crashed)) == ({"b": suspend}, {"c": Boom})
    assert stack.started == []


async def test_broadcast_skips_none_and_nobody_answers_nothing(stack: Stack) -> None:
    assert await stack.registry.broadcast([("a", 1, None)]) == ({}, {})
    assert await stack.registry.broadcast([]) == ({}, {})


async def test_the_suspended_say_so_to_whom_still_calls_them_and_those_without_a_task_are_dead(stack: Stack) -> None:
    one = stack.consumer("a")
    stack.registry.register_consumer("a", one)
    await stack.registry.broadcast([("a", suspend, one)])
    suspended, crashed = await stack.registry.broadcast([("a", 1, one), ("b", 1, stack.consumer("b"))])
    assert (suspended, kinds(crashed)) == ({"a": 1}, {"b": NoProc})


# -- the inbox


async def test_who_publishes_to_a_full_inbox_waits_for_room_and_keeps_nobody_else_waiting(stack: Stack) -> None:
    gate = asyncio.Event()
    stack.consumer_options = {"maxsize": 1}
    publishes = [asyncio.create_task(stack.registry.publish({"a": gate.wait})) for _ in range(5)]
    await turns()
    publishes.append(asyncio.create_task(stack.registry.publish({"a": 1, "b": 2})))
    await turns()
    assert ("b", 2) in stack.handled
    gate.set()
    assert await asyncio.gather(*publishes) == [{}] * 6
    assert len(stack.handled) == 7


async def test_who_waits_for_room_in_two_inboxes_waits_for_both_at_once(stack: Stack) -> None:
    gates = {"a": asyncio.Event(), "b": asyncio.Event()}
    stack.consumer_options = {"maxsize": 1}
    publishes = [asyncio.create_task(stack.registry.publish({h: gates[h].wait})) for h in "aabb"]
    await turns()
    publishes.append(asyncio.create_task(stack.registry.publish({"a": 1, "b": 2})))
    await turns()
    gates["b"].set()
    await turns()
    assert stack.handled[-1] == ("b", 2)
    gates["a"].set()
    assert await asyncio.gather(*publishes) == [{}] * 5


async def test_events_of_one_publisher_are_handled_in_their_order(stack: Stack) -> None:
    for n in range(100):
        await stack.registry.publish({"a": n})
    assert [event for _, event in stack.handled] == list(range(100))


async def test_a_thousand_publishes_to_one_handle_start_it_once(stack: Stack) -> None:
    stack.starting = partial(asyncio.sleep, 0)
    assert await asyncio.gather(*(stack.registry.publish({"a": n}) for n in range(1000))) == [{}] * 1000
    assert stack.started == ["a"]
    assert sorted(event for _, event in stack.handled) == list(range(1000))


async def test_publishes_that_share_a_start_share_its_failure(stack: Stack) -> None:
    gate = asyncio.Event()
    stack.starting = gate.wait
    publishes = [asyncio.create_task(stack.registry.publish({"unknown": n})) for n in range(3)]
    await turns()
    gate.set()
    assert [kinds(reasons) for reasons in await asyncio.gather(*publishes)] == [{"unknown": NoShape}] * 3
    assert stack.started == ["unknown"]


# -- being idle


async def test_an_idle_consumer_hibernates_without_a_timer_and_still_takes_events(stack: Stack) -> None:
    await stack.registry.publish({"a": 1})
    one = stack.registry.whereis("a")
    assert one is not None
    hibernated = stack.registry.moments.next("hibernated")
    stack.time.go_on(30)
    assert (await hibernated, one.hibernating, stack.time.timers) == ("a", True, 0)
    assert await stack.registry.publish({"a": 2}) == {}
    assert (one.hibernating, stack.time.timers, stack.started) == (False, 1, ["a"])


async def test_one_that_hibernated_is_awake_while_it_handles_an_event(stack: Stack) -> None:
    await stack.registry.publish({"a": 1})
    stack.time.go_on(30)
    gate = asyncio.Event()
    publish = asyncio.create_task(stack.registry.publish({"a": gate.wait}))
    await turns()
    assert not stack.registry.whereis("a").hibernating  # type: ignore[union-attr]
    gate.set()
    assert await publish == {}


async def test_an_idle_consumer_suspends_if_that_is_enabled_and_leaves_neither_entry_nor_task(stack: Stack) -> None:
    stack.registry.suspend = True
    await stack.registry.publish({"a": 1})
    one = stack.registry.whereis("a")
    assert one is not None
    assert one.task is not None
    stack.time.go_on(30)
    assert stack.registry.whereis("a") is None
    assert one.suspended
    await one.task
    assert stack.time.timers == 0
    assert await stack.registry.publish({"a": 2}) == {}
    assert (stack.started, stack.removed) == (["a", "a"], [])


@pytest.mark.parametrize("suspend_when_idle", [False, True])
async def test_one_with_dependencies_hibernates_and_never_suspends(stack: Stack, suspend_when_idle: bool) -> None:
    stack.registry.suspend = suspend_when_idle
    one = stack.consumer("a", dependencies=["b"])
    stack.registry.register_consumer("a", one)
    stack.time.go_on(30)
    assert (one.hibernating, one.suspended) == (True, False)
    assert kinds(await stack.registry.publish({"a": suspend})) == {"a": Suspend}
    assert (stack.registry.whereis("a"), one.suspended) == (one, False)


async def test_an_event_puts_off_being_idle(stack: Stack) -> None:
    stack.registry.suspend = True
    for _ in range(5):
        await stack.registry.publish({"a": 1})
        stack.time.go_on(29.9)
    assert stack.started == ["a"]
    stack.time.go_on(0.2)
    assert stack.registry.whereis("a") is None


async def test_one_that_handles_an_event_is_not_idle(stack: Stack) -> None:
    stack.registry.suspend = True
    gate = asyncio.Event()
    publish = asyncio.create_task(stack.registry.publish({"a": gate.wait}))
    await turns()
    stack.time.go_on(1000)
    gate.set()
    assert await publish == {}
    stack.time.go_on(29.9)
    assert stack.started == ["a"]
    assert stack.registry.whereis("a") is not None


async def test_a_consumer_has_one_timer_however_many_events_it_handles(stack: Stack) -> None:
    for n in range(100):
        await stack.registry.publish({"a": n})
        stack.time.go_on(0.1)
    assert stack.time.timers == 1


async def test_an_idle_consumer_does_not_keep_its_last_event(stack: Stack) -> None:
    class Big:
        pass

    event = Big()
    kept = weakref.ref(event)
    await stack.registry.publish({"a": event})
    stack.handled.clear()
    del event
    assert kept() is None


# -- enable_suspend


async def test_enabling_wakes_the_living_each_for_a_random_time_and_counts_all_entries(stack: Stack) -> None:
    await stack.registry.publish({"a": 1, "b": 1, "dead": boom})
    stack.time.go_on(30)
    assert stack.registry.whereis("a").hibernating  # type: ignore[union-attr]
    stack.registry._rng = iter([0.0, 0.9]).__next__
    assert stack.registry.enable_suspend(10, 20) == 3
    assert stack.time.timers == 2
    stack.time.go_on(10)
    assert (stack.registry.whereis("a"), stack.registry.active_consumer_count()) == (None, 2)
    stack.time.go_on(8.9)
    assert stack.registry.active_consumer_count() == 2
    stack.time.go_on(0.2)
    assert stack.registry.active_consumer_count() == 1


async def test_the_random_times_lie_between_hibernate_after_and_the_jitter(stack: Stack) -> None:
    await stack.registry.publish(dict.fromkeys(range(200), 1))
    stack.registry.enable_suspend(10, 20)
    stack.time.go_on(9.99)
    assert stack.registry.active_consumer_count() == 200
    stack.time.go_on(5)
    assert 0 < stack.registry.active_consumer_count() < 200
    stack.time.go_on(5.01)
    assert stack.registry.active_consumer_count() == 0


async def test_the_random_time_is_used_once_and_then_hibernate_after_counts(stack: Stack) -> None:
    await stack.registry.publish({"a": 1})
    stack.registry._rng = lambda: 1.0
    stack.registry.enable_suspend(10, 1000)
    await stack.registry.publish({"a": 2})
    stack.time.go_on(9.9)
    assert stack.registry.active_consumer_count() == 1
    stack.time.go_on(0.2)
    assert stack.registry.active_consumer_count() == 0


async def test_consumers_started_later_suspend_after_the_new_time(stack: Stack) -> None:
    stack.registry.enable_suspend(5, 6)
    await stack.registry.publish({"a": 1})
    stack.time.go_on(5)
    assert stack.registry.whereis("a") is None


@pytest.mark.parametrize(("hibernate", "jitter"), [(10, 10), (10, 5), (0, 1), (-1, 1), (1, float("inf"))])
async def test_times_that_make_no_sense_are_refused(stack: Stack, hibernate: float, jitter: float) -> None:
    with pytest.raises(ConfigurationError):
        stack.registry.enable_suspend(hibernate, jitter)
    assert not stack.registry.suspend
    with pytest.raises(ConfigurationError):
        Stack(hibernate_after=min(hibernate, 0))


async def test_the_event_loop_is_the_clock_if_none_is_given() -> None:
    stack = Stack()
    async with ConsumerRegistry("s", stack.start, stack.remove, hibernate_after=0.001, suspend=True) as registry:
        suspended = registry.moments.next("suspended")
        await registry.publish({"a": 1})
        assert await suspended == "a"


# -- closing


async def test_closing_ends_every_consumer_and_tells_who_waits(stack: Stack) -> None:
    publish = asyncio.create_task(stack.registry.publish({"a": asyncio.Event().wait, "b": 1}))
    await turns()
    await stack.registry.close()
    assert kinds(await publish) == {"a": NoProc}
    assert (stack.registry.active_consumer_count(), stack.removed) == (0, [])


async def test_closing_ends_the_starts_under_way_and_tells_who_waits(stack: Stack) -> None:
    stack.starting = asyncio.Event().wait
    publish = asyncio.create_task(stack.registry.publish({"a": 1}))
    await turns()
    await stack.registry.close()
    assert kinds(await publish) == {"a": NoProc}


async def test_closing_before_anything_ran_leaves_nobody_waiting(stack: Stack) -> None:
    one = stack.consumer("a")
    stack.registry.register_consumer("a", one)
    calls = asyncio.create_task(stack.registry.broadcast([("a", 1, one)]))
    await stack.registry.close()
    assert kinds((await calls)[1]) == {"a": NoProc}


async def test_closing_ends_a_removal_under_way(stack: Stack) -> None:
    stack.removing = asyncio.Event().wait
    await stack.registry.publish({"a": boom})
    await stack.registry.close()
    assert stack.removed == []


async def test_a_closed_registry_removes_nothing(stack: Stack) -> None:
    began = asyncio.Event()

    async def until_closed() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise Suspend from None

    steps = iter([suspend, until_closed])
    publish = asyncio.create_task(stack.registry.publish({"a": lambda: next(steps)()}))
    await began.wait()
    await stack.registry.close()
    await publish
    assert stack.removed == []


async def test_a_closed_registry_delivers_and_starts_nothing(stack: Stack) -> None:
    await stack.registry.close()
    await stack.registry.close()
    assert kinds(await stack.registry.publish({"a": 1})) == {"a": NoProc}
    with pytest.raises(NoProc):
        stack.registry.register_consumer("a", stack.consumer("a"))
    assert stack.started == []


@pytest.mark.parametrize("after", range(12))
async def test_closing_at_any_time_answers_every_publish(after: int) -> None:
    with nothing_left_behind():
        stack = Stack()
        stack.starting = partial(asyncio.sleep, 0)
        events: Events = {"a": partial(asyncio.sleep, 0), "b": suspend, "c": boom, "unknown": 1}
        publishes = [asyncio.create_task(stack.registry.publish(events)) for _ in range(3)]
        await turns(after)
        await stack.registry.close()
        for reasons in await asyncio.gather(*publishes):
            assert set(kinds(reasons).values()) <= {NoProc, NoShape, ShapeRemoved, Boom}


# -- cancelling


async def test_a_cancelled_publish_leaves_the_start_to_the_others(stack: Stack) -> None:
    gate = asyncio.Event()
    stack.starting = gate.wait
    first, second = (asyncio.create_task(stack.registry.publish({"a": n})) for n in range(2))
    await turns()
    first.cancel()
    await turns()
    gate.set()
    assert await second == {}
    assert (stack.started, stack.handled) == (["a"], [("a", 1)])


async def test_a_cancelled_publish_neither_stops_the_handler_nor_those_behind_it(stack: Stack) -> None:
    gate = asyncio.Event()
    first, second = (asyncio.create_task(stack.registry.publish({"a": event})) for event in (gate.wait, 2))
    await turns()
    first.cancel()
    await turns()
    gate.set()
    assert await second == {}
    assert not stack.registry.whereis("a").task.done()  # type: ignore[union-attr]


async def test_nobody_hears_of_a_crash_whose_publish_was_cancelled(stack: Stack) -> None:
    gate = asyncio.Event()

    async def crash() -> None:
        await gate.wait()
        raise Boom

    publish = asyncio.create_task(stack.registry.publish({"a": crash}))
    await turns()
    publish.cancel()
    crashed = stack.registry.moments.next("crashed")
    gate.set()
    assert await crashed == "a"


async def test_those_whose_publish_was_cancelled_before_their_event_need_no_answer(stack: Stack) -> None:
    gate = asyncio.Event()

    async def crash() -> None:
        await gate.wait()
        raise Boom

    first, second = (asyncio.create_task(stack.registry.publish({"a": event})) for event in (crash, 2))
    await turns()
    second.cancel()
    await turns()
    gate.set()
    assert kinds(await first) == {"a": Boom}


async def cancelled_at_random(seed: int, **options: Any) -> None:
    """Cancel some of many publishes anywhere; the others are answered as if nothing had happened."""
    rng = random.Random(seed)

    async def a_while() -> None:
        await turns(rng.randrange(4))

    with nothing_left_behind():
        stack = Stack(**options)
        stack.starting, stack.consumer_options = a_while, {"maxsize": rng.choice([1, 2, 1000])}
        async with stack.registry:
            publishes = []
            for _ in range(30):
                event = once(suspend) if rng.random() < 0.1 else partial(turns, rng.randrange(4))
                publishes.append(
                    asyncio.create_task(stack.registry.publish(dict.fromkeys(rng.sample("abcd", 2), event)))
                )
                await a_while()
            cancelled = rng.sample(publishes, 10)
            for publish in cancelled:
                publish.cancel()
                await a_while()
            answers = await asyncio.gather(*publishes, return_exceptions=True)
            left = [a for a, publish in zip(answers, publishes, strict=True) if publish not in cancelled]
            assert left == [{}] * 20
            live = [stack.registry.whereis(handle) for handle in "abcd"]
            names = {one.task.get_name() for one in live if one and one.task}
            await turns(20)  # starts whose publishes were cancelled end by themselves
            assert {t.get_name() for t in asyncio.all_tasks() if "stack" in t.get_name()} >= names


@pytest.mark.parametrize("seed", range(60))
async def test_publishes_cancelled_anywhere_leak_nothing_and_cost_others_nothing(seed: int) -> None:
    await cancelled_at_random(seed)


def test_a_start_that_dies_with_whom_was_cancelled_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    async def wait(tasks: Any) -> None:
        await asyncio.gather(*tasks, return_exceptions=True)

    monkeypatch.setattr("eventstore.registry.registry.asyncio.wait", wait)

    async def all_seeds() -> None:
        for seed in range(60):
            await cancelled_at_random(seed)

    with pytest.raises(AssertionError):
        asyncio.run(all_seeds())


async def test_a_task_left_behind_is_caught() -> None:
    with pytest.raises(AssertionError):
        with nothing_left_behind():
            left = asyncio.create_task(asyncio.Event().wait())
    left.cancel()


async def test_an_exception_nobody_retrieves_is_caught() -> None:
    with pytest.raises(AssertionError):
        with nothing_left_behind():
            asyncio.get_running_loop().create_future().set_exception(Boom())


# -- against a model

HANDLES = "ab"
STEPS = st.one_of(
    st.tuples(
        st.just("publish"), st.dictionaries(st.sampled_from(HANDLES), st.sampled_from(["ok", "boom", "once", "twice"]))
    ),
    st.tuples(st.sampled_from(["remove", "kill", "forgive"]), st.sampled_from(HANDLES)),
    st.tuples(st.just("idle"), st.none()),
)


class Model:
    """What a registry is: who lives, who is dead, what is unknown, and how often something was started."""

    def __init__(self) -> None:
        self.alive: dict[Hashable, bool] = {}
        self.unknown: set[Hashable] = {"unknown"}
        self.starts = 0

    def publish(self, handle: str, how: str) -> type[BaseException] | None:
        if handle not in self.alive:
            if not self._start(handle):
                return NoShape
        elif not self.alive[handle]:
            return NoProc
        if how == "ok":
            return None
        if how == "boom":
            self.alive[handle] = False
            self.unknown.add(handle)
            return Boom
        del self.alive[handle]
        if not self._start(handle):
            return NoShape
        if how == "once":
            return None
        del self.alive[handle]
        self.unknown.add(handle)
        return ShapeRemoved

    def _start(self, handle: str) -> bool:
        self.starts += 1
        if handle not in self.unknown:
            self.alive[handle] = True
        return handle in self.alive

    def do(self, step: str, handle: str) -> None:
        if step == "remove":
            self.alive.pop(handle, None)
        elif step == "kill" and handle in self.alive:
            self.alive[handle] = False
        elif step == "forgive":
            self.unknown.discard(handle)
        elif step == "idle":
            self.alive = {handle: alive for handle, alive in self.alive.items() if not alive}


def do(stack: Stack, step: str, handle: str) -> None:
    if step == "remove":
        stack.registry.remove_consumer(handle)
    elif step == "kill" and (one := stack.registry.whereis(handle)) and one.task:
        one.task.cancel()
    elif step == "forgive":
        stack.unknown.discard(handle)
    elif step == "idle":
        stack.time.go_on(30)


async def compare(kind: type[ConsumerRegistry[Any]], steps: list[tuple[str, Any]]) -> None:
    stack, model = Stack(kind, suspend=True), Model()
    async with stack.registry:
        for step, what in steps:
            if step == "publish":
                events = {
                    h: {"ok": nothing, "boom": boom, "once": once(suspend), "twice": suspend}[how]
                    for h, how in what.items()
                }
                expected = {h: reason for h, how in what.items() if (reason := model.publish(h, how))}
                assert kinds(await stack.registry.publish(events)) == expected
            else:
                do(stack, step, what)
                model.do(step, what)
            await turns()
            found = {h: not one.task.done() for h in HANDLES if (one := stack.registry.whereis(h)) and one.task}
            assert found == model.alive
            assert stack.registry.active_consumer_count() == len(model.alive)
            assert (len(stack.started), stack.unknown) == (model.starts, model.unknown)


def check(kind: type[ConsumerRegistry[Any]]) -> None:
    @settings(max_examples=150, deadline=None, database=None, derandomize=True, report_multiple_bugs=False)
    @given(st.lists(STEPS, max_size=12))
    def same(steps: list[tuple[str, Any]]) -> None:
        asyncio.run(compare(kind, steps))

    same()


def test_a_registry_does_what_its_model_says() -> None:
    logging.disable(logging.ERROR)
    try:
        check(ConsumerRegistry)
    finally:
        logging.disable(logging.NOTSET)


class RestartsTheDoomed(ConsumerRegistry[Any]):
    def _ended(self, consumer: Consumer, task: asyncio.Task[None]) -> None:
        super()._ended(consumer, task)
        if self._entries.get(consumer.handle) is consumer:
            del self._entries[consumer.handle]


class NeverRetries(ConsumerRegistry[Any]):
    async def publish(self, events: Any) -> dict[Any, BaseException]:
        consumers, refused = await self._resolve(events)
        suspended, crashed = await self.broadcast([(h, events[h], one) for h, one in consumers.items()])
        return refused | crashed | {handle: ShapeRemoved(handle) for handle in suspended}


class ForgetsToRemove(ConsumerRegistry[Any]):
    async def _remove(self, handles: list[Any]) -> None:
        pass


class CountsTheLiving(ConsumerRegistry[Any]):
    def active_consumer_count(self) -> int:
        return sum(not one.task.done() for one in self._entries.values() if one.task)


class KeepsTheIdle(ConsumerRegistry[Any]):
    def _idle(self, consumer: Consumer) -> None:
        consumer.hibernating = True


@pytest.mark.parametrize("planted", [RestartsTheDoomed, NeverRetries, ForgetsToRemove, CountsTheLiving, KeepsTheIdle])
def test_a_registry_with_a_bug_differs_from_the_model(planted: type[ConsumerRegistry[Any]]) -> None:
    with pytest.raises(AssertionError):
        check(planted)


# -- direct consumers


async def test_a_direct_consumer_is_called_at_once_and_has_no_task() -> None:
    handled: list[Any] = []
    async with ConsumerRegistry("direct", lambda handle: DirectConsumer(handled.append), removed) as registry:
        before = len(asyncio.all_tasks())
        publishing = registry.publish({"a": 1, "b": 2})
        with pytest.raises(StopIteration):
            publishing.send(None)  # nothing is waited for
        assert (handled, len(asyncio.all_tasks())) == ([1, 2], before)


async def test_a_direct_consumer_crashes_as_any_other() -> None:
    def refuse(event: Any) -> None:
        raise Boom

    async with ConsumerRegistry("direct", lambda handle: DirectConsumer(refuse), removed) as registry:
        gone = registry.moments.next("removed")
        assert kinds(await registry.publish({"a": 1})) == {"a": Boom}
        assert await gone == ["a"]
        assert kinds(await registry.publish({"a": 1})) == {"a": NoProc}
        registry.remove_consumer("a")
        assert kinds(await registry.publish({"a": 1})) == {"a": Boom}


async def test_a_direct_consumer_that_suspends_is_started_again_once() -> None:
    calls: list[Any] = []

    def suspend_at_first(event: Any) -> None:
        calls.append(event)
        if len(calls) == 1:
            raise Suspend

    async with ConsumerRegistry("direct", lambda handle: DirectConsumer(suspend_at_first), removed) as registry:
        assert await registry.publish({"a": 1}) == {}
    assert calls == [1, 1]


async def test_an_idle_direct_consumer_suspends_and_comes_back_with_the_next_event() -> None:
    handled: list[Any] = []
    async with ConsumerRegistry(
        "direct", lambda handle: DirectConsumer(handled.append), removed, hibernate_after=0.01, suspend=True
    ) as registry:
        suspended = registry.moments.next("suspended")
        await registry.publish({"a": 1})
        assert await asyncio.wait_for(suspended, 60) == "a"
        assert registry.active_consumer_count() == 0
        assert await registry.publish({"a": 2}) == {}
    assert handled == [1, 2]


async def removed(handles: list[str]) -> None:
    return None
