"""The ledger: everything about subscriptions, nodes and partitions that is stored. One function per SQL function."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import fields
from datetime import datetime
from itertools import groupby
from operator import attrgetter
from traceback import format_exception
from typing import Any, Literal, TypeAlias, get_args
from uuid import UUID

import asyncpg

from eventstore.codec import check_text, decode
from eventstore.database import Connection, Database
from eventstore.errors import ConfigurationError, InvalidEvent, SubscriptionExists, SubscriptionNotFound
from eventstore.events import Event
from eventstore.log.read import check_bounds, check_position, check_time, to_events
from eventstore.moments import to_datetime
from eventstore.selectors import Selector, check_selector, dump, load
from eventstore.subscriptions.model import (
    After,
    Claim,
    Claimed,
    Failed,
    Lag,
    Node,
    Owned,
    Parked,
    ParkedKey,
    Partition,
    PartitionLag,
    Renewal,
    Replayable,
    Rewound,
    Subscription,
    check_pool_size,
    check_subscription,
    check_subscription_name,
    decode_after,
    encode_after,
)
from eventstore.subscriptions.options import differing_options

__all__ = ["Ledger", "described", "storable"]

Key: TypeAlias = tuple[int, int]
"""Subscription id and partition number, as `Claim.key`."""

ParkedState: TypeAlias = Literal["parked", "skipped", "discarded"]

# The method `list` hides the type inside the class.
Lags: TypeAlias = list[Lag]
Nodes: TypeAlias = list[Node]
Owneds: TypeAlias = list[Owned]
ParkedKeys: TypeAlias = list[ParkedKey]
Parkeds: TypeAlias = list[Parked]
Replayables: TypeAlias = list[Replayable]

MAX_TEXT = 10_000
"""Characters that are stored of a message or a traceback, at most."""

LEFT_OUT = "\n…\n"


class Ledger:
    """Stored subscriptions and their partitions, in one schema."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(
        self,
        name: str,
        selector: Selector,
        *,
        after: After = 0,
        pool_size: int = 1,
        options: dict[str, Any] | None = None,
    ) -> Subscription:
        """Store a subscription, or find the same definition stored already; see `create_if_new`."""
        return (await self.create_if_new(name, selector, after=after, pool_size=pool_size, options=options))[0]

    async def create_if_new(
        self,
        name: str,
        selector: Selector,
        *,
        after: After = 0,
        pool_size: int = 1,
        options: dict[str, Any] | None = None,
    ) -> tuple[Subscription, bool]:
        """Store a subscription, or find the same definition stored already; tell which.

        Raises:
            SubscriptionExists: the name is taken by a definition that differs.
            ConfigurationError: a value is out of range, or *after* lies beyond the log or in the future.
        """
        check_subscription(name, after, pool_size)
        check_selector(selector)
        row = (
            await self._database.rows(
                "create_subscription_v1",
                name,
                dump(selector),
                json.dumps(encode_after(after)),
                json.dumps(options or {}),
                pool_size,
            )
        )[0]
        stored = await self.get(name)
        if not row["created"] and row["differing"]:
            named = differing_options(stored.options, options or {})
            raise SubscriptionExists(name, [*(one for one in row["differing"] if one != "options"), *named])
        return stored, row["created"]

    async def get(self, name: str) -> Subscription:
        """Return one subscription (`SubscriptionNotFound`)."""
        check_subscription_name(name)
        found = _subscriptions(await self._database.rows("get_subscriptions_v1", name))
        if not found:
            raise SubscriptionNotFound(name)
        return found[0]

    async def list(self) -> list[Subscription]:
        """Return all subscriptions, by name."""
        return _subscriptions(await self._database.rows("get_subscriptions_v1"))

    async def delete(self, name: str) -> None:
        """Delete a subscription and its checkpoints (`SubscriptionNotFound`); nodes that run it stop."""
        check_subscription_name(name)
        if not await self._database.value("delete_subscription_v1", name):
            raise SubscriptionNotFound(name)

    async def check_stored(self, names: Iterable[str]) -> None:
        """Refuse names that no subscription has (`SubscriptionNotFound`)."""
        for row in await self._database.rows("missing_subscriptions_v1", list(names)):
            raise SubscriptionNotFound(row[0])

    async def sinks(self) -> dict[str, dict[str, Any]]:
        """Return the options of the subscriptions that are delivered to a sink, by name."""
        return {row["name"]: json.loads(row["options"]) for row in await self._database.rows("list_sinks_v1")}

    async def register(self, node: UUID, name: str, ttl: float) -> None:
        """Take the first lease of an incarnation, for *ttl* seconds."""
        await self._database.rows("register_node_v1", node, name, ttl)

    async def renew(self, node: UUID, ttl: float) -> Renewal:
        """Renew the lease, and learn whether anything changed that a node should look at."""
        row = (await self._database.rows("renew_node_v1", node, ttl))[0]
        return Renewal(row["renewed"], row["generation"], row["next_expiry"])

    async def leave(self, node: UUID) -> None:
        """Give up the lease and everything it holds."""
        await self._database.rows("leave_node_v1", node)

    async def claim(
        self, node: UUID, names: Iterable[str], held: Iterable[Key] = (), fallback: Iterable[str] = ()
    ) -> Claimed:
        """Take free partitions of the subscriptions *names*, up to the node's fair share, except those *held*.

        Args:
            held: by `Claim.key`: what runs there, or has not quite ended.
            fallback: names of subscriptions this node handles as long as no other does.

        Raises:
            LeaseLost: the node's lease ran out.
        """
        keys = list(held)
        *rows, closing = await self._database.rows(
            "claim_partitions_v1",
            node,
            list(names),
            list(fallback),
            [one for one, _ in keys],
            [number for _, number in keys],
        )
        return Claimed([_claim(row, node) for row in rows], closing["partition"])

    async def owned(self, node: UUID) -> Owneds:
        """Return everything the node owns; what it runs beyond that it has lost."""
        return [Owned(*row) for row in await self._database.rows("owned_partitions_v1", node)]

    async def release(
        self, node: UUID, positions: Sequence[tuple[Claim, int | None]], on: Connection | None = None
    ) -> set[Key]:
        """Settle (None: leave the checkpoint) and give back; returns the keys of the claims that were still held."""
        rows = await self._database.rows("release_partitions_v1", node, *_positions(positions), on=on)
        return {(row["subscription_id"], row["partition"]) for row in rows}

    async def settle(
        self, node: UUID, positions: Sequence[tuple[Claim, int]], on: Connection | None = None
    ) -> set[Key]:
        """Move checkpoints forward; returns the keys of the claims that were still held, the others are lost."""
        rows = await self._database.rows("settle_partitions_v1", node, *_positions(positions), on=on)
        return {(row["subscription_id"], row["partition"]) for row in rows}

    async def settle_one(
        self,
        claim: Claim,
        position: int | None,
        failed: Sequence[Failed] = (),
        done: Sequence[int] = (),
        on: Connection | None = None,
    ) -> bool:
        """Settle one partition, with what failed and which parked events are done; False: it is lost, nothing changed.

        Args:
            position: None leaves the checkpoint where it is.
            done: positions of parked events that need no replay any more.
            on: a connection with an open transaction to do it in.
        """
        return bool(
            await self._database.value(
                "settle_partition_v1", *_fence(claim), position, _failed(failed), list(done), on=on
            )
        )

    async def halt(self, claim: Claim, error: BaseException, event: Event | None = None) -> bool:
        """Stop the partition until it is resumed or rewound; False: it is lost, nothing changed.

        Args:
            event: whose failure stopped it; None: it was something else.
        """
        kind, message, text = described(error)
        halted: dict[str, Any] = {"error": kind, "message": message, "traceback": text}
        if event is not None:
            halted |= {"position": event.position, "id": str(event.id), "type": event.type, "stream": event.stream}
        return bool(await self._database.value("halt_partition_v1", *_fence(claim), json.dumps(halted)))

    async def load_parked(self, claim: Claim) -> ParkedKeys:
        """Return every parked event beyond the checkpoint, and the first of each key that is closed or replayed."""
        rows = await self._database.rows("load_parked_v1", claim.subscription_id, claim.partition)
        return [ParkedKey(*row) for row in rows]

    async def replayable(self, claim: Claim, limit: int) -> Replayables:
        """Return the next parked events to deliver again, in order."""
        rows = await self._database.rows("replayable_v1", claim.subscription_id, claim.partition, limit)
        events = {event.position: event for event in to_events([row for row in rows if row["id"] is not None])}
        return [
            Replayable(
                row["parked_position"], row["key"], row["attempts"], row["blocking"], events.get(row["parked_position"])
            )
            for row in rows
        ]

    async def closed_keys(self, claim: Claim, keys: Iterable[str]) -> set[str]:
        """Return those of *keys* that still have a parked event that is blocking or to be replayed."""
        rows = await self._database.rows("closed_keys_v1", claim.subscription_id, sorted(keys))
        return {row["key"] for row in rows}

    async def pause(self, name: str) -> bool:
        """Stop a subscription on every node; False if it is paused already (`SubscriptionNotFound`)."""
        check_subscription_name(name)
        return bool(await self._database.value("pause_subscription_v1", name))

    async def resume(self, name: str) -> bool:
        """Let a paused subscription and its halted partitions go on; False if nothing was (`SubscriptionNotFound`)."""
        check_subscription_name(name)
        return bool(await self._database.value("resume_subscription_v1", name))

    async def ack(self, name: str, position: int) -> int:
        """Settle everything up to *position*, whatever the handlers did; returns how many partitions moved.

        Raises:
            SubscriptionNotFound: there is none of that name.
            CheckpointAheadOfLog: *position* lies beyond the log.
        """
        check_subscription_name(name)
        check_position("position", position)
        return int(await self._database.value("ack_subscription_v1", name, position))

    async def rewind(self, name: str, after: int | datetime | UUID) -> Rewound:
        """Deliver again what comes after a position, a time, or an event.

        Raises:
            SubscriptionNotFound: there is none of that name.
            CheckpointAheadOfLog: *after* lies beyond the log.
            ConfigurationError: *after* lies in the future, or no event has that id.
        """
        check_subscription_name(name)
        row = (await self._database.rows("rewind_subscription_v1", name, json.dumps(_place(after))))[0]
        return Rewound(row["after"], row["partitions"], row["parked"])

    async def update(self, name: str, options: dict[str, Any]) -> bool:
        """Replace the options; False if they are so already (`SubscriptionNotFound`)."""
        check_subscription_name(name)
        return bool(await self._database.value("update_subscription_v1", name, json.dumps(options)))

    async def resize(self, name: str, pool_size: int) -> bool:
        """Change the number of partitions; False: once those who run them have given them back.

        Raises:
            SubscriptionNotFound: there is none of that name.
        """
        check_subscription_name(name)
        check_pool_size(pool_size)
        return bool(await self._database.value("resize_subscription_v1", name, pool_size))

    async def parked(
        self,
        name: str,
        *,
        state: ParkedState | None = "parked",
        key: str | None = None,
        after: int = 0,
        limit: int | None = None,
    ) -> Parkeds:
        """Return the events that were set aside, by position.

        Args:
            state: None: whatever became of them.
            key: of this stream, or the event without a stream that has this id.

        Raises:
            SubscriptionNotFound: there is none of that name.
        """
        check_subscription_name(name)
        _check_state(state)
        _check_choice(None, key)
        check_bounds(after, None, limit)
        rows = await self._database.rows("list_parked_v1", name, state, key, after, limit)
        return [_parked(row) for row in rows]

    async def replay_parked(self, name: str, *, position: int | None = None, key: str | None = None) -> int:
        """Deliver parked events again, in order: all, those of one key, or one; returns how many.

        Raises:
            SubscriptionNotFound: there is none of that name.
            ConfigurationError: nothing is parked at *position*, or it waits behind another of its key.
        """
        check_subscription_name(name)
        _check_choice(position, key)
        return int(await self._database.value("replay_parked_v1", name, position, key))

    async def discard_parked(self, name: str, *, position: int | None = None, key: str | None = None) -> int:
        """Give parked events up: all, those of one key, or one; returns how many. They stay listed as discarded.

        Raises:
            SubscriptionNotFound: there is none of that name.
            ConfigurationError: nothing is parked at *position*.
        """
        check_subscription_name(name)
        _check_choice(position, key)
        return int(await self._database.value("discard_parked_v1", name, position, key))

    async def lag(self, name: str | None = None) -> Lags:
        """Return how far the subscriptions are behind, by name, or the one named (`SubscriptionNotFound`)."""
        if name is not None:
            check_subscription_name(name)
        rows = await self._database.rows("lag_v1", name)
        return [_lag(list(group)) for _, group in groupby(rows, key=lambda row: row["name"])]

    async def nodes(self) -> Nodes:
        """Return the nodes that hold or held a lease, by name and start."""
        return [
            Node(
                row["incarnation"],
                row["name"],
                to_datetime(row["started_at"]),
                to_datetime(row["lease_until"]),
                row["alive"],
                list(zip(row["subscriptions"], row["partitions"], strict=True)),
            )
            for row in await self._database.rows("list_nodes_v1")
        ]


