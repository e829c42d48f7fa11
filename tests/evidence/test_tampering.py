"""A superuser tampers with the log; with the seals at hand every tampering is found, and the first break is named.

Reduced in a plain run; 1,000 tamperings with HUNT=full.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import asyncpg
import pytest

from eventstore import EventStore, NewEvent, Settings, StreamMetadata
from eventstore.database import Database
from eventstore.evidence.keys import SigningKey, create
from eventstore.evidence.sealing import seal
from eventstore.evidence.seals import Seal
from eventstore.evidence.verifying import Verified, verify
from eventstore.evidence.walking import Break, SealWalk
from tests.evidence.conftest import NOW, Evidence
from tests.evidence.tampering import KINDS, Log, Tampering, edit_and_chain_again
from tests.faults.figures import note
from tests.hunt.racing import SEED, times

TAMPERINGS = times(len(KINDS), 1000)


async def write(chain: Evidence, random: Random) -> None:
    """A log with all there can be: what was before the chain, a gap in it, stubs of both kinds, no stream, tags."""

    async def some(count: int) -> None:
        for n in range(count):
            stream = random.choice(["a", "b", "c", "d", "old", None])
            tags = random.sample(["x", "y", "z z"], random.randrange(3))
            data = {"n": n, "text": random.choice(["", "ü", '"', "\\"])}
            batch = [NewEvent("A", data, metadata={"n": n}, tags=tags) for _ in range(random.randrange(1, 4))]
            await chain.store.append(stream, batch)
        await chain.sql.execute("select nextval('eventstore.event_positions')")

    await some(6)
    await chain.turn(True)
    await some(15)
    await chain.seal()
    await chain.turn(False)
    await some(6)
    await chain.turn(True)
    await some(8)
    for stream in ("a", "b", None):  # whatever the choice was
        await chain.store.append(stream, [NewEvent("A", {"n": 0})])
    await chain.store.append("old", [NewEvent("A")])
    await chain.store.set_stream_metadata("old", StreamMetadata(max_count=2))
    await chain.store.scavenge()
    await chain.seal()
    await some(12)
    await chain.seal()


class Tampered:
    """One connection, on which a tampering is done, looked at and undone."""

    def __init__(self, database: Database, connection: Any, log: Log, kept: Sequence[Seal], key: SigningKey) -> None:
        self.database, self.log, self.kept, self.key = database, log, kept, key
        self._connection = connection

    @asynccontextmanager
    async def by(self, statements: Sequence[str]) -> AsyncIterator[None]:
        settings = await self._connection.fetch(
            "select 'event_positions', last_value from eventstore.event_positions"
            " union all select 'event_chain', last_value from eventstore.event_chain"
        )
        await self._connection.execute(
            "begin; set local session_replication_role = replica; set local search_path = eventstore, pg_catalog"
        )
        try:
            for statement in statements:
                await self._connection.execute(statement)
            yield
        finally:
            await self._connection.execute("rollback")
            for name, value in settings:  # which no rollback sets back
                await self._connection.execute(f"select setval('eventstore.{name}', {value}, true)")

    async def verify(self, **options: Any) -> Verified:
        return await verify(self.database, **{"seals": self.kept, "keys": [self.key.public]} | options)


@pytest.fixture
async def tampered(off: Evidence, db: str, key: SigningKey) -> AsyncIterator[Tampered]:
    await write(off, Random(SEED))
    events = await off.sql.fetch("select * from eventstore.events order by position")
    used = {one["position"] for one in events}
    log = Log(events, [n for n in range(1, max(used)) if n not in used])
    assert log.free
    database = Database(Settings(), 1)
    await database.start(db, "eventstore")
    async with database.acquire() as connection:
        held = connection
    yield Tampered(database, held, log, off.kept, key)
    await database.stop()


def names(found: Break, tampering: Tampering) -> bool:
    """Whether *found* is where it was tampered with."""
    if found.position is None or not tampering.first:
        return found.position is None or not tampering.first
    after = found.position - 1 if found.after is None else found.after
    return any(after < one <= found.position for one in tampering.first)


@pytest.mark.hunt
async def test_every_tampering_is_found_with_the_seals_at_hand_and_named(tampered: Tampered) -> None:
    missed, misnamed, counted = [], [], Counter[str]()
    for number in range(TAMPERINGS):
        kind, random = KINDS[number % len(KINDS)], Random(f"{SEED}:{number}")
        tampering = kind(random, tampered.log)
        # Some also remove what seals the database holds.
        more = ["delete from seals"] if random.random() < 0.3 else []
        async with tampered.by([*tampering.statements, *more]):
            found = await tampered.verify()
        counted[kind.__name__] += 1
        breaks = [one for one in found.breaks if "in the database" not in one.what]
        if not breaks:
            missed.append((number, kind.__name__, tampering))
        elif not names(breaks[0], tampering):
            misnamed.append((number, kind.__name__, tampering.first, breaks[:3]))
        assert not more or any("missing in the database" in one.what for one in found.breaks)
    assert (missed, misnamed) == ([], []), f"HUNT_SEED={SEED}"
    note(
        tamperings=counted.total(), kinds=len(counted), found=counted.total(), named_first=counted.total(),
        of_each_kind=counted,
    )  # fmt: skip
    assert (await tampered.verify()).intact


@pytest.mark.hunt
async def test_a_hundred_thousand_events_are_verified_within_a_minute(off: Evidence) -> None:
    events = times(2_000, 100_000)
    await off.turn(True)
    for number in range(0, events, 500):
        await off.store.append_known([f"s{number % 50}"] * 500, [NewEvent("A", {"n": n}) for n in range(500)])
    await off.seal()
    began = time.monotonic()
    found = await off.verify()
    took = time.monotonic() - began
    assert (found.intact, found.events) == (True, events)
    assert took <= times(600, 60)
    note(events_verified=events, within_s=round(took, 1))


async def test_without_seals_what_could_have_been_written_that_way_is_not_found(tampered: Tampered) -> None:
    for number, kind in enumerate(KINDS):
        tampering = kind(Random(f"{SEED}:{number}"), tampered.log)
        async with tampered.by([*tampering.statements, "delete from seals"]):
            found = await tampered.verify(seals=[], keys=[])
        if tampering.alone is not None:
            assert found.intact is not tampering.alone, (kind.__name__, tampering, found.breaks)


async def test_a_log_written_again_from_its_start_with_seals_of_another_key_is_found(
    tampered: Tampered, db: str, tmp_path: Any
) -> None:
    create(tmp_path / "forger")
    forger = SigningKey.read(tmp_path / "forger")
    unhashed = next(one["position"] for one in tampered.log.events if one["hash"] is None and one["data"] is not None)
    async with tampered.by([f"update events set data = '0' where position = {unhashed}", "delete from seals"]):
        forged = await seal(tampered.database, forger, now=NOW)
        assert forged is not None
        assert (await tampered.verify(seals=[], keys=[])).intact
        found = await tampered.verify()
        assert "seal 1 in the database is not the one that was made" in [one.what for one in found.breaks]
        assert (await tampered.verify(seals=[])).found == 1  # the public key alone finds the forger


async def test_a_seal_that_another_key_signed_is_no_seal(tampered: Tampered, tmp_path: Any) -> None:
    create(tmp_path / "other")
    other = SigningKey.read(tmp_path / "other")
    found = await tampered.verify(keys=[other.public])
    assert [one.seal for one in found.breaks] == [1, 2, 3]


async def test_what_was_done_to_the_stored_seals_is_named(tampered: Tampered) -> None:
    for statement, number in (
        ("delete from seals where number = 2", 2),
        ("delete from seals where number = 3", 3),
        ("update seals set seal = '{}' where number = 1", 1),
        ("update seals set seal = replace(seal, '2024', '2023') where number = 2", 2),
        ("update seals set number = number + 10 where number = 3", 3),
        ("update seals s set seal = (select o.seal from seals o where o.number = 3 - s.number) where number < 3", 1),
    ):
        async with tampered.by([statement]):
            found = await tampered.verify()
            assert number in [one.seal for one in found.breaks], statement
            # Without those that were kept only a last seal can go unnoticed.
            assert (await tampered.verify(seals=[])).intact is (statement == "delete from seals where number = 3")


async def test_a_verifier_that_does_not_compare_with_seals_is_caught(
    tampered: Tampered, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SealWalk, "finish", lambda *_: iter(()))
    tampering = edit_and_chain_again(Random(1), tampered.log)
    async with tampered.by(tampering.statements):
        assert (await tampered.verify()).intact


async def test_one_stream_is_verified_alone(tampered: Tampered) -> None:
    victim = next(one for one in tampered.log.of("a") if len(one["hash"] or b"") == 48)
    async with tampered.by([f"update events set data = '0' where position = {victim['position']}"]):
        found = await tampered.verify(stream="a", seals=[], keys=[])
        assert [(one.stream, one.version) for one in found.breaks] == [("a", victim["version"])]
        assert (await tampered.verify(stream="b", seals=[], keys=[])).intact


async def test_since_the_last_seal_only_what_is_new_is_looked_at(tampered: Tampered) -> None:
    async with tampered.by(["update events set data = '0' where position = 3"]):
        assert (await tampered.verify(since_seal=True)).events == 0


async def test_a_removal_by_hand_that_looks_like_scavenging_cannot_be_told_from_it(tampered: Tampered) -> None:
    victim = next(one for one in tampered.log.of("a") if len(one["hash"] or b"") == 48 and not one["tags"])
    forged = (
        "update events set data = null, metadata = '{}', hash = event_content_v1(substr(hash, 1, 16), data, metadata,"
        f" tags::text) || substr(hash, 17) where position = {victim['position']}"
    )
    async with tampered.by([forged]):
        assert (await tampered.verify()).intact


async def test_breaks_are_counted_beyond_those_that_are_kept(off: Evidence, sql: asyncpg.Connection) -> None:
    await off.turn(True)
    await off.store.append("s", [NewEvent("A")] + [NewEvent("A") for _ in range(149)])
    await off.tamper("update events set type = 'B'")
    found = await off.verify()
    assert (found.found, len(found.breaks)) == (150, 100)
    assert found.first is not None
    assert found.first.position == 1


async def test_events_beyond_a_page_are_looked_at(off: Evidence, db: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventstore.evidence.verifying.PAGE", 3)
    await off.turn(True)
    async with EventStore(db, settings=Settings(listen=False)) as store:
        for name in ("a", "b", "c", "d", "e"):
            await store.append(name, [NewEvent("A", tags=["t", name]) for _ in range(3)])
    await off.seal()
    assert (await off.verify()).events == 15
    await off.tamper(
        "insert into event_tags values ('zz', 15)", "update streams set version = 4 where name = 'e'",
        "update events set type = 'B' where position = 14",
    )  # fmt: skip
    found = await off.verify()
    assert {one.position for one in found.breaks} == {14, 15, None}
