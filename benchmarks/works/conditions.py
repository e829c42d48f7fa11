"""Appends on a condition, beside our own without one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from benchmarks.bench import Bench
from benchmarks.measure import drive
from benchmarks.model import Comparison, Sides, work
from benchmarks.sides import conditional_appender

__all__ = ["condition_8", "condition_deep"]

CUSTOMERS = 10_000


@work(
    6,
    "condition-1",
    "append on a condition, 1 caller, a million events stored",
    Comparison("conditional", "unconditional", at_least=0.50),
    Comparison("conditional", "unconditional", "errors", at_most=0),
)
@asynccontextmanager
async def condition_deep(bench: Bench) -> AsyncIterator[Sides]:
    """Conditional: one event with one tag, without a stream, if no event with that tag came after the caller's last
    one, upon a log of 1,000,000 events (quick: 50,000) with one of 10,000 tags each. Unconditional: the same event,
    the same tag, the same store, no condition. So this is the price of the condition alone."""
    async with bench.store() as store:
        stored = await bench.fill(
            store, bench.size(1_000_000, 50_000), seconds=bench.size(150, 15), tag_count=CUSTOMERS
        )
        bench.notes.append(f"{stored:,} events stored beforehand")
        after = await store.head()
        yield {
            name: partial(
                drive, [conditional_appender(store, f"customer:{tag}", after=after, conditional=name == "conditional")]
            )
            for tag, name in enumerate(("unconditional", "conditional"))
        }


@work(
    7,
    "condition-8",
    "append on conditions on unrelated tags, 8 callers",
    Comparison("conditional", "unconditional", at_least=0.50),
    Comparison("conditional", "unconditional", "errors", at_most=0),
)
@asynccontextmanager
async def condition_8(bench: Bench) -> AsyncIterator[Sides]:
    """As condition-1 upon a small log, from 8 tasks, each with a tag of its own: no condition can fail, so every
    refusal is an error. Unconditional: the same 8 tasks, tags and store, no conditions."""
    async with bench.store() as store:
        yield {
            name: partial(
                drive,
                [
                    conditional_appender(store, f"{name}:{number}", after=0, conditional=name == "conditional")
                    for number in range(8)
                ],
            )
            for name in ("unconditional", "conditional")
        }