def described(error: BaseException) -> tuple[str, str, str]:
    """Return type, message and traceback of an error as text that can be stored."""
    try:
        message = str(error)
    except Exception as failed:  # noqa: BLE001 - a user's class may do anything
        message = f"its message cannot be told: {type(failed).__name__}"
    text = "".join(format_exception(error))
    return storable(type(error).__name__), storable(message), storable(text)


def storable(text: str) -> str:
    """Return *text* as Postgres can hold it, and the middle left out of what is very long."""
    text = text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
    if len(text) > MAX_TEXT:
        half = (MAX_TEXT - len(LEFT_OUT)) // 2
        text = text[:half] + LEFT_OUT + text[-half:]
    return text


def _fence(claim: Claim) -> tuple[UUID, int, int, int]:
    return claim.owner, claim.subscription_id, claim.partition, claim.epoch


def _positions(
    positions: Sequence[tuple[Claim, int | None]],
) -> tuple[list[int], list[int], list[int], list[int | None]]:
    claims = [claim for claim, _ in positions]
    return (
        [claim.subscription_id for claim in claims],
        [claim.partition for claim in claims],
        [claim.epoch for claim in claims],
        [position for _, position in positions],
    )


_FIELDS = [field.name for field in fields(Failed)]
_values = attrgetter(*_FIELDS)


