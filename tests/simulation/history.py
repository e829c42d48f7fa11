"""One history: a seed decides the nodes, what they run, and what goes wrong; then all is well, and has to end well."""

from __future__ import annotations

import gc
import hashlib
import json
import logging
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from eventstore.errors import EventStoreError
from eventstore.settings import Settings
from eventstore.subscriptions.policy import FailurePolicy
from tests.simulation.log import Append, Log
from tests.simulation.node import Handling, Node, Wanted
from tests.simulation.operating import FakeLedger
from tests.simulation.server import Faults, Server
from tests.simulation.tables import Locked
from tests.simulation.timeline import Stuck, Timeline
from tests.simulation.watch import Faulty, Watch, short

__all__ = ["Simulation", "run"]

TTL = 1.5
CHAOS = 4.0
"""Seconds in which everything happens."""
WITHIN = 40.0
"""Seconds within which everything is handled once nothing goes wrong any more."""
HALTING = {"ValueError", "TimeoutError", "TransactionTimedOut", "EventStoreError"}
"""Errors that a handler, or what it did to its connection, halts a partition with; any other is the engine's."""
START = 946_684_800_000_000
"""The database's time at the start: the year 2030, in microseconds since 2000."""


class Simulation:
    """The whole of it.

    Args:
        kind: the ledger, or one with a bug planted.
        trace: keep a line for everything that happens.
    """

    def __init__(self, seed: int, kind: type[FakeLedger] = FakeLedger, *, trace: bool = False) -> None:
        self.seed, self.chance = seed, random.Random(seed)
        self.trace: list[str] | None = [] if trace else None
        chance = self.chance
        self.timeline = Timeline(chance)
        self.log = Log()
        self.ledger = kind(self.log, lambda: START + int(self.timeline.now * 1e6))
        self.faults = Faults(chance)
        self.server = Server(self.timeline, self.ledger, self.faults, TTL)
        self.watch = Watch(self.ledger)
        self.server.before, self.server.after = self.watch.before, self._called
        self.server.folded = self.watch.folded
        self.ledger.changed = lambda: self._signal("change")
        self.handling = Handling(chance, self._told)
        self.calm = self.done = False
        self.nodes: dict[str, Node] = {}
        self.past: list[Node] = []
        self.lost_signals = chance.choice([0.0, 0.0, 0.3, 1.0])
        self.settings = Settings(
            lease_ttl=TTL, poll_interval=1.0, claim_interval=0.3, settle_interval=chance.choice([0.02, 0.2]),
            window=chance.choice([3, 10, 100]), page_size=chance.choice([2, 5, 50]),
            scan_window=chance.choice([10, 1000]), hibernate_after=chance.choice([0.5, 30.0]),
            health_check_interval=5.0, drain_grace=chance.choice([0.3, 3.0]), listen=chance.random() < 0.8,
        )  # fmt: skip
        self.streams = [f"stream-{n}" for n in range(chance.randint(2, 6))]
        self.wanted = [self._subscription(n) for n in range(chance.choice([1, 1, 2]))]
        if chance.random() < 0.3:
            self.ledger.contended = lambda _: not self.calm and chance.random() < 0.1

    def _subscription(self, number: int) -> Wanted:
        chance = self.chance
        kind = chance.choice(["single", "single", "batch", "manual", "projection"])
        then = chance.choice(["park_key", "park_key", "park_event", "skip", "halt"])
        if kind == "projection":
            then = chance.choice(["park_key", "halt"])
        policy = FailurePolicy(
            attempts=chance.choice([1, 2, 3]), delay=0.05, delay_max=0.5, timeout=chance.choice([0.5, 1.0]), then=then
        )
        return Wanted(f"{kind}-{number}", kind, chance.randint(1, 4), policy)

    # -- what is said

    def note(self, *what: Any) -> None:
        if self.trace is not None:
            self.trace.append(f"{self.timeline.now:9.4f} {' '.join(map(str, what))}")

    def hash(self) -> str:
        """A hash of the trace."""
        return hashlib.sha256("\n".join(self.trace or ()).encode()).hexdigest()

    def _called(self, function: str, args: tuple[Any, ...], result: Any) -> None:
        if self.trace is not None and function != "read_events_v1":
            self.note(function, *args, "->", [tuple(row) for row in result] if type(result) is list else repr(result))
        self.watch.after(function, args, result)

    def _told(self, kind: str, *about: Any) -> None:
        try:
            self._take_note(kind, *about)
        except Faulty as error:
            self.timeline.broken = self.timeline.broken or error

    def _take_note(self, kind: str, *about: Any) -> None:
        if self.trace is not None and kind not in ("begin", "handled", "failed"):
            self.note(kind, *about)
        if kind == "partition_halted" and about[1]["error"] not in HALTING:
            raise Faulty(f"a partition was halted: {about}")
        if kind == "emitter_crashed":
            raise Faulty(f"an emitter crashed: {about}")
        if kind == "complaint":
            raise Faulty(*about)
        if kind in ("begin", "handled", "failed"):
            self._delivered(kind, *about)

    def _delivered(self, kind: str, node: Node, delivery: Any, events: list[Any]) -> None:
        where = delivery.subscription, delivery.partition, delivery.epoch
        if self.trace is not None:
            self.note(kind, node.name, *where, f"attempt {delivery.attempt}:", *map(short, events))
        if kind == "begin":
            self.watch.begun(*where, events, node.honest)
        for event in events:
            if kind == "handled":
                self.watch.handled(*where, event)
            elif kind == "failed":
                self.watch.failed(*where, event)

    # -- the course of it

    def run(self) -> None:
        """All of it (`Faulty`)."""
        self._prepare()
        self._later(0.3, self._happen)
        self.timeline.run(CHAOS)
        self._all_is_well()
        if not self.timeline.run(WITHIN, lambda: self.done):
            raise Faulty(f"not done {WITHIN:g} s after all was well: {self.left()}")
        self._check_end()

    def _prepare(self) -> None:
        for one in self.wanted:
            policy = {"policy": {"attempts": one.policy.attempts, "delay": 0.05, "delay_max": 0.5,
                                 "timeout": one.policy.timeout, "then": one.policy.then}}  # fmt: skip
            definition = one.name, '{"kind": "all"}', "0", json.dumps(policy), one.pool_size
            self.server.call("create_subscription_v1", definition)
            self.watch.subscription(one.name, one.policy.then == "park_key")
        for number in range(self.chance.randint(1, 3)):
            self._start(f"node-{number}")
        chance, faults = self.chance, self.faults
        faults.refused, faults.unknown = chance.choice([(0.0, 0.0), (0.01, 0.01), (0.05, 0.05)])
        faults.slow, faults.slowest = chance.choice([(0.0, 0.0), (0.1, 0.3), (0.05, 2 * TTL)])
        faults.wait = chance.choice([0.0, 0.1, TTL])
        handling = self.handling
        handling.fails, handling.hangs = chance.choice([(0.0, 0.0), (0.05, 0.0), (0.1, 0.02)])
        handling.slowest = chance.choice([0.01, 0.1, 0.5])
        handling.failing = {one for one in self.streams if chance.random() < 0.15}
        for _ in range(chance.choice([0, 10])):
            self._append()

    def _later(self, seconds: float, what: Callable[[], None]) -> None:
        self.timeline.after(seconds, what)

    def _happen(self) -> None:
        if self.calm:
            return
        self._later(self.chance.expovariate(12.0), self._happen)
        whats = [
            self._append, self._crash, self._freeze, self._jump, self._drain, self._crash_server, self._resize,
            self._pause, self._rewind, self._replay, self._discard, self._join, self._lose_connections,
        ]  # fmt: skip
        (what,) = self.chance.choices(whats, [40, 3, 4, 2, 2, 2, 4, 2, 1.5, 3, 1, 2, 1])
        what()

    # -- nodes

    def _start(self, name: str) -> None:
        if name in self.nodes or (self.calm and self.nodes):
            return
        chance = self.chance
        ahead = chance.choice([0.0, chance.uniform(0, 7200)])
        rate = chance.choice([1.0, 1.0, 1.0, 0.9, 1.1])
        node = Node(
            name, self.timeline, self.server, self.settings, self.wanted, self.handling, self._told, ahead, rate
        )
        self.note("start", name, ahead, rate)
        self.nodes[name] = node
        self.past.append(node)
        node.start()

    def _any_node(self) -> Node | None:
        awake = [one for one in self.nodes.values() if not one.loop.frozen]
        return self.chance.choice(awake) if awake else None

    def _join(self) -> None:
        for number in range(4):
            if f"node-{number}" not in self.nodes:
                return self._start(f"node-{number}")
        return None

    def _crash(self) -> None:
        if (node := self._any_node()) is not None:
            self.note("crash", node.name)
            node.crash()
            del self.nodes[node.name]
            self._later(self.chance.uniform(0, 2 * TTL), lambda: self._start(node.name))

    def _freeze(self) -> None:
        if (node := self._any_node()) is not None:
            seconds = self.chance.choice([0.3, 1.0, 3.0]) * TTL * self.chance.uniform(0.5, 1.2)
            unnoticed = self.chance.choice([0.0, seconds])
            self.note("freeze", node.name, seconds, "unnoticed" if unnoticed else "")
            node.honest = False
            node.loop.freeze()
            self._later(seconds, lambda: self._thaw(node, unnoticed))

    def _thaw(self, node: Node, unnoticed: float) -> None:
        if node.loop.frozen and not node.loop.dropped:
            self.note("thaw", node.name)
            node.loop.thaw(unnoticed)

    def _jump(self) -> None:
        if (node := self._any_node()) is not None:
            seconds = self.chance.choice([-3600.0, -2 * TTL, -0.5, 0.5, 2 * TTL, 3600.0])
            self.note("jump", node.name, seconds)
            node.honest = False
            node.loop.jump(max(seconds, -2 * TTL))

    def _drain(self) -> None:
        if (node := self._any_node()) is not None:
            self.note("drain", node.name)
            node.drain()
            del self.nodes[node.name]
            self._later(self.chance.uniform(0, TTL), lambda: self._start(node.name))

    def _lose_connections(self) -> None:
        if (node := self._any_node()) is not None:
            self.note("lose connections", node.name)
            node.lose_connections()

    def _crash_server(self) -> None:
        """Crash it soon after an append was rolled back: nobody ever hears of its positions, which are drawn again."""
        if (append := self.log.begin(self.chance.choice(self.streams), 3)) is not None:
            self._roll_back(append)
        self._later(self.chance.choice([0.0, 0.05, 1.0]) * self.chance.random(), self._server_crashed)

    def _server_crashed(self) -> None:
        self.note("server crash", self.log.last_value, "->", self.log.flushed)
        self.server.crash()
        for node in [*self.nodes.values(), *self.past]:
            if not node.loop.dropped:
                node.lose_connections()

    def _signal(self, what: str) -> None:
        for node in self.nodes.values():
            if self.chance.random() >= (0.0 if self.calm else self.lost_signals):
                hear = partial(node.loop.call_soon, getattr(node.signals, what))
                self._later(0.001 + 0.002 * self.chance.random(), hear)

    # -- the log

    def _append(self) -> None:
        append = self.log.begin(self.chance.choice(self.streams), self.chance.choice([1, 1, 2, 4]))
        if append is not None:
            self.note("append", append.stream, append.first, append.count)
            ending = self._roll_back if self.chance.random() < 0.1 else self._commit
            self._later(self.chance.choice([0.0, 0.01, 0.3]) * self.chance.random(), lambda: ending(append))

    def _roll_back(self, append: Append) -> None:
        self.note("roll back", append.first)
        self.log.roll_back(append)

    def _commit(self, append: Append) -> None:
        made = self.log.commit(append, self.ledger.clock())
        self.note("commit", *map(short, made))
        self.watch.appended(made)
        if made:
            self._signal("wake")

    # -- operators

    def _operate(self, function: str, *args: Any) -> None:
        """Call a function as an operator does; one that would wait for a lock is given up."""
        try:
            self.server.call(function, args)
        except Locked:
            self.note(function, "had to wait")
        except EventStoreError as error:
            self.note(function, error)

    def _any_name(self) -> str:
        return self.chance.choice(self.wanted).name

    def _resize(self) -> None:
        self._operate("resize_subscription_v1", self._any_name(), self.chance.randint(1, 6))

    def _pause(self) -> None:
        name = self._any_name()
        self._operate("pause_subscription_v1", name)
        self._later(self.chance.uniform(0, 2), lambda: self._operate("resume_subscription_v1", name))

    def _rewind(self) -> None:
        name = self._any_name()
        if not name.startswith("projection"):
            self._operate("rewind_subscription_v1", name, str(self.chance.randint(0, self.log.flushed)))

    def _replay(self) -> None:
        self._operate("replay_parked_v1", self._any_name(), None, self.chance.choice([None, *self.streams]))

    def _discard(self) -> None:
        name = self._any_name()
        if not name.startswith("projection"):
            self._operate("discard_parked_v1", name, None, self.chance.choice(self.streams))

    # -- the end

    def _all_is_well(self) -> None:
        self.note("all is well")
        faults, handling = self.faults, self.handling
        faults.refused = faults.unknown = faults.slow = faults.wait = 0.0
        handling.failing, handling.fails, handling.hangs, handling.slowest = set(), 0.0, 0.0, 0.01
        for append in self.log.under_way[:]:
            self._commit(append)
        for node in self.past:
            self._thaw(node, 0.0)
        if not self.nodes:
            self._start("node-0")
        self.calm = True
        self._tend()
        self._look()

    def _tend(self) -> None:
        """What an operator does whose handlers are mended."""
        for one in self.wanted:
            row = self.ledger.find_subscription_v1(one.name)
            if row.state == "paused" or any(each.halted for _, each in self.ledger.partitions(row.id)):
                self._operate("resume_subscription_v1", one.name)
            if any(each.state == "parked" and not each.replay for _, each in self.ledger.rows_of(row.id)):
                self._operate("replay_parked_v1", one.name, None, None)
        self._later(0.5, self._tend)

    def _look(self) -> None:
        self.done = self._is_done()
        self._later(0.05, self._look)

    def left(self) -> list[str]:
        """What is not as it has to be in the end."""
        ledger, said = self.ledger, []
        for one in self.wanted:
            row = ledger.find_subscription_v1(one.name)
            for number, each in ledger.partitions(row.id)[: row.pool_size]:
                goal = self._goal(row.pool_size, number)
                if each.owner is None or each.position < goal:
                    said.append(f"{one.name}/{number} stands at {each.position} of {goal}, owner {each.owner}")
            if any(each.state == "parked" for _, each in ledger.rows_of(row.id)):
                said.append(f"{one.name} has parked events")
            if row.resize_to is not None:
                said.append(f"{one.name} is not resized")
        return said

    def _goal(self, size: int, number: int) -> int:
        """How far a checkpoint has to come; to the head takes seconds in which nothing else happens, so not always."""
        positions, events = self.log.positions, self.log.events
        if not self.seed % 8:
            return positions[-1] if positions else 0
        return next((one for one in reversed(positions) if events[one].bucket % size == number), 0)

    def _is_done(self) -> bool:
        ledger = self.ledger
        for (subscription, number), each in ledger.checkpoints.items():
            size = ledger.subscriptions[subscription].pool_size
            if number < size and (each.owner is None or each.position < self._goal(size, number)):
                return False
        return not any(each.state == "parked" for each in ledger.parked.values()) and all(
            row.resize_to is None for row in ledger.subscriptions.values()
        )

    def _check_end(self) -> None:
        for one in self.wanted:
            if unhandled := self.watch.unhandled(one.name):
                raise Faulty(f"{one.name} lost {[short(event) for event in unhandled]}")

    def forget(self) -> None:
        """Let everything go."""
        for node in self.past:
            node.loop.forget()


