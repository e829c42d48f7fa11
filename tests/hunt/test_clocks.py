"""Nodes whose wall clocks are wrong: leases are counted by the database, so it makes no difference to anybody."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults.clocks import CLOCKS
from tests.faults.figures import note
from tests.hunt.delivering import Hunt, Node, hunting
from tests.hunt.racing import SEED, times
from tests.hunt.subscription_node import Plan

pytestmark = pytest.mark.hunt

TTL = times(1.0, 2.0)

ROBBED = """
create table public.robbed (what text, at timestamptz default clock_timestamp());
create function public.note_robbed() returns trigger language plpgsql as $$
begin
    if tg_table_name = 'nodes' then
        insert into public.robbed select 'the lease of ' || old.name || ' was ended'
         where old.lease_until > clock_timestamp();
    else
        insert into public.robbed select 'partition ' || old.partition || ' was taken from ' || n.name
          from eventstore.nodes n
         where n.incarnation = old.owner and new.owner <> old.owner and n.lease_until > clock_timestamp();
    end if;
    return null;
end $$;
create trigger note_robbed after delete on eventstore.nodes for each row execute function public.note_robbed();
create trigger note_robbed after update on eventstore.checkpoints
    for each row execute function public.note_robbed();
"""
"""Whenever somebody loses a partition, or his lease, before it ran out by the clock of the database."""


async def start(hunt: Hunt, clock: str) -> Node:
    hunt.plan = replace(hunt.plan, clock=clock)
    return await hunt.start(clock or "right")


async def all_are_owned_without(hunt: Hunt, node: Node) -> bool:
    owned = await hunt.sql.fetchval("select count(owner) from eventstore.checkpoints")
    return bool(owned == hunt.plan.pool_size and await hunt.owns(node) == 0)


async def test_nodes_with_wrong_clocks_neither_rob_nor_wait_longer_than_a_lease(db: str, tmp_path: Path) -> None:
    rng, kills, took = random.Random(SEED), times(1, 30), list[float]()
    async with hunting(db, tmp_path, Plan(lease_ttl=TTL, pause=0.002), (400, 1_200)) as hunt:
        await hunt.sql.execute(ROBBED)
        nodes = {clock: await start(hunt, clock) for clock in times(["ahead", "backwards"], list(CLOCKS))}
        async with hunt.loaded(40, at_once=10, pause=0.02):
            for _ in range(kills):
                await hunt.until(lambda: each_owns_some(hunt, nodes.values()))
                clock = rng.choice(sorted(nodes))
                began = time.monotonic()
                await nodes[clock].kill()
                await hunt.until(lambda clock=clock: all_are_owned_without(hunt, nodes[clock]))  # type: ignore[misc]
                took.append(time.monotonic() - began)
                nodes[clock] = await start(hunt, clock)
        await hunt.settled("plain")
        robbed = [row["what"] for row in await hunt.sql.fetch("select what from public.robbed order by at")]
        await hunt.end()
        assert robbed == [], f"HUNT_SEED={SEED}"
        assert await hunt.anomalies("plain") == {}, f"HUNT_SEED={SEED}"
    assert max(took) <= times(30, TTL + 1)
    note(clocks=len(nodes), kills=kills, events=hunt.appended, lease_s=TTL, slowest_takeover_s=round(max(took), 2),
         robbed=0, anomalies=0)  # fmt: skip


async def each_owns_some(hunt: Hunt, nodes: object) -> bool:
    return all([await hunt.owns(node) for node in nodes])  # type: ignore[attr-defined]


async def test_a_partition_taken_before_the_lease_ran_out_is_caught(db: str, tmp_path: Path) -> None:
    """The planted bug: somebody takes his own clock, which is an hour ahead, for the database's."""
    async with hunting(db, tmp_path, Plan(lease_ttl=TTL)) as hunt:
        await hunt.sql.execute(ROBBED)
        node = await start(hunt, "")
        await hunt.until(lambda: each_owns_some(hunt, [node]))
        while not await hunt.sql.fetchval("select count(*) from public.robbed"):  # what is locked just then is left out
            await hunt.sql.execute("select eventstore.remove_dead_nodes_v1(clock_timestamp() + '1 hour')")