def _failed(failed: Sequence[Failed]) -> str:
    if not failed:
        return "[]"
    items = [dict(zip(_FIELDS, _values(one), strict=True)) for one in failed]  # asdict takes ten times as long
    for item in items:
        item.update({name: storable(item[name]) for name in ("error", "message", "traceback") if item[name]})
    return json.dumps(items)


def _place(after: int | datetime | UUID) -> Any:
    if isinstance(after, UUID):
        return {"event": str(after)}
    if isinstance(after, datetime):
        check_time("after", after)
    elif type(after) is not int or not 0 <= after < 1 << 63:
        raise ConfigurationError(f"after must be a position, a datetime or an event's id, not {after!r}")
    return encode_after(after)


def _check_state(state: object) -> None:
    if state is not None and state not in get_args(ParkedState):
        raise ConfigurationError(f"state must be None or one of {', '.join(get_args(ParkedState))}, not {state!r}")


def _check_choice(position: object, key: object) -> None:
    if position is not None and key is not None:
        raise ConfigurationError("name a position or a key, not both")
    if position is not None:
        check_position("position", position)
    if key is None:
        return
    if not isinstance(key, str):
        raise ConfigurationError(f"key must be a stream's name or the id of an event without one, not {key!r}")
    try:
        check_text(key, "key")
    except InvalidEvent as error:
        raise ConfigurationError(str(error)) from None


