"""Figures of the router: ``python -m benchmarks.scripts.router``. Times are the best of several runs."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime
from time import perf_counter
from typing import Any
from uuid import UUID

from eventstore.events import Event
from eventstore.router import Router
from eventstore.selectors import EventPattern, EventPayload, EventType, Selector, Stream, Tags

RUNS = 5
EACH = 2_000
MOMENT = datetime(2026, 1, 1, tzinfo=UTC)


def event(n: object, data: Any, **fields: Any) -> Event:
    named: dict[str, Any] = {"type": f"Type{n}", "stream": f"order-{n}-1", "tags": (f"tag:{n}", "common")} | fields
    moments: dict[str, Any] = {"created_at": MOMENT, "recorded_at": MOMENT}
    return Event(UUID(int=1), data=data, metadata={}, version=1, position=1, bucket=5, **moments, **named)


def five_kinds(n: int) -> list[Selector]:
    return [
        Stream(f"order-{n}-1"),
        EventPattern(f"order-{n}-*"),
        EventType(f"Type{n}"),
        Tags(f"tag:{n}"),
        EventPayload({"customer": {"id": n}}),
    ]


def conjunctions(n: int) -> list[Selector]:
    return [
        EventType("Placed") & Tags(f"tag:{n}"),
        EventType("Placed", f"Type{n}") & EventPattern(f"order-{n}-*"),
        Tags("common", f"tag:{n}"),
        EventPayload({"customer": {"id": n}, "total": {"$gt": n}}),
        Stream(f"order-{n}-1") | EventPayload({"total": {"$lt": -1}}) & Tags(f"tag:{n}"),
    ]


def filled(kinds: Callable[[int], list[Selector]], hundred: bool = False) -> tuple[Router[int], list[Selector]]:
    selectors = [one for n in range(EACH) for one in kinds(n)]
    if hundred:
        selectors[:95] = [EventType("Type1999")] * 95
    router: Router[int] = Router()
    for target, selector in enumerate(selectors):
        router.add(target, selector)
    return router, selectors


def microseconds(work: Callable[[], object], times: int) -> float:
    """Return what the fastest run took, per call."""
    taken = []
    for _ in range(RUNS):
        began = perf_counter()
        for _ in range(times):
            work()
        taken.append(perf_counter() - began)
    return min(taken) / times * 1e6


def routing(name: str, router: Router[int], selectors: list[Selector], one: Event) -> None:
    def naive() -> list[int]:
        return [target for target, selector in enumerate(selectors) if selector.matches(one)]

    assert router.route(one) == naive()
    routed, asked = microseconds(lambda: router.route(one), 2_000), microseconds(naive, 5)
    print(
        f"{name:<40} {len(router.route(one)):>3} matches: {routed:>6.1f} µs; asking every selector: {asked:>7,.0f} µs"
    )


def filing() -> None:
    gc.collect()
    selectors = [one for n in range(EACH) for one in five_kinds(n)]
    for selector in selectors:
        _ = selector.matches
    router: Router[int] = Router()
    tracemalloc.start()
    for target, selector in enumerate(selectors):
        router.add(target, selector)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    print(f"memory of the index: {held / len(router):,.0f} bytes a selector")
    few: Router[int] = Router()
    for title, one in (("an empty", few), ("a full", router)):

        def both(into: Router[int] = one) -> None:
            into.add(-1, selectors[-1])
            into.remove(-1)

        print(f"add and remove a payload selector in {title} router: {microseconds(both, 10_000):.1f} µs")


def main() -> None:
    n = 1999
    data = {"customer": {"id": n}, "total": 10**6}
    large = data | {f"key{i}": {"value": list(range(20))} for i in range(2_000)}
    simple, mixed, hundred = filled(five_kinds), filled(conjunctions), filled(five_kinds, hundred=True)
    routing("five kinds", *simple, event("none", {"customer": {"id": "none"}}))
    routing("five kinds", *simple, event(n, data))
    routing("five kinds, 95 alike", *hundred, event(n, data))
    routing("five kinds, data of 2,000 keys", *simple, event(n, large))
    routing("five combinations", *mixed, event(n, data, type="Placed"))
    routing("a path per selector, small data", *filled(lambda n: [EventPayload({f"key{n}": 1})] * 5), event(n, data))
    routing(
        "a path per selector, data of 2,000 keys", *filled(lambda n: [EventPayload({f"key{n}": 1})]), event(n, large)
    )
    filing()


if __name__ == "__main__":
    main()
