"""Catching up together: emitters that are behind share one reading of the log, routed to those who want each event.

Ten thousand subscriptions that start at once, or that lost their feed, would otherwise each read pages of their own.
A cohort begins where its last member is, takes the others along from their own positions on, and ends by joining the
feed, all members in one step.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from eventstore.database import Database
from eventstore.events import Event
from eventstore.feed import PUBLISHED_AT_ONCE, Deliver, Feed, Handle, Shares
from eventstore.log.read import Page, read_page
from eventstore.router import Router
from eventstore.selectors import All
from eventstore.service import Clock, Turns
from eventstore.settings import Settings
from eventstore.subscriptions.emitter import Emitter

__all__ = ["GAP", "Cohort", "cohorts"]

LEAST = 16
"""Emitters that are worth a cohort; fewer read for themselves, by indexes where their selectors have one."""

GAP = 50_000
"""Positions between two emitters that make two cohorts of them."""

PATIENCE = 1.0
"""Seconds that a cohort waits at one page for members whose queue is full; then it goes on without them."""

FULL = 500


def cohorts(emitters: Iterable[Emitter]) -> tuple[list[list[Emitter]], list[Emitter]]:
    """Return groups of emitters that are near each other, and those that are on their own."""
    groups: list[list[Emitter]] = []
    for emitter in sorted(emitters, key=lambda one: one.inlet.read):
        if groups and emitter.inlet.read - groups[-1][-1].inlet.read <= GAP:
            groups[-1].append(emitter)
        else:
            groups.append([emitter])
    alone = [one for group in groups if len(group) < LEAST for one in group]
    return [group for group in groups if len(group) >= LEAST], alone


class Cohort:
    """One reading for several emitters.

    Attributes:
        scanned: position up to which everything was handed over.
    """

    def __init__(
        self, emitters: Sequence[Emitter], feed: Feed, database: Database, settings: Settings, deliver: Deliver,
        clock: Clock,
    ) -> None:  # fmt: skip
        self._feed, self._database, self._settings, self._deliver = feed, database, settings, deliver
        self._clock = clock
        self._members = {one.handle: one for one in emitters}
        self._router: Router[Handle] = Router(self._failed)
        self.scanned = min(one.inlet.read for one in emitters)
        for one in emitters:
            share = one.claim.share
            one.inlet.source = self
            self._router.add(one.handle, one.claim.selector, (share.modulus, share.remainder) if share else None)

    async def run(self) -> None:
        """Read until the feed can take over; emitters that leave meanwhile read on for themselves."""
        try:
            while self._prune():
                page = await self._page(self.scanned)
                await self._hand_over(page)
                if page.scanned >= page.horizon:
                    await self._feed.join(self._shares, lambda: self.scanned, self._read_to)
                    return
        except BaseException:
            for member in self._members.values():
                if member.inlet.source is self:
                    member.cut()
            raise
        finally:
            for member in self._members.values():
                member.wake()

    def _shares(self) -> Shares:
        self._prune()
        return [share for member in self._members.values() for share in member.inlet.shares()]

    async def _read_to(self, position: int) -> None:
        while self.scanned < position:
            await self._hand_over(await self._page(self.scanned, position, self._feed.database))

    async def _page(self, after: int, upto: int | None = None, database: Database | None = None) -> Page:
        limit = self._settings.page_size
        return await read_page(database or self._database, All(), limit=limit, window=limit, after=after, upto=upto)

    async def _hand_over(self, page: Page) -> None:
        # A page for a thousand emitters is half a million handings-over, and leases are renewed meanwhile.
        wanted, turns = dict[Handle, list[Event]](), Turns(self._clock)
        for event in page.events:
            for handle in self._router.route(event):
                wanted.setdefault(handle, []).append(event)
            if len(wanted) >= PUBLISHED_AT_ONCE:
                await self._publish(wanted)
                wanted = {}
                await turns.give()
        if wanted:
            await self._publish(wanted)
        self.scanned = max(self.scanned, page.scanned)

    async def _publish(self, wanted: dict[Handle, list[Event]]) -> None:
        await self._wait_for_room(wanted)
        await self._deliver.publish(wanted, self)

    async def _wait_for_room(self, wanted: Iterable[Handle]) -> None:
        until = self._clock.time() + PATIENCE
        for handle in wanted:
            member = self._members.get(handle)
            while member is not None and len(member.inlet.queue) > FULL and self._clock.time() < until:
                await self._clock.sleep(0.005)

    def _prune(self) -> bool:
        """Forget members that left; tell whether there are any."""
        for handle, member in list(self._members.items()):
            if member.closed or member.inlet.source is not self:
                self._router.remove(handle)
                del self._members[handle]
                member.wake()
        return bool(self._members)

    def _failed(self, handle: Handle, _event: Event, error: Exception) -> None:
        self._deliver.unroutable(handle, error)
