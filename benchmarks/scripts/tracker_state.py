"""What the tracker's set costs: ``python -m benchmarks.scripts.tracker_state``."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from time import perf_counter

from eventstore.tracker.clocks import Replica
from eventstore.tracker.deltas import Delta, Generations
from eventstore.tracker.state import State

A, B, C = Replica("a", "1"), Replica("b", "1"), Replica("c", "1")


def filled(replica: Replica, count: int, topics: int = 100) -> State:
    """A state with *count* presences of its own, 100 owners, and no delta."""
    state = State(replica)
    for n in range(count):
        state.join(f"{replica.node}-{n % 100}", f"room:{n % topics}", f"user:{n}", {"phx_ref": f"{n:08x}"})
    state.reset_delta()
    return state


def observer(count: int) -> tuple[State, State]:
    """A replica with *count* presences, and another that has seen them."""
    here, there = filled(A, count), State(B)
    there.replica_up(A)
    there.merge(here.extract(B, {A: 0}))
    return here, there


def seconds(work: Callable[[], object]) -> float:
    gc.collect()
    start = perf_counter()
    work()
    return perf_counter() - start


def operations(pairs: int = 100_000) -> float:
    """Joins and leaves a second; 100 owners."""
    state = State(A)

    def churn() -> None:
        for n in range(pairs):
            owner, key = f"owner-{n % 100}", f"user:{n}"
            state.join(owner, "room", key, {})
            state.leave(owner, "room", key)

    return 2 * pairs / seconds(churn)


def merging(total: int, entries: int = 1000, runs: int = 9) -> float:
    """Seconds to merge a delta of *entries* (half joins, half leaves) into *total* presences; the best of *runs*."""
    here, there = observer(total)
    taken = []
    for run in range(runs):
        for n in range(entries // 2):
            old = run * entries // 2 + n
            here.leave(f"a-{old % 100}", f"room:{old % 100}", f"user:{old}")
            here.join(f"a-{n % 100}", f"room:{n % 100}", f"new:{run}:{n}", {"phx_ref": "x"})
        delta = here.delta()
        here.reset_delta()
        taken.append(seconds(lambda delta=delta: there.merge(delta)))  # type: ignore[misc]
    return min(taken)


def joining(total: int, entries: int = 1000, runs: int = 9) -> float:
    """Seconds to merge a delta of *entries* joins into *total* presences; the best of *runs*."""
    here, there = observer(total)
    taken = []
    for run in range(runs):
        for n in range(entries):
            here.join(f"a-{n % 100}", f"room:{n % 100}", f"new:{run}:{n}", {"phx_ref": "x"})
        delta = here.delta()
        here.reset_delta()
        taken.append(seconds(lambda delta=delta: there.merge(delta)))  # type: ignore[misc]
    return min(taken)


def memory(count: int = 10_000) -> float:
    """Megabytes of one node that knows *count* presences on 3 replicas, as read from the wire."""
    others = [filled(replica, count // 3).extract(A, {replica: 0}).to_wire() for replica in (B, C)]
    gc.collect()
    tracemalloc.start()
    state = filled(A, count - 2 * (count // 3))
    for replica, wire in zip((B, C), others, strict=True):
        state.replica_up(replica)
        state.merge(Delta.from_wire(wire))
    gc.collect()
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return used / 1e6


def rest() -> dict[str, float]:
    """Milliseconds of what is neither frequent nor rare."""
    here, there = observer(100_000)
    whole = here.extract(B, {A: 0})
    crowd = filled(A, 10_000, topics=1)
    wire = crowd.extract(B, {A: 0}).to_wire()
    generations = Generations((100, 1000, 10_000)).push(filled(B, 9_000).extract(C, {B: 0}))
    small = filled(C, 100).extract(B, {C: 0})
    return {
        "whole state of 100,000 extracted": seconds(lambda: here.extract(B, {A: 0})) * 1000,
        "whole state of 100,000 merged, nothing new": seconds(lambda: there.merge(whole)) * 1000,
        "replica with 100,000 down": seconds(lambda: there.replica_down(A)) * 1000,
        "replica with 100,000 up": seconds(lambda: there.replica_up(A)) * 1000,
        "topic with 10,000 listed": seconds(lambda: crowd.get_by_topic("room:0")) * 1000,
        "10,000 from the wire": seconds(lambda: Delta.from_wire(wire)) * 1000,
        "100 pushed into generations with 9,000": seconds(lambda: generations.push(small)) * 1000,
    }


def main() -> None:
    print(f"join and leave: {operations():,.0f} operations/s (at least 50,000)")
    for name, measure in (("1,000 joins", joining), ("500 joins and 500 leaves", merging)):
        few, many = measure(10_000) * 1000, measure(100_000) * 1000
        print(f"merge of {name}: {many:.2f} ms into 100,000 (at most 10), {many / few:.2f} of 10,000 (at most 2)")
    used = memory()
    print(f"10,000 presences on 3 replicas: {used:.1f} MB a node (at most 50), {used * 100:.0f} bytes each")
    for name, milliseconds in rest().items():
        print(f"{name}: {milliseconds:.1f} ms")


if __name__ == "__main__":
    main()
