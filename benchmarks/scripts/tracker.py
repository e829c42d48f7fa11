"""What a tracker costs: ``python -m benchmarks.scripts.tracker``; with ``profile``, where the time of calls goes."""

from __future__ import annotations

import asyncio
import cProfile
import gc
import pstats
import sys
import tracemalloc
from contextlib import AsyncExitStack
from time import perf_counter
from typing import Any

from benchmarks.scripts.tracker_state import joining, merging, seconds
from eventstore.pubsub import Local, LocalHub, PubSub
from eventstore.tracker.clocks import Replica
from eventstore.tracker.owners import Owner
from eventstore.tracker.protocol import Options, Outgoing, Protocol
from eventstore.tracker.tracker import Tracker

PERIOD = 0.5


class Handler:
    async def handle_diff(self, diff: Any, state: Any) -> Any:
        return state


class Nodes:
    """Trackers on one hub, and what they said: (seconds, node, message)."""

    def __init__(self, stack: AsyncExitStack, **options: Any) -> None:
        self.hub, self.stack, self.options = LocalHub(), stack, options
        self.said: list[tuple[float, str, Any]] = []

    async def open(self, name: str) -> Tracker:
        pubsub = await self.stack.enter_async_context(PubSub("bench", Local(self.hub, node_name=name)))
        tracker = await self.stack.enter_async_context(Tracker(Handler(), "bench", pubsub, **self.options))
        for shard in tracker._shards:
            send = shard._send

            async def spy(outgoing: Outgoing, send: Any = send) -> None:
                self.said.append((perf_counter(), name, outgoing.message))
                await send(outgoing)

            shard._send = spy  # type: ignore[method-assign]
        return tracker


async def operations(callers: int = 100, pairs: int = 500) -> float:
    """Tracks and untracks a second on one node."""
    async with PubSub("bench", Local()) as pubsub, Tracker(Handler(), "bench", pubsub) as tracker:

        async def call(number: int) -> None:
            async with Owner(str(number)) as owner:
                for n in range(pairs):
                    key = f"user:{number}:{n}"
                    await tracker.track(owner, "room", key, {"n": n})
                    await tracker.untrack(owner, "room", key)

        gc.collect()
        start = perf_counter()
        await asyncio.gather(*map(call, range(callers)))
        return 2 * callers * pairs / (perf_counter() - start)


async def cold_join(presences: int = 10_000) -> tuple[float, float, float]:
    """Periods from the first request until a cold joiner lists all, periods since it began, and megabytes a node."""
    traced = tracemalloc.is_tracing()
    async with AsyncExitStack() as stack:
        owners = [Owner(str(n)) for n in range(100)]
        nodes = Nodes(stack, broadcast_period=PERIOD)
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        trackers = [await nodes.open(name) for name in "abc"]
        for n in range(presences):
            await trackers[n % 3].track(owners[n % 100], "room", f"user:{n}", {"name": f"user {n}"})
        await until(lambda: all(len(one._state("room").get_by_topic("room")) == presences for one in trackers))
        gc.collect()
        used = (tracemalloc.get_traced_memory()[0] - before) / 3 / 1e6 if traced else 0.0
        nodes.said.clear()
        began = perf_counter()
        joiner = await nodes.open("d")
        await until(lambda: len(joiner._state("room")._listing._keys) == presences)
        end = perf_counter()
        asked = next(at for at, name, message in nodes.said if name == "d" and message[0] == "transfer_req")
        return (end - asked) / PERIOD, (end - began) / PERIOD, used


async def until(condition: Any) -> None:
    """Return when *condition()* holds."""
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


async def quiet(periods: int = 60, period: float = 0.1) -> dict[str, int]:
    """What three nodes say while nothing changes, by kind."""
    async with AsyncExitStack() as stack:
        nodes = Nodes(stack, broadcast_period=period)
        for name in "abc":
            await nodes.open(name)
        await asyncio.sleep(period * 5)
        nodes.said.clear()
        await asyncio.sleep(period * periods)
        kinds = [message[0] for _, _, message in nodes.said]
        return {kind: kinds.count(kind) for kind in kinds}


def receiving(total: int, entries: int = 1000, runs: int = 9) -> float:
    """Seconds to take in a delta message of *entries* joins, generations and all; the best of *runs*."""
    here, there = (Protocol(Replica(name, "1"), Options()) for name in "ab")
    for n in range(total):
        here.state.join(f"a-{n % 100}", f"room:{n % 100}", f"user:{n}", {"phx_ref": f"{n:08x}"})
    for outgoing in here.tick(0).outgoing:
        there.receive(outgoing.message, 0)
    taken = []
    for run in range(runs):
        for n in range(entries):
            here.state.join(f"a-{n % 100}", f"room:{n % 100}", f"new:{run}:{n}", {"phx_ref": "x"})
        (outgoing,) = (one for one in here.tick(0).outgoing if one.node is None)
        taken.append(seconds(lambda heard=outgoing.message: there.receive(heard, 0)))  # type: ignore[misc]
    return min(taken)


def main() -> None:
    if sys.argv[1:] == ["profile"]:
        with cProfile.Profile() as profile:
            asyncio.run(operations(pairs=200))
        pstats.Stats(profile).sort_stats("tottime").print_stats(25)
        return
    rates = [asyncio.run(operations()) for _ in range(3)]
    print(f"track and untrack, 100 callers: {max(rates):,.0f} operations/s, best of 3 (at least 50,000)")
    transfer, joined, _ = asyncio.run(cold_join())
    tracemalloc.start()
    _, _, used = asyncio.run(cold_join())
    tracemalloc.stop()
    print(f"10,000 presences on 3 nodes: a cold joiner lists all {transfer:.2f} periods after asking (at most 2),")
    print(f"  {joined:.2f} after it was opened (periods of {PERIOD} s); {used:.1f} MB a node (at most 50)")
    said = asyncio.run(quiet())
    print(f"3 nodes in 60 quiet periods say {said} (heartbeats: 18, one in 10 periods each)")
    for name, measure in (
        ("merge of 1,000 joins", joining),
        ("merge of 500 joins and 500 leaves", merging),
        ("a message of 1,000 joins taken in", receiving),
    ):
        few, many = measure(10_000) * 1000, measure(100_000) * 1000
        print(f"{name}: {many:.2f} ms into 100,000 (at most 10), {many / few:.2f} of 10,000 (at most 2)")


if __name__ == "__main__":
    main()
