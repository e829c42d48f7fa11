"""Seals: made, kept, checked; forged, removed, reordered."""

from __future__ import annotations

import json
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from eventstore import NewEvent
from eventstore.errors import ConfigurationError, TransactionConflict
from eventstore.evidence.keys import PublicKey, SigningKey, create
from eventstore.evidence.sealing import NotIntact
from eventstore.evidence.seals import MARKS, Mark, Seal, append_to, parse, read_file, signed, unlinked
from tests.evidence.conftest import Evidence


async def append(chain: Evidence, count: int = 3, stream: str = "s") -> None:
    await chain.store.append(stream, [NewEvent("A", {"n": n}) for n in range(count)])


async def test_a_seal_covers_what_came_after_the_one_before(chain: Evidence) -> None:
    await append(chain, 3)
    first = await chain.seal()
    await append(chain, 2)
    second = await chain.seal()
    assert first is not None
    assert second is not None
    assert [(one.number, one.after, one.position, one.events, one.total) for one in (first, second)] == [
        (1, 0, 3, 3, 3),
        (2, 3, 5, 2, 5),
    ]
    assert second.previous == first.digest
    assert list(unlinked([first, second])) == []
    found = await chain.verify()
    assert (found.intact, found.seals, found.sealed_upto, found.signed) == (True, 2, 5, True)


async def test_nothing_new_is_no_seal(chain: Evidence) -> None:
    assert await chain.seal() is None
    await append(chain)
    assert await chain.seal() is not None
    assert await chain.seal() is None


async def test_marks_are_few_and_end_with_the_seal(chain: Evidence) -> None:
    await append(chain, 300)
    made = await chain.seal()
    assert made is not None
    assert MARKS // 2 <= len(made.marks) <= MARKS
    assert made.marks[-1][:2] == (300, 300)
    assert (await chain.verify()).intact


async def test_positions_that_were_never_used_are_no_break(chain: Evidence) -> None:
    await append(chain)
    await chain.sql.execute("select nextval('eventstore.event_positions') from generate_series(1, 50)")
    made = await chain.seal()
    assert made is not None
    assert (made.position, made.events) == (53, 3)
    await append(chain)
    assert (await chain.verify()).intact


async def test_without_a_chain_there_is_nothing_to_seal(off: Evidence) -> None:
    await append(off)
    with pytest.raises(ConfigurationError, match="evidence on"):
        await off.seal()


async def test_the_first_seal_covers_what_was_there_before_the_chain(off: Evidence) -> None:
    await append(off)
    await off.turn(True)
    await off.seal()
    await off.tamper("update events set data = '7' where position = 2")
    found = (await off.verify()).first
    assert found is not None
    assert (found.position, found.seal) == (2, 1)


async def test_what_is_broken_is_not_sealed(chain: Evidence) -> None:
    await append(chain)
    await chain.tamper("update events set type = 'B' where position = 2")
    with pytest.raises(NotIntact) as caught:
        await chain.seal()
    assert (caught.value.position, caught.value.stream, caught.value.version) == (2, "s", 2)


@pytest.mark.parametrize(
    "statement",
    ["delete from seals", "update seals set seal = '{}'", "update seals set seal = replace(seal, '3', '4')"],
)
async def test_a_last_seal_that_is_not_ours_is_not_built_on(chain: Evidence, statement: str) -> None:
    await append(chain)
    await chain.seal()
    await append(chain)
    await chain.tamper(statement)
    with pytest.raises(NotIntact):
        await chain.seal(kept=chain.kept)


async def test_seals_are_stored_one_after_the_other(chain: Evidence) -> None:
    with pytest.raises(TransactionConflict, match="not the next"):
        await chain.store.database.rows("add_seal_v1", 2, "{}")


async def test_a_new_key_goes_on_where_the_old_one_is_known(chain: Evidence, key: SigningKey, tmp_path: Path) -> None:
    await append(chain)
    await chain.seal()
    await append(chain)
    create(tmp_path / "new")
    chain.key = SigningKey.read(tmp_path / "new")
    with pytest.raises(NotIntact, match="--public-key"):
        await chain.seal()
    await chain.seal(keys=[key.public])
    assert (await chain.verify(keys=[key.public, chain.key.public])).intact
    assert not (await chain.verify()).intact


