"""The node's lease: one row, renewed by the database's clock; with it go all partitions of the node.

It is renewed on the event loop on purpose: a node whose loop hangs for longer than the lease runs should lose its
partitions, loudly. Each renewal also tells whether anything about subscriptions changed, and when the next lease of
another node runs out, so that nothing has to be asked for as long as nothing happens.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from uuid import UUID, uuid4

from eventstore.errors import DatabaseUnavailable, LeaseLost
from eventstore.service import Moments, set_within
from eventstore.settings import Settings
from eventstore.subscriptions.ledger import Ledger

__all__ = ["Lease"]

log = logging.getLogger(__name__)

EXPIRED_FOR = 0.05
"""Seconds after the end of another node's lease when it is looked at."""


SPACING = 0.02
"""Seconds between two renewals at least: anybody may send the signal that something changed."""


class Lease:
    """Holds the lease of one incarnation after another.

    Attributes:
        node: the incarnation; None while there is no lease.
        held: set while there is a lease.
        news: set when partitions may have become free, or are to be given back; whoever waits for it clears it.
        moments: ``renewed``, ``registered``.
    """

    def __init__(
        self,
        ledger: Ledger,
        node_name: str,
        settings: Settings,
        jittered: Callable[[float], float],
        moments: Moments,
        on_lost: Callable[[], None],
        *,
        told: bool,
        identify: Callable[[], UUID] = uuid4,
    ) -> None:
        self._ledger, self._node_name, self._settings, self._jittered = ledger, node_name, settings, jittered
        # A node that hears of changes has no need to look for them often.
        self._every = settings.lease_ttl / 3 if told else min(settings.lease_ttl / 3, settings.claim_interval)
        self._on_lost, self._identify = on_lost, identify
        self.moments = moments
        self._generation: int | None = None
        self._early = asyncio.Event()
        self._ending: asyncio.TimerHandle | None = None
        self.node: UUID | None = None
        self.held, self.news = asyncio.Event(), asyncio.Event()

    def look(self) -> None:
        """Renew now: something changed."""
        self._early.set()

    async def hold(self, healthy: Callable[[], None]) -> None:
        """Take a lease as a new incarnation and renew it until it is lost; then everything it held is lost too."""
        loop, ttl, node = asyncio.get_running_loop(), self._settings.lease_ttl, self._identify()
        try:
            asked = loop.time()
            await self._ledger.register(node, self._node_name, ttl)
            self.node, self._generation = node, None
            self._hold_until(asked + ttl)
            self.held.set()
            self.news.set()
            self.moments.reach("registered", node)
            expiry: float | None = 0.0
            while True:
                pause = min(self._jittered(self._every), max(0.0, asked + ttl - loop.time()))
                if expiry is not None:
                    pause = min(pause, max(expiry, 0.0) + EXPIRED_FOR)
                await set_within(self._early, pause)
                await asyncio.sleep(max(0.0, min(SPACING, asked + SPACING - loop.time())))
                self._early.clear()
                asked, expiry = await self._renewed(node, asked)
                if self.node != node:
                    raise LeaseLost("the lease ran out while it was renewed")
                self._hold_until(asked + ttl)
                healthy()
                self.moments.reach("renewed")
        except Exception:
            self._end()
            raise
        finally:
            self._forget_end()

    def _hold_until(self, when: float) -> None:
        """End the lease at *when* by the loop's clock.

        Not by whoever renews it: he may be busy for seconds giving back a connection that does not answer.
        """
        self._forget_end()
        self._ending = asyncio.get_running_loop().call_at(when, self._end)

    def _forget_end(self) -> None:
        if self._ending is not None:
            self._ending.cancel()

    def _end(self) -> None:
        if self.node is not None:
            self.held.clear()
            self.node = None
            self._on_lost()

    async def _renewed(self, node: UUID, asked: float) -> tuple[float, float | None]:
        """Renew; return when that was asked for, by this node's clock, and when the next lease of others ends."""
        loop, ttl = asyncio.get_running_loop(), self._settings.lease_ttl
        now = loop.time()
        if now >= asked + ttl:
            raise LeaseLost(f"the event loop was blocked, or the database away, for {now - asked:.1f} s: lease lost")
        try:
            async with asyncio.timeout_at(asked + ttl):
                renewal = await self._ledger.renew(node, ttl)
        except TimeoutError:
            raise LeaseLost("the lease could not be renewed in time") from None
        except DatabaseUnavailable as error:
            log.warning("the lease could not be renewed: %s", error)
            await asyncio.sleep(min(0.1, ttl / 10))
            return asked, None
        if not renewal.renewed:
            raise LeaseLost("the lease ran out before it was renewed")
        expired = renewal.next_expiry is not None and renewal.next_expiry <= 0
        if renewal.generation != self._generation or expired:
            self._generation = renewal.generation
            self.news.set()
        return now, renewal.next_expiry if not expired else None
