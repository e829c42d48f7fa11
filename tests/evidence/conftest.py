"""A store with the chain on, a key, and short ways to seal and verify."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from eventstore import EventStore, Settings
from eventstore.evidence.keys import PublicKey, SigningKey, create
from eventstore.evidence.sealing import seal
from eventstore.evidence.seals import Seal
from eventstore.evidence.switching import turn
from eventstore.evidence.verifying import Verified, verify

NOW = datetime(2024, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="session")
def key(tmp_path_factory: pytest.TempPathFactory) -> SigningKey:
    path = tmp_path_factory.mktemp("keys") / "key.pem"
    create(path)
    return SigningKey.read(path)


@pytest.fixture
def key_files(tmp_path: Path) -> tuple[Path, Path]:
    create(tmp_path / "key.pem")
    return tmp_path / "key.pem", tmp_path / "key.pem.pub"


class Evidence:
    """One store's."""

    def __init__(self, store: EventStore, sql: asyncpg.Connection, key: SigningKey) -> None:
        self.store, self.sql, self.key = store, sql, key
        self.kept: list[Seal] = []

    async def turn(self, on: bool) -> Any:
        return await turn(self.store.database, on)

    async def seal(self, **options: Any) -> Seal | None:
        made = await seal(self.store.database, self.key, now=NOW, **options)
        if made is not None:
            self.kept.append(made)
        return made

    async def verify(self, **options: Any) -> Verified:
        """With the seals that were kept; without any, if there are none or ``seals=[]``."""
        options = {"seals": self.kept} | options
        keys: list[PublicKey] = [self.key.public] if options["seals"] else []
        return await verify(self.store.database, **{"keys": keys} | options)

    async def tamper(self, *statements: str) -> None:
        """Do what only a superuser can."""
        async with self.sql.transaction():
            await self.sql.execute("set local session_replication_role = replica; set local search_path = eventstore")
            for statement in statements:
                await self.sql.execute(statement)


@pytest.fixture
async def off(db: str, sql: asyncpg.Connection, key: SigningKey) -> AsyncIterator[Evidence]:
    """A store that was never chained."""
    async with EventStore(db, settings=Settings(listen=False)) as store:
        yield Evidence(store, sql, key)


@pytest.fixture
async def chain(off: Evidence) -> Evidence:
    """A store whose chain is on."""
    await off.turn(True)
    return off
