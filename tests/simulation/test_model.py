"""The fake ledger and the real one, called with the same things in any order, return the same and store the same."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid5

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from eventstore import All, SubscriptionExists
from eventstore.errors import EventStoreError
from eventstore.subscriptions.ledger import Ledger
from eventstore.subscriptions.model import Claim, Claimed, Failed, Parked, Renewal, Replayable, Subscription
from tests.faults.figures import note
from tests.hunt.racing import FULL, times
from tests.simulation.log import bucket_v1
from tests.simulation.operating import FakeLedger
from tests.simulation.stages import Fake, Real, Stage, opened

NAMES, STREAMS = ("s", "t"), ("a", "b", "c")
SPACE = UUID(int=7)

names, streams = st.sampled_from(NAMES), st.sampled_from(STREAMS)
numbers = st.integers(0, 50)
positions = st.integers(0, 8)


def told(result: Any) -> Any:
    """What both have to agree on: not times, nor ids that they draw themselves, nor an order nobody promises."""
    match result:
        case SubscriptionExists():
            return "SubscriptionExists", result.fields
        case EventStoreError():
            return type(result).__name__
        case Claimed():
            return sorted(result.claims, key=lambda one: one.key), result.missing > 0
        case Renewal():
            expiry = result.next_expiry
            return result.renewed, result.generation, expiry if expiry is None else expiry > 0
        case Subscription():
            return replace(result, key="", created_at=None, partitions=[told(one) for one in result.partitions])
        case Parked():
            return replace(result, first_failed_at=None, last_failed_at=None, recorded_at=None, id=None)
        case Replayable():
            return replace(result, event=result.event and (result.event.stream, result.event.version))
        case tuple():
            return tuple(map(told, result))
        case list():
            return sorted(map(told, result), key=repr)
        case set():
            return sorted(result)
    if hasattr(result, "lease_until"):
        halted = {**result.halted, "at": ""} if result.halted else None
        return replace(result, lease_until=result.lease_until is not None, halted=halted)
    return result


class Model(RuleBasedStateMachine):
    """Both, side by side; *done* counts histories and calls."""

    def __init__(self, fake: Fake, real: Real, run: Callable[[Awaitable[Any]], Any], done: Counter[str]) -> None:
        super().__init__()
        self.stages, self.run, self.done = (fake, real), run, done
        done["histories"] += 1
        self.nodes: list[UUID] = []
        self.claims: list[Claim] = []
        self.log: list[str] = []
        run(self._each(lambda stage: stage.clear()))

    async def _each(self, call: Callable[[Stage], Awaitable[Any]]) -> list[Any]:
        results = []
        for stage in self.stages:
            try:
                results.append(await call(stage))
            except EventStoreError as error:
                results.append(error)
        return results

    def both(self, call: Callable[[Ledger], Awaitable[Any]]) -> Any:
        """Ask both; returns what they agree on."""
        fake, real = self.run(self._each(lambda stage: call(stage.ledger)))
        assert told(fake) == told(real)
        self.done["calls_compared"] += 1
        return real

    def any_node(self, number: int) -> UUID:
        return self.nodes[number % len(self.nodes)]

    def any_claim(self, number: int) -> Claim:
        """One that was made at any time: old ones are to be refused."""
        return self.claims[-1 - number % len(self.claims)]

    @initialize(size=st.integers(1, 3))
    def begin(self, size: int) -> None:
        """Two nodes, of which one owns something, so that short histories come to something."""
        self.create("s", size, 0)
        for stream in ("a", "b", "a"):
            self.append(stream)
        self.register()
        self.register()
        self.claim(0, {"s"}, set(), 0)

    @invariant()
    def both_store_the_same(self) -> None:
        self.both(lambda ledger: ledger.list())

    # -- the log, and definitions

    @rule(stream=streams)
    def append(self, stream: str) -> None:
        fake, real = self.run(self._each(lambda stage: stage.append(stream)))
        assert fake == real == len(self.log) + 1
        self.log.append(stream)

    @rule(name=names, size=st.integers(1, 4), after=st.sampled_from([0, 1, "current"]))
    def create(self, name: str, size: int, after: Any) -> None:
        self.both(lambda ledger: ledger.create_if_new(name, All(), after=after, pool_size=size))

    @rule(name=names, chance=numbers)
    def delete(self, name: str, chance: int) -> None:
        if chance % 5 == 0:
            self.both(lambda ledger: ledger.delete(name))

    # -- nodes

    @rule()
    def register(self) -> None:
        node = uuid5(SPACE, str(len(self.nodes)))
        self.nodes.append(node)
        self.both(lambda ledger: ledger.register(node, "n", 3600.0))

    @precondition(lambda self: self.nodes)
    @rule(number=numbers)
    def renew(self, number: int) -> None:
        self.both(lambda ledger: ledger.renew(self.any_node(number), 3600.0))

    @precondition(lambda self: self.nodes)
    @rule(number=numbers, leave=st.booleans())
    def end(self, number: int, leave: bool) -> None:
        node = self.any_node(number)
        if leave:
            self.both(lambda ledger: ledger.leave(node))
        else:
            self.run(self._each(lambda stage: stage.expire(node)))

    @precondition(lambda self: self.nodes)
    @rule(number=numbers, handled=st.sets(names), offered=st.sets(names), held=st.integers(0, 3))
    def claim(self, number: int, handled: set[str], offered: set[str], held: int) -> None:
        node = self.any_node(number)
        mine = list(dict.fromkeys(one.key for one in self.claims if one.owner == node))
        # Mostly it holds all that it ever got; sometimes the reply to a claim was lost.
        keys = mine[:held] if held == 1 else mine
        claimed = self.both(lambda ledger: ledger.claim(node, sorted(handled), keys, sorted(offered)))
        if isinstance(claimed, Claimed):
            self.claims += sorted(claimed.claims, key=lambda one: one.key)

    @precondition(lambda self: self.nodes)
    @rule(number=numbers)
    def owned(self, number: int) -> None:
        self.both(lambda ledger: ledger.owned(self.any_node(number)))

    # -- owners

    @precondition(lambda self: self.claims)
    @rule(number=numbers, position=positions, release=st.booleans())
    def settle(self, number: int, position: int, release: bool) -> None:
        claim = self.any_claim(number)
        if release:
            self.both(lambda ledger: ledger.release(claim.owner, [(claim, position or None)]))
        else:
            self.both(lambda ledger: ledger.settle(claim.owner, [(claim, position)]))

    @precondition(lambda self: self.claims and self.log)
    @rule(number=numbers, position=st.none() | positions, chosen=st.sets(positions, max_size=3),
          done=st.sets(positions), state=st.sampled_from(["parked", "parked", "skipped"]),
          blocking=st.booleans(), replay=st.booleans(),
          attempts=st.lists(st.integers(0, 2), min_size=3, max_size=3))  # fmt: skip
    def settle_one(
        self, number: int, position: int | None, chosen: set[int], done: set[int], state: Any, blocking: bool,
        replay: bool, attempts: list[int],
    ) -> None:  # fmt: skip
        claim = self.any_claim(number)
        failed = [
            Failed(one, bucket_v1(stream), f"s:{stream}", state, blocking and state == "parked",
                   replay and state == "parked", many, *(("E", "m", "t") if many else (None, None, None)))
            for one, many in zip(sorted(chosen), attempts, strict=False)
            if 0 < one <= len(self.log) and (stream := self.log[one - 1])
        ]  # fmt: skip
        finished = sorted(done - chosen)
        self.both(lambda ledger: ledger.settle_one(claim, position, failed, finished))

    @precondition(lambda self: self.claims)
    @rule(number=numbers)
    def halt(self, number: int) -> None:
        claim, error = self.any_claim(number), ValueError("no")
        self.both(lambda ledger: ledger.halt(claim, error))

    @precondition(lambda self: self.claims)
    @rule(number=numbers, limit=st.integers(1, 3))
    def look(self, number: int, limit: int) -> None:
        claim = self.any_claim(number)
        self.both(lambda ledger: ledger.load_parked(claim))
        self.both(lambda ledger: ledger.replayable(claim, limit))
        self.both(lambda ledger: ledger.closed_keys(claim, [f"s:{one}" for one in STREAMS]))

    # -- operators

    @rule(name=names, pause=st.booleans())
    def pause(self, name: str, pause: bool) -> None:
        self.both(lambda ledger: ledger.pause(name) if pause else ledger.resume(name))

    @rule(name=names, position=positions, ack=st.booleans())
    def move(self, name: str, position: int, ack: bool) -> None:
        self.both(lambda ledger: ledger.ack(name, position) if ack else ledger.rewind(name, position))

    @rule(name=names, size=st.integers(1, 5))
    def resize(self, name: str, size: int) -> None:
        self.both(lambda ledger: ledger.resize(name, size))

    @rule(name=names, attempts=st.integers(1, 2))
    def update(self, name: str, attempts: int) -> None:
        self.both(lambda ledger: ledger.update(name, {"policy": {"attempts": attempts}}))

    @rule(name=names, key=st.none() | streams, position=st.none() | positions, replay=st.booleans())
    def choose(self, name: str, key: str | None, position: int | None, replay: bool) -> None:
        chosen: Any = {"position": position} if key is None else {"key": key}
        self.both(lambda ledger: (ledger.replay_parked if replay else ledger.discard_parked)(name, **chosen))

    @rule(name=names, state=st.sampled_from([None, "parked", "discarded"]), limit=st.none() | st.integers(1, 2))
    def parked(self, name: str, state: Any, limit: int | None) -> None:
        self.both(lambda ledger: ledger.parked(name, state=state, limit=limit))


def compare(db: str, fake: Fake, examples: int, steps: int) -> Counter[str]:
    """Compare *fake* with Postgres in so many histories of at most so many steps; returns what was compared."""
    done: Counter[str] = Counter()
    with asyncio.Runner() as runner:
        closing = AsyncExitStack()
        real = runner.run(closing.enter_async_context(opened(db)))
        try:
            run_state_machine_as_test(
                lambda: Model(fake, real, runner.run, done),
                settings=settings(
                    max_examples=examples, stateful_step_count=steps, deadline=None, database=None,
                    derandomize=examples < 500, phases=list(Phase) if FULL else [Phase.generate],
                    suppress_health_check=list(HealthCheck),
                ),
            )  # fmt: skip
        finally:
            runner.run(closing.aclose())
    return done


@pytest.mark.hunt
def test_the_fake_does_what_the_real_ledger_does(db: str) -> None:
    steps = times(30, 50)
    note(steps=steps, **compare(db, Fake(), times(12, 500), steps))


class Forgetful(FakeLedger):
    """Tells nobody of a resize that has to wait."""

    def resize_subscription_v1(self, name: str, size: int) -> list[Any]:
        before = self.find_subscription_v1(name).resize_to
        result = super().resize_subscription_v1(name, size)
        self.find_subscription_v1(name).resize_to = before
        return result


def test_a_difference_between_them_is_found(db: str) -> None:
    fake = Fake()
    fake._kind = Forgetful
    with pytest.raises(AssertionError):
        compare(db, fake, 30, 30)