def _claim(row: asyncpg.Record, node: UUID) -> Claim:
    return Claim(
        subscription_id=row["subscription_id"],
        name=row["name"],
        partition=row["partition"],
        checkpoint=row["checkpoint"],
        epoch=row["epoch"],
        pool_size=row["pool_size"],
        selector=load(row["selector"]),
        last_position=row["last_position"],
        owner=node,
        options=json.loads(row["options"]),
        floors=None if row["floors"] is None else tuple(row["floors"]),
        parked=row["parked"],
        parked_revision=row["parked_revision"],
    )


def _parked(row: asyncpg.Record) -> Parked:
    fields = dict(row)
    for name in ("first_failed_at", "last_failed_at", "recorded_at"):
        fields[name] = to_datetime(fields[name])
    for name in ("data", "metadata"):
        fields[name] = None if fields[name] is None else decode(fields[name])
    return Parked(**fields)


def _lag(rows: list[asyncpg.Record]) -> Lag:
    each = [PartitionLag(row["partition"], row["checkpoint"], row["behind"], row["seconds"]) for row in rows]
    return Lag(
        rows[0]["name"],
        rows[0]["head"],
        max(one.behind for one in each),
        max(one.seconds for one in each),
        each,
    )


def _subscriptions(rows: Iterable[asyncpg.Record]) -> list[Subscription]:
    return [_subscription(list(group)) for _, group in groupby(rows, key=lambda row: row["id"])]


def _subscription(rows: list[asyncpg.Record]) -> Subscription:
    first = rows[0]
    return Subscription(
        id=first["id"],
        key=first["key"],
        name=first["name"],
        selector=load(first["selector"]),
        pool_size=first["pool_size"],
        after=decode_after(json.loads(first["after"])),
        state=first["state"],
        options=json.loads(first["options"]),
        created_at=to_datetime(first["created_at"]),
        start_position=first["start_position"],
        partitions=[_partition(row) for row in rows],
        resize_to=first["resize_to"],
    )


def _partition(row: asyncpg.Record) -> Partition:
    return Partition(
        number=row["partition"],
        checkpoint=row["checkpoint"],
        epoch=row["epoch"],
        owner=row["owner_name"],
        lease_until=None if row["lease_until"] is None else to_datetime(row["lease_until"]),
        state="halted" if row["halted"] else "running" if row["owner"] else "idle",
        halted=json.loads(row["halted"]) if row["halted"] else None,
    )