def run(
    seed: int, kind: type[FakeLedger] = FakeLedger, *, trace: bool = False, lines: list[str] | None = None
) -> Simulation:
    """Play one history; what is wrong with it names the seed (`Faulty`).

    Args:
        lines: where to put the trace, for who wants it also of a history that ends badly.
    """
    with alone(seed) as complaints:
        simulation = Simulation(seed, kind, trace=trace)
        complaints.told = simulation._told
        if lines is not None:
            simulation.trace = lines
        try:
            simulation.run()
        except (Faulty, Stuck) as error:
            at = simulation.timeline.now
            raise Faulty(f"seed {seed}, after {at:.3f} s: {error}") from error
        finally:
            simulation.forget()
    return simulation


class Complaints(logging.Handler):
    """Hears of tasks that failed by an error nobody named: they are begun again, and hide a bug."""

    told: Callable[..., None] = staticmethod(lambda *_: None)

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1] is not None:
            self.told("complaint", f"{record.getMessage()}: {record.exc_info[1]!r}")


@contextmanager
def alone(seed: int) -> Iterator[Complaints]:
    """Leave nothing to chance: neither the generator that all share, nor the collector, nor what is logged."""
    state, collecting, disabled = random.getstate(), gc.isenabled(), logging.root.manager.disable
    random.seed(seed)
    gc.disable()
    logging.disable(logging.WARNING)
    service, package, complaints = (
        logging.getLogger("eventstore.service"),
        logging.getLogger("eventstore"),
        Complaints(),
    )
    service.addHandler(complaints)
    package.addHandler(silent := logging.NullHandler())
    propagate, package.propagate = package.propagate, False
    try:
        yield complaints
    finally:
        service.removeHandler(complaints)
        package.removeHandler(silent)
        package.propagate = propagate
        logging.disable(disabled)
        random.setstate(state)
        if collecting:
            gc.enable()


@contextmanager
def quietly() -> Iterator[None]:
    """Collect what crashed nodes left in the middle of something, which complains about it."""
    hook, disabled = sys.unraisablehook, logging.root.manager.disable
    sys.unraisablehook = lambda _: None
    logging.disable(logging.CRITICAL)
    try:
        yield
        gc.collect()
    finally:
        logging.disable(disabled)
        sys.unraisablehook = hook
