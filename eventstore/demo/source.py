"""Where the demo's events come from: the generated shop, or a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Protocol

from eventstore.demo.history import Fact, generate
from eventstore.demo.plan import Planned, plan_for_file, plan_for_shop
from eventstore.demo.run import Stage, live_copies
from eventstore.errors import ImportFailed
from eventstore.importing import Batch, Format, Imported, Mapping, import_rows, open_rows
from eventstore.store import EventStore

__all__ = ["File", "Shop", "Source"]

BATCH = 1000


class Source(Protocol):
    """What a run of the demo is made of.

    Attributes:
        history: the facts in the log, in their order; known after `append_to`.
    """

    history: list[Fact]

    async def append_to(self, store: EventStore, stage: Stage) -> None:
        """Put the history into the log."""

    def plan(self) -> list[Planned]:
        """Return the subscriptions to create."""

    def live(self, plan: Sequence[Planned]) -> list[Fact]:
        """Return what is to be appended live."""


class Shop:
    """A generated history of *events* facts; the *live* facts that come next are appended live."""

    def __init__(self, events: int, live: int, seed: int) -> None:
        facts = generate(events + live, seed)
        self.history, self._to_come = facts[:events], facts[events:]

    async def append_to(self, store: EventStore, stage: Stage) -> None:
        """Append the history in batches."""
        left = iter(self.history)
        with stage("importing", len(self.history)) as done:
            while batch := list(islice(left, BATCH)):
                await store.append_known([fact.stream for fact in batch], [fact.event for fact in batch])
                done(len(batch))

    def plan(self) -> list[Planned]:
        """Return subscriptions to what a shop wants to know."""
        return plan_for_shop()

    def live(self, plan: Sequence[Planned]) -> list[Fact]:
        """Return how the history goes on."""
        return self._to_come


class File:
    """The rows of a file; *live* of them happen once more, live."""

    def __init__(
        self, file: str, mapping: Mapping, live: int, seed: int, *, format: Format | None, delimiter: str
    ) -> None:
        self.history: list[Fact] = []
        self._file, self._mapping, self._live, self._seed = file, mapping, live, seed
        self._format, self._delimiter = format, delimiter

    async def append_to(self, store: EventStore, stage: Stage) -> None:
        """Import the file.

        Raises:
            ImportFailed: a row is malformed, or there is none.
        """
        with (
            open_rows(self._file, self._format, delimiter=self._delimiter) as rows,
            stage("importing", rows.size or 0) as done,
        ):
            await import_rows(rows, self._mapping, store.append_known, on_batch=self._keeping(done))
        if not self.history:
            raise ImportFailed(self._file, 1, "there are no rows to show anything with")

    def _keeping(self, done: Callable[[int], None]) -> Callable[[Batch, Imported], None]:
        reached = 0

        def keep(batch: Batch, _so_far: Imported) -> None:
            nonlocal reached
            for one in batch.mapped:
                if one.stream is None:
                    raise ImportFailed(self._file, one.row.line, "the demo follows streams, and this event has none")
                self.history.append(Fact(one.stream, one.event))
            done(batch.bytes_read - reached)
            reached = batch.bytes_read

        return keep

    def plan(self) -> list[Planned]:
        """Return subscriptions to what is most frequent in the file."""
        return plan_for_file(self.history)

    def live(self, plan: Sequence[Planned]) -> list[Fact]:
        """Return rows of the file as new events."""
        return live_copies(self.history, plan, self._live, self._seed)
