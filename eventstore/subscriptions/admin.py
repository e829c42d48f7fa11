"""`store.subscriptions`: what is known of stored subscriptions, and what an operator can do about them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime
from types import EllipsisType
from typing import Any, Literal, TypeAlias
from uuid import UUID

from eventstore.errors import ConfigurationError
from eventstore.log.read import check_position
from eventstore.service import Backoff, set_within
from eventstore.subscriptions.ledger import Ledger
from eventstore.subscriptions.model import Lag, Parked, Partition, Rewound, Subscription, check_subscription_name
from eventstore.subscriptions.options import changed_options
from eventstore.subscriptions.policy import FailurePolicy
from eventstore.subscriptions.pool import Pools, Tell
from eventstore.subscriptions.wanted import Wanted

__all__ = ["Subscriptions"]

Found: TypeAlias = list[Subscription]  # the method `list` hides the type inside the class
Lags: TypeAlias = list[Lag]
Parkeds: TypeAlias = list[Parked]
Partitions: TypeAlias = list[Partition]
State: TypeAlias = Literal["parked", "skipped", "discarded"]


class Subscriptions:
    """Stored subscriptions, on all nodes; `start` and `stop` alone are about this node's share.

    Every method raises `SubscriptionNotFound` for a name that is not stored.
    """

    def __init__(self, ledger: Ledger, pools: Pools, wanted: Wanted, tell: Tell) -> None:
        self._ledger, self._pools, self._wanted, self._tell = ledger, pools, wanted, tell

    async def get(self, name: str) -> Subscription:
        """Return one subscription with its partitions."""
        return await self._ledger.get(name)

    async def list(self) -> Found:
        """Return all subscriptions, by name."""
        return await self._ledger.list()

    async def delete(self, name: str) -> None:
        """Delete a subscription with its checkpoints and parked events; nodes that run it stop."""
        await self._ledger.delete(name)
        self._pools.look()
        self._tell("subscription_deleted", name)

    # -- this node

    def start(self, name: str) -> None:
        """Run this node's share again after `stop`.

        Raises:
            AlreadyStarted: it was not stopped.
            ConfigurationError: this node has no handler for it.
        """
        check_subscription_name(name)
        self._pools.start_here(name)

    async def stop(self, name: str) -> None:
        """Give this node's partitions to other nodes, once handlers are through with what they have in hand.

        They stay stopped here until `start`. Stopping what does not run is fine.
        """
        check_subscription_name(name)
        self._check_outside(name, "stop")
        await self._pools.stop_here(name)

    # -- all nodes

    async def pause(self, name: str) -> bool:
        """Stop delivering on every node, once handlers are through with what they have in hand.

        Returns:
            False if it was paused already.
        """
        changed = await self._ledger.pause(name)
        self._pools.look()
        if changed:
            self._tell("subscription_paused", name)
        return changed

    async def resume(self, name: str) -> bool:
        """Go on after `pause`, and with partitions that were halted.

        Returns:
            False if there was nothing to resume.
        """
        changed = await self._ledger.resume(name)
        self._pools.look()
        if changed:
            self._tell("subscription_resumed", name)
        return changed

    async def ack(self, name: str, position: int) -> int:
        """Settle everything up to *position* from outside; deliveries under way are cancelled, and go on behind it.

        Returns:
            How many partitions moved; those that were further change nothing.

        Raises:
            CheckpointAheadOfLog: *position* lies beyond the log.
        """
        moved = await self._ledger.ack(name, position)
        self._pools.look()
        return moved

    async def rewind(self, name: str, after: int | datetime | UUID) -> Rewound:
        """Deliver again what comes after a position, a time (of `recorded_at`), or an event.

        Parked events behind it are forgotten, since they come again, and halted partitions go on. A partition that has
        not come so far stays where it is. Deliveries under way are cancelled, and nothing of them is settled.

        Raises:
            CheckpointAheadOfLog: *after* lies beyond the log.
            ConfigurationError: *after* lies in the future, or no event has that id.
        """
        rewound = await self._ledger.rewind(name, after)
        self._pools.look()
        self._tell("subscription_rewound", name, position=rewound.after, parked=rewound.parked)
        return rewound

    async def update(
        self,
        name: str,
        *,
        policy: FailurePolicy | EllipsisType | None = ...,
        sink: str | EllipsisType | None = ...,
        sink_options: Mapping[str, Any] | EllipsisType | None = ...,
    ) -> bool:
        """Change the failure policy or the sink of a subscription, which keeps its place; what is ``...`` stays.

        Definitions are compared at every start: change the code that declares it as well.

        Args:
            policy: None: the usual one.
            sink: None: none, so that it waits for a handler.

        Returns:
            False if it was so already.

        Raises:
            ConfigurationError: the sink is none, or its options are not its own.
        """
        stored = await self._ledger.get(name)
        changed = await self._ledger.update(name, changed_options(stored.options, policy, sink, sink_options))
        self._pools.look()
        return changed

    async def resize(self, name: str, pool_size: int, *, timeout: float | None = None) -> None:
        """Change the number of partitions, under load: nothing is lost, delivered twice or out of order.

        The nodes that run it finish what they have in hand; then the new partitions begin where the old ones ended,
        stream by stream. Waits for that; cancelled, or after *timeout* seconds (`TimeoutError`), it happens
        nevertheless, as soon as the old partitions are free.
        """
        self._check_outside(name, "resize")
        done = await self._ledger.resize(name, pool_size)
        self._pools.look()
        backoff = Backoff(0.01, 0.5)
        async with asyncio.timeout(timeout):
            while not done:
                await asyncio.sleep(backoff.next())
                stored = await self._ledger.get(name)
                done = stored.resize_to != pool_size
                if done and stored.pool_size != pool_size:
                    raise ConfigurationError(
                        f"{name!r} was resized to {stored.resize_to or stored.pool_size} meanwhile"
                    )
        self._tell("subscription_resized", name, pool_size=pool_size)

    async def lag(self, name: str | None = None) -> Lags:
        """Return how far all subscriptions, or the one named, are behind: in positions and in seconds."""
        return await self._ledger.lag(name)

    async def wait_for(self, name: str, position: int, *, timeout: float | None = None) -> None:
        """Wait until everything up to *position* is handled and settled, as to read your own writes.

        What was parked or skipped counts as settled. While it is paused, or nobody runs it, this waits.

        Raises:
            TimeoutError: *timeout* seconds passed.
        """
        check_position("position", position)
        backoff = Backoff(0.002, 0.1)
        try:
            async with asyncio.timeout(timeout):
                with self._pools.hurried(name, position) as stored:
                    while behind := await self._behind(name, position):
                        if not backoff.attempts and len(behind) > len(self._pools.of(name)):
                            await self._wanted.ask(name, position)
                        await set_within(stored, backoff.next())
                        stored.clear()
        except TimeoutError:
            why = _reason(await self._ledger.get(name), position)
            raise TimeoutError(
                f"{name!r} is not settled up to position {position} after {timeout:g} s: {why}"
            ) from None

    async def _behind(self, name: str, position: int) -> Partitions:
        return [one for one in (await self._ledger.get(name)).partitions if one.checkpoint < position]

    def _check_outside(self, name: str, what: str) -> None:
        if self._pools.inside(name):
            raise ConfigurationError(
                f"a handler of {name!r} cannot {what} it, which waits for the handler itself: do it in another task"
            )

    # -- parked events

    async def parked(
        self,
        name: str,
        *,
        state: State | None = "parked",
        key: str | None = None,
        after: int = 0,
        limit: int | None = None,
    ) -> Parkeds:
        """Return the events that were set aside, by position.

        Args:
            state: ``skipped`` by the failure policy, ``discarded`` by an operator; None: whatever became of them.
            key: of this stream, or the event without a stream that has this id.
        """
        return await self._ledger.parked(name, state=state, key=key, after=after, limit=limit)

    async def replay_parked(self, name: str, *, position: int | None = None, key: str | None = None) -> int:
        """Deliver parked events again, once each and in order: all, those of one key, or one.

        An event that fails again stays parked, with the later ones of its key. Once its queue is empty a key is open.

        Returns:
            How many will be delivered.

        Raises:
            ConfigurationError: nothing is parked at *position*, or it waits behind another of its key.
        """
        count = await self._ledger.replay_parked(name, position=position, key=key)
        self._pools.look()
        return count

    async def discard_parked(self, name: str, *, position: int | None = None, key: str | None = None) -> int:
        """Give parked events up: all, those of one key, or one; they stay listed as discarded.

        Returns:
            How many.

        Raises:
            ConfigurationError: nothing is parked at *position*.
        """
        count = await self._ledger.discard_parked(name, position=position, key=key)
        self._pools.look()
        if count:
            self._tell("event_discarded", name, count=count, position=position, key=key)
        return count


def _reason(stored: Subscription, position: int) -> str:
    """Say why a subscription has not come to *position*."""
    behind = [one for one in stored.partitions if one.checkpoint < position]
    halted = [one for one in behind if one.halted is not None]
    if stored.state == "paused":
        return "it is paused"
    if halted:
        return f"partition {halted[0].number} is halted ({(halted[0].halted or {}).get('error')})"
    if alone := [one.number for one in behind if one.owner is None]:
        return f"no node runs partition {alone[0]}"
    return f"it has come to {min((one.checkpoint for one in behind), default=position)}"
