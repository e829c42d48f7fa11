"""Everything goes wrong for as long as wanted, by one seed, and every process's journal is checked in the end."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from tests.faults.campaign import LOST, Campaign, Scale, beside, campaign
from tests.faults.nemeses import NEMESES
from tests.faults.resources import Measure, Sampler
from tests.faults.server import server, template
from tests.hunt.journal import Entry

__all__ = ["Fault", "Recovery", "Result", "soak", "strike"]

PAUSE = (0.5, 4.0)
"""Seconds between one round of faults and the next."""

TOLD = 5
"""Anomalies of a kind that are told in full."""


@dataclass
class Fault:
    """What one nemesis did.

    Attributes:
        failed: times that it could not begin, the server being away.
    """

    times: int = 0
    seconds: float = 0.0
    failed: int = 0


@dataclass(frozen=True)
class Recovery:
    """Seconds from the end of faults until something was appended, and everything delivered, again."""

    times: int
    median: float
    most: float


@dataclass
class Result:
    """What came out of a soak.

    Attributes:
        anomalies: by name, the first few of each; empty if all is well.
        counts: how many there were of each.
        faults: by nemesis.
        events: by outcome, ``ok``, ``fail`` and ``unknown``, and how many are ``stored`` in the end.
        deliveries: by subscription.
        repeats: deliveries of what had been delivered before, by subscription.
        read: events that readers got.
        written_again, delivered_again: by the nemesis that came last.
        resources: by process and measure; see `tests.faults.resources`.
    """

    seed: int
    seconds: float = 0.0
    anomalies: dict[str, list[str]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    faults: dict[str, Fault] = field(default_factory=dict)
    events: dict[str, int] = field(default_factory=dict)
    deliveries: dict[str, int] = field(default_factory=dict)
    repeats: dict[str, int] = field(default_factory=dict)
    read: int = 0
    written_again: dict[str, Recovery] = field(default_factory=dict)
    delivered_again: dict[str, Recovery] = field(default_factory=dict)
    resources: dict[str, dict[str, Measure]] = field(default_factory=dict)


def rounds(rng: random.Random, names: Sequence[str]) -> Iterator[list[str]]:
    """Which faults come together: first each one once, then one or two at random."""
    yield from ([name] for name in rng.sample(names, len(names)))
    while True:
        yield rng.sample(names, min(len(names), rng.choice((1, 1, 2))))


class Strikes:
    """Faults that come and go, and what followed."""

    def __init__(self, field: Campaign, say: Callable[[str], None]) -> None:
        self._field, self._say = field, say
        self.faults: defaultdict[str, Fault] = defaultdict(Fault)
        self.recoveries: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)

    async def round(self, names: Iterable[str]) -> None:
        """Let faults come at once, heal them all, and wait until everything goes on."""
        told = await asyncio.gather(*(self._strike(name) for name in names))
        wrote, delivered = await self._field.goes_on()
        for name in names:
            self.recoveries[name].append((wrote, delivered))
        self._field.look_for_the_dead()
        self._say(f"{'; '.join(told)}; written again after {wrote:.1f} s, delivered after {delivered:.1f} s")

    async def _strike(self, name: str) -> str:
        nemesis, fault, began = NEMESES[name](), self.faults[name], time.monotonic()
        try:
            what = await nemesis.start(self._field)
        except (*LOST, TimeoutError, IndexError) as error:  # no server, or nobody to hit
            fault.failed += 1
            return f"{name}: not now ({type(error).__name__})"
        try:
            await asyncio.sleep(self._field.rng.uniform(*nemesis.lasts))
        finally:
            await nemesis.heal(self._field)
        took = time.monotonic() - began
        fault.times += 1
        fault.seconds += took
        return f"{name} ({what}) for {took:.1f} s"


async def strike(field: Campaign, names: Iterable[str], say: Callable[[str], None] = print) -> Strikes:
    """Let faults come one after the other."""
    strikes = Strikes(field, say)
    for name in names:
        await strikes.round([name])
    return strikes


async def soak(
    minutes: float, seed: int, directory: Path, only: Sequence[str] | None = None, scale: Scale | None = None
) -> Result:
    """Run for so long, then check; tell each round of faults on stdout.

    Args:
        directory: for journals and what processes complain about.
        only: names of `NEMESES`; all of them otherwise.

    Raises:
        KeyError: there is no such nemesis.
    """
    names = [name for name in NEMESES if name in only] if only else list(NEMESES)
    if unknown := set(only or ()) - set(names):
        raise KeyError(f"no nemesis {', '.join(sorted(unknown))}; there are {', '.join(NEMESES)}")
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - began:7.1f} s  {text}", flush=True)

    result = Result(seed)
    with ExitStack() as stack:
        running = await asyncio.to_thread(lambda: stack.enter_context(server(stack.enter_context(template()))))
        async with campaign(running, directory, seed, scale) as field:
            await _through(field, began + 60 * minutes, names, result, say)
            say("everything is healed")
            await field.come_to_rest()
            say("checking")
            found, history = await field.checked()
    tell(result, found, history)
    result.seconds = round(time.monotonic() - began, 1)
    summarize(result, say)
    return result


async def _through(
    field: Campaign, until: float, names: Sequence[str], result: Result, say: Callable[[str], None]
) -> None:
    await field.start_all()
    say(f"seed {result.seed}; {len(field.workers)} processes work, their journals are in {field.directory}")
    sampler, strikes = Sampler(field), Strikes(field, say)
    async with beside(sampler.sample_again_and_again()), beside(field.mend_again_and_again()):
        for together in rounds(random.Random(result.seed), names):
            await asyncio.sleep(field.rng.uniform(*PAUSE))
            if time.monotonic() >= until:
                break
            await strikes.round(together)
    result.faults = dict(strikes.faults)
    for name, took in strikes.recoveries.items():
        result.written_again[name], result.delivered_again[name] = map(_recovery, zip(*took, strict=True))
    result.resources = sampler.measures()


def _recovery(took: Sequence[float]) -> Recovery:
    return Recovery(len(took), round(median(took), 2), round(max(took), 2))


def tell(result: Result, found: dict[str, list[str]], history: Iterable[Entry]) -> None:
    """Count what there is in *history*, and add what grew to what was *found*."""
    grown = [
        f"{name}: {measure} {one.middle:g} → {one.last:g}"
        for name, measures in result.resources.items() for measure, one in measures.items() if one.flat is False
    ]  # fmt: skip
    found = found | ({"not_flat": grown} if grown else {})
    result.anomalies = {name: some[:TOLD] for name, some in found.items()}
    result.counts = {name: len(some) for name, some in found.items()}
    outcomes: dict[str, str] = {}
    stored, begun, first = 0, Counter[str](), defaultdict[str, set[int]](set)
    for one in history:
        if one.kind == "append":
            if outcomes.get(one.id) != "ok":
                outcomes[one.id] = "unknown" if one.outcome == "invoke" else one.outcome
        elif one.kind == ("handled" if one.subscription == "fold" else "begin") and one.attempt == 1:
            begun[one.subscription] += 1
            first[one.subscription].add(one.position)
        stored += one.kind == "stored"
        result.read += one.kind == "read"
    result.events = {**Counter(outcomes.values()), "stored": stored}
    result.deliveries = dict(begun)
    result.repeats = {name: many - len(first[name]) for name, many in begun.items()}


def summarize(result: Result, say: Callable[[Any], None]) -> None:
    """Say what came out."""
    say(f"events {result.events}; read {result.read}; delivered {result.deliveries}, again {result.repeats}")
    for name, fault in result.faults.items():
        wrote, delivered = result.written_again[name], result.delivered_again[name]
        say(
            f"{name:20} {fault.times:4} times, {fault.seconds:6.1f} s; written again after {wrote.median:5.2f} s"
            f" (at most {wrote.most:5.2f}), delivered after {delivered.median:5.2f} s (at most {delivered.most:5.2f})"
        )
    for name, measures in result.resources.items():
        for measure, one in measures.items():
            say(f"{name:8} {measure:12} {one.first:8g} {one.middle:8g} {one.last:8g}, {one.per_hour:+8g} an hour")
    for name, some in result.anomalies.items():
        say(f"ANOMALY {name}, {result.counts[name]} times:")
        for one in some:
            say(f"    {one}")
    say("no anomaly" if not result.anomalies else f"{sum(result.counts.values())} anomalies")
