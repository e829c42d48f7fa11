"""The same campaign, the same checker, and a bug planted in what runs: it is found, and called by its name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.faults.campaign import Campaign, Scale, beside
from tests.faults.nemeses import Delay, IdleTransaction, KillServer, Nemesis
from tests.faults.reduced import working
from tests.faults.server import Server, server
from tests.hunt.journal import Entry
from tests.hunt.racing import SEED, connection, edit

pytestmark = pytest.mark.hunt

WRITERS = Scale(nodes=0, writers=2, readers=0, rate=60)
DELIVERING = Scale(nodes=2, writers=1, readers=0, rate=30, lease_ttl=1.5, run=("plain", "fold"))

UNFENCED = """
create or replace function eventstore.settle_partitions_v1(
    p_incarnation uuid, p_subscriptions bigint[], p_partitions int[], p_epochs bigint[], p_positions bigint[])
returns table (subscription_id bigint, partition int)
language sql volatile security definer set search_path = pg_catalog, eventstore, pg_temp
as $$
    update checkpoints c set position = t.position, settled_at = clock_timestamp()
      from unnest(p_subscriptions, p_partitions, p_positions) t(subscription_id, partition, position)
     where c.subscription_id = t.subscription_id and c.partition = t.partition
    returning c.subscription_id, c.partition
$$;
"""
"""Whoever says how far he is, is believed."""

FORGETFUL = """
create table public.forgotten (stream text);
create function public.forget() returns trigger language plpgsql as $$
begin
    insert into public.forgotten values (new.stream);
    return null;
end $$;
create trigger forget before update on folded for each row when (new.count % 3 = 0) execute function public.forget();
"""
"""A projection loses an update now and then, and its checkpoint moves all the same."""

STORED_TWICE = "select exists (select from eventstore.events group by id having count(*) > 1)"
NUMBERED_TWICE = "select exists (select from eventstore.events group by stream, version having count(*) > 1)"

FELL_AND_FORGOT = """
select exists (select from public.moves m join public.moves n using (subscription_id, partition)
                where n.id > m.id and n.position < m.position)
   and exists (select from public.forgotten)
"""


async def plant(own: Server, script: str) -> None:
    async with connection(own.dsn) as sql:
        await sql.execute(script)


async def edit_append(own: Server, old: str, new: str) -> None:
    async with connection(own.dsn) as sql:
        await edit(sql, "append_events_v1", old, new)


@asynccontextmanager
async def during(field: Campaign, nemesis: Nemesis) -> AsyncIterator[None]:
    await nemesis.start(field)
    yield
    await nemesis.heal(field)


async def found(field: Campaign) -> set[str]:
    await field.come_to_rest(within=5)
    return set((await field.checked())[0])


async def test_appends_that_look_for_no_ids_are_stored_twice_when_their_reply_is_lost(
    own: Server, tmp_path: Path
) -> None:
    await plant(own, "alter table eventstore.events drop constraint events_id_key")
    await edit_append(own, "exists (select from events e where e.id = any (p_ids))", "false")
    async with working(own, tmp_path, WRITERS) as field:
        while not await field.ask(STORED_TWICE):  # what a lost reply repeats may be refused for its expected version
            field.proxies["writer"].lose_replies = 1
            await asyncio.sleep(0.2)
        assert "duplicate" in await found(field), f"HUNT_SEED={SEED}"


async def test_streams_that_nobody_locks_get_the_same_versions_twice(own: Server, tmp_path: Path) -> None:
    await plant(own, "alter table eventstore.events drop constraint events_stream_version_key")
    await edit_append(own, "where s.name = p_streams[v_no] for update", "where s.name = p_streams[v_no]")
    async with working(own, tmp_path, WRITERS) as field:
        while not await field.ask(NUMBERED_TWICE):
            await asyncio.sleep(0.2)
        assert {"inverted_order", "position_conflict"} <= await found(field), f"HUNT_SEED={SEED}"


async def test_a_server_that_acknowledges_before_it_is_durable_loses_writes(data: Path, tmp_path: Path) -> None:
    with server(data, synchronous_commit="off", wal_writer_delay="10s") as hasty:
        async with working(hasty, tmp_path, WRITERS) as field:
            while "lost_write" not in (await field.checked())[0]:  # the WAL may have been written just before
                await field.ask("checkpoint")
                await field.goes_on()
                async with during(field, KillServer()):
                    pass
                await field.goes_on()
            assert "lost_write" in await found(field), f"HUNT_SEED={SEED}"


async def test_a_reader_that_knows_no_horizon_passes_over_what_commits_late(own: Server, tmp_path: Path) -> None:
    async with working(own, tmp_path, WRITERS) as field:
        async with beside(read_naively(field)):
            while "skipped_poll" not in (await field.checked())[0]:  # it may not look while something is held back
                async with during(field, IdleTransaction(commits=True)):
                    await field.goes_on()
            assert {"skipped_poll", "unseen"} <= await found(field), f"HUNT_SEED={SEED}"


async def read_naively(field: Campaign) -> None:
    query = "select id::text, position, stream, version from eventstore.events where position > $1 order by position"
    position = 0
    field.note(Entry("follow", "naive"))
    while True:
        for row in await field.rows(query, position):
            position = row["position"]
            field.note(Entry("read", "naive", "ok", row["id"], position, row["stream"], row["version"]))
        await asyncio.sleep(0.05)


async def test_an_owner_of_before_who_is_believed_and_a_projection_that_forgets_are_found(
    own: Server, tmp_path: Path
) -> None:
    await plant(own, UNFENCED)
    async with working(own, tmp_path, DELIVERING) as field:
        await plant(own, FORGETFUL)
        while not await field.ask(FELL_AND_FORGOT):  # what is late hits both nodes at times, and then nobody takes over
            async with during(field, Delay("node", "control")):
                await asyncio.sleep(2 * DELIVERING.lease_ttl)
            await field.goes_on()
        assert {"misfolded", "checkpoint_fell"} <= await found(field), f"HUNT_SEED={SEED}"
