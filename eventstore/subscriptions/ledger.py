"""The ledger: everything about subscriptions, nodes and partitions that is stored. One function per SQL function."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any, TypeAlias
from uuid import UUID

import asyncpg

from eventstore.database import Connection, Database
from eventstore.errors import SubscriptionExists, SubscriptionNotFound
from eventstore.moments import to_datetime
from eventstore.selectors import Selector, check_selector, dump, load
from eventstore.subscriptions.model import (
    After,
    Claim,
    Node,
    Partition,
    Subscription,
    check_subscription,
    check_subscription_name,
    decode_after,
    encode_after,
)

__all__ = ["Ledger"]

Claims: TypeAlias = list[Claim]  # the method `list` hides the type inside the class
Nodes: TypeAlias = list[Node]


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
        """Store a subscription, or find the same definition stored already.

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
        if not row["created"] and row["differing"]:
            raise SubscriptionExists(name, row["differing"])
        return await self.get(name)

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

    async def register(self, node: UUID, name: str, ttl: float) -> None:
        """Take the first lease of an incarnation, for *ttl* seconds."""
        await self._database.rows("register_node_v1", node, name, ttl)

    async def renew(self, node: UUID, ttl: float) -> bool:
        """Renew the lease; False: it ran out, and everything it held is lost."""
        return bool(await self._database.value("renew_node_v1", node, ttl))

    async def leave(self, node: UUID) -> None:
        """Give up the lease and everything it holds."""
        await self._database.rows("leave_node_v1", node)

    async def claim(self, node: UUID, names: Sequence[str], held: Iterable[tuple[int, int]] = ()) -> Claims:
        """Take the free partitions of the subscriptions *names*, except those *held* (by `Claim.key`).

        Raises:
            LeaseLost: the node's lease ran out.
        """
        keys = list(held)
        rows = await self._database.rows(
            "claim_partitions_v1", node, list(names), [one for one, _ in keys], [number for _, number in keys]
        )
        return [_claim(row, node) for row in rows]

    async def settle(
        self, node: UUID, positions: Sequence[tuple[Claim, int]], on: Connection | None = None
    ) -> set[tuple[int, int]]:
        """Move checkpoints forward; returns the keys of the claims that were still held, the others are lost."""
        rows = await self._database.rows(
            "settle_partitions_v1",
            node,
            *_keys([claim for claim, _ in positions]),
            [position for _, position in positions],
            on=on,
        )
        return {(row["subscription_id"], row["partition"]) for row in rows}

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

    async def owned(self, node: UUID) -> set[tuple[int, int, int]]:
        """Return subscription id, partition number and epoch of everything the node owns."""
        return {tuple(row) for row in await self._database.rows("owned_partitions_v1", node)}


def _keys(claims: Sequence[Claim]) -> tuple[list[int], list[int], list[int]]:
    return [c.subscription_id for c in claims], [c.partition for c in claims], [c.epoch for c in claims]


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
    )


def _partition(row: asyncpg.Record) -> Partition:
    return Partition(
        number=row["partition"],
        checkpoint=row["checkpoint"],
        epoch=row["epoch"],
        owner=row["owner_name"],
        lease_until=None if row["lease_until"] is None else to_datetime(row["lease_until"]),
        state="running" if row["owner"] else "idle",
    )
