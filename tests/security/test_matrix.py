"""Who may do what: each role, and a login without one, tries everything."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from eventstore import EventStore, Settings
from eventstore.errors import EventStoreError
from tests.faults.figures import note
from tests.security.actions import ACTIONS, Who, outcome, prepare
from tests.security.conftest import KINDS, PREFIX, dsn_as

REFUSALS = {"ConfigurationError", "InsufficientPrivilegeError"}
"""What a missing right is called: by the library, and by Postgres."""


@asynccontextmanager
async def logged_in(db: str, kind: str) -> AsyncIterator[Who]:
    dsn = dsn_as(db, kind)
    async with AsyncExitStack() as opened:
        store: EventStore | EventStoreError = EventStore(dsn, settings=Settings(listen=False))
        try:
            await opened.enter_async_context(store)  # type: ignore[arg-type]
        except EventStoreError as error:
            store = error
        plain = await asyncpg.connect(dsn)
        opened.push_async_callback(plain.close)
        yield Who(kind, dsn, plain, store)


async def wrong(who: Who, names: list[str]) -> dict[str, str]:
    """Return the cells that are not as the table says, with what happened."""
    found = {name: await outcome(ACTIONS[name][0], who) for name in names}
    expected = {name: who.kind in ACTIONS[name][1] for name in names}
    return {name: text for name, text in found.items() if not _as_expected(text, expected[name])}


def _as_expected(text: str, allowed: bool) -> bool:
    return text == "allowed" if allowed else text in REFUSALS


async def test_every_role_may_do_what_the_table_says_and_nothing_else(roles: str, owner: None) -> None:
    cells = 0
    for kind in KINDS:
        async with EventStore(roles, settings=Settings(listen=False)) as superuser:
            await prepare(superuser, kind)
        names = [name for name in ACTIONS if not (kind == "owner" and not ACTIONS[name][1])]
        async with logged_in(roles, kind) as who:
            assert (kind, await wrong(who, names)) == (kind, {})
        cells += len(names)
    assert cells >= 300
    note(cells=cells, roles=len(KINDS), actions=len(ACTIONS), otherwise_than_the_table=0)


async def test_not_even_the_owner_may_change_the_log(roles: str, owner: None, sql: asyncpg.Connection) -> None:
    await sql.execute("""select eventstore.append_events('s', '[{"type": "A", "tags": ["t"]}]')""")
    async with logged_in(roles, "owner") as who:
        # ES009 has no class of its own; that a session may do without triggers takes a superuser.
        found = [await outcome(ACTIONS[name][0], who) for name, (_, allowed) in ACTIONS.items() if not allowed]
        with pytest.raises(asyncpg.PostgresError, match="append-only") as refused:
            await who.sql("truncate eventstore.events")
    assert sorted(found) == ["InsufficientPrivilegeError"] + ["UnknownPostgresError"] * 4
    assert refused.value.sqlstate == "ES009"
    assert await sql.fetchval("select count(*) from eventstore.events") == 1


@pytest.mark.parametrize(
    ("planted", "kind", "name"),
    [
        ("grant execute on function eventstore.tombstone_stream_v1 to {}_reader", "reader", "tombstone a stream"),
        ("grant select on eventstore.events to {}_writer", "writer", "select from events"),
        ("revoke execute on function eventstore.head from {}_worker", "worker", "ask for the head"),
        (
            "grant execute on function eventstore.set_chain_v1, eventstore.chain_status_v1 to {}_writer",
            "writer",
            "turn evidence on and off",
        ),
        ("revoke execute on function eventstore.list_seals_v1 from {}_reader", "reader", "export seals"),
    ],
)
async def test_a_right_too_many_or_too_few_is_caught(
    roles: str, sql: asyncpg.Connection, planted: str, kind: str, name: str
) -> None:
    await sql.execute("""select eventstore.append_events('stream-reader', '[{"type": "A"}]')""")
    await sql.execute(planted.format(PREFIX))
    async with logged_in(roles, kind) as who:
        assert list(await wrong(who, [name])) == [name]


def test_the_documentation_shows_the_table() -> None:
    page = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
    for name, (_, allowed) in ACTIONS.items():
        assert f"| {name} | {' | '.join('yes' if kind in allowed else '' for kind in KINDS)} |" in page