async def test_seals_cannot_be_removed_from_the_table(chain: Evidence) -> None:
    await append(chain)
    await chain.seal()
    for statement in ("delete from eventstore.seals", "truncate eventstore.seals"):
        with pytest.raises(Exception, match="append-only"):
            await chain.sql.execute(statement)


async def test_older_seals_of_the_database_count_beside_those_that_were_kept(chain: Evidence) -> None:
    for _ in range(3):
        await append(chain)
        await chain.seal()
    found = await chain.verify(seals=chain.kept[1:2])
    assert (found.intact, found.seals) == (True, 3)


async def test_kept_seals_need_a_key(chain: Evidence) -> None:
    await append(chain)
    await chain.seal()
    with pytest.raises(ConfigurationError, match="public key"):
        await chain.verify(keys=[])


def seal(key: SigningKey, **changed: object) -> Seal:
    made = Seal(1, "s", 0, 3, 3, 3, (Mark(3, 3, "00"),), "00" * 32, "2024-01-01T00:00:00+00:00", key.public.name)
    return signed(replace(made, **changed), key)  # type: ignore[arg-type]


def test_a_seal_comes_back_from_its_line(key: SigningKey, tmp_path: Path) -> None:
    made = seal(key)
    append_to(tmp_path / "seals", [made])
    append_to(tmp_path / "seals", [made])
    assert read_file(tmp_path / "seals") == [made, made]
    assert made.signed_by([key.public])


@pytest.mark.parametrize(
    "changed",
    [{"position": 4}, {"events": 2}, {"previous": "11" * 32}, {"sealed_at": "x"}, {"schema": "t"}, {"number": 2}],
)
def test_a_change_of_anything_breaks_the_signature(key: SigningKey, changed: dict[str, object]) -> None:
    assert not replace(seal(key), **changed).signed_by([key.public])  # type: ignore[arg-type]


def test_another_key_of_the_same_name_is_another_key(key: SigningKey, tmp_path: Path) -> None:
    create(tmp_path / "other")
    other = PublicKey.read(tmp_path / "other.pub")
    other.name = key.public.name
    assert not seal(key).signed_by([other])


@pytest.mark.parametrize(
    "line",
    [
        "", "{}", "[]", "7", "nonsense", '{"number": 1}', "[" * 100_000,
        '{"number":"1","schema":"s","after":0,"position":3,"events":3,"total":3,"marks":[[3,3,"00"]],"previous":"","sealed_at":"","key":"","signature":""}',
    ],
)  # fmt: skip
def test_what_is_no_seal_is_told(line: str) -> None:
    with pytest.raises(ConfigurationError, match="no seal"):
        parse(line)


@pytest.mark.parametrize("field", ["number", "after", "position", "events", "total", "marks", "previous", "signature"])
@pytest.mark.parametrize("value", [None, "zz", 1.5, [], [[1]], [["a", 1, ""]], True])
def test_a_field_of_another_kind_is_told(key: SigningKey, field: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match="no seal"):
        parse(json.dumps(json.loads(seal(key).line) | {field: value}))


def test_seals_must_follow_each_other(key: SigningKey) -> None:
    one = seal(key)
    two = seal(key, number=2, after=3, position=5, events=2, total=5, previous=one.digest, marks=(Mark(5, 2, ""),))
    assert list(unlinked([one, two])) == []
    assert list(unlinked([two])) == []
    for wrong in ({"number": 3}, {"after": 2}, {"previous": "00" * 32}, {"total": 9}):
        assert [what for _, what in unlinked([one, replace(two, **wrong)])]  # type: ignore[arg-type]
    assert [what for _, what in unlinked([replace(one, after=1)])]


def test_a_private_key_is_for_its_owner_alone_and_never_written_over(tmp_path: Path) -> None:
    create(tmp_path / "key")
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    with pytest.raises(ConfigurationError, match="cannot write"):
        create(tmp_path / "key")


def test_what_is_no_key_is_told(tmp_path: Path) -> None:
    create(tmp_path / "key")
    (tmp_path / "empty").touch()
    for path in ("empty", "missing", "key.pub"):
        with pytest.raises(ConfigurationError):
            SigningKey.read(tmp_path / path)
    for path in ("empty", "missing", "key"):
        with pytest.raises(ConfigurationError):
            PublicKey.read(tmp_path / path)
