"""A node that is cut off from its database: another one goes on, and nothing of the one cut off counts any more."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.figures import note
from tests.hunt.delivering import ROOT, Hunt, Node, hunting
from tests.hunt.journal import Entry
from tests.hunt.netsplits import Network, NoNetworks, network
from tests.hunt.racing import FULL, times
from tests.hunt.subscription_node import Plan
from tests.hunt.test_subscription_nodes import FOLDED, MISFOLDED, OWNED, both_own, owns_all, write_as_before
from tests.operating.clusters import Cluster, durable, template

pytestmark = pytest.mark.hunt

TTL = 2.0
GONE_WITHIN = 30.0


@pytest.fixture
def net() -> Iterator[Network]:
    try:
        with network() as made:
            yield made
    except NoNetworks as missing:
        pytest.skip(str(missing))


@pytest.fixture
def server(net: Network) -> Iterator[Cluster]:
    """One that is reached by the network, too."""
    with template() as data:
        with (data / "pg_hba.conf").open("a") as rules:
            rules.write(f"host all all {net.there}/32 trust\n")
        with durable(data, listen_addresses=net.here) as made:
            yield made


async def start_behind(net: Network, hunt: Hunt, name: str) -> Node:
    """Start a node on the other side of *net*."""
    dsn = f"postgresql://postgres@{net.here}:5432/postgres"
    arguments = (dsn, str(hunt._directory / f"{name}.jsonl"), name, hunt.plan.json())
    process = await asyncio.create_subprocess_exec(
        *net.command(sys.executable, "-m", "tests.hunt.subscription_node", *arguments),
        cwd=ROOT, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    hunt.nodes.append(node := Node(name, process, hunt))
    return node


async def sessions(hunt: Hunt, net: Network) -> set[int]:
    """The server's sessions of who is on the other side."""
    query = "select pid from pg_stat_activity where client_addr = $1::inet"
    return {row["pid"] for row in await hunt.sql.fetch(query, net.there)}


async def none_of(pids: set[int], hunt: Hunt, net: Network) -> bool:
    return not pids & await sessions(hunt, net)


async def split(hunt: Hunt, net: Network, far: Node, near: Node, *, until_gone: bool) -> tuple[float, float]:
    """Cut *far* off and heal it; return when the other one had all, and when the last session was gone."""
    before, pids = await hunt.sql.fetch(OWNED, far.name), await sessions(hunt, net)
    assert pids
    hunt.note(Entry("stop", far.name, at=time.time()))
    began = time.monotonic()
    net.part()
    await hunt.until(lambda: owns_all(hunt, near))
    taken = time.monotonic() - began
    await hunt.settles(4)
    if until_gone:
        await hunt.until(lambda: none_of(pids, hunt, net), 120)
    gone = time.monotonic() - began
    await write_as_before(hunt, before)
    net.heal()
    await hunt.until(lambda: both_own(hunt, [far, near]), 120)
    return taken, gone


async def test_a_node_cut_off_is_fenced_its_sessions_end_and_it_comes_back(
    server: Cluster, net: Network, tmp_path: Path
) -> None:
    plan = Plan(run=("plain", "fold"), pool_size=4, lease_ttl=TTL, pause=0.005)
    taken, gone = list[float](), list[float]()
    async with hunting(server.dsn, tmp_path, plan, (600, 900)) as hunt:
        await hunt.sql.execute(FOLDED)
        far, near = await start_behind(net, hunt, "far"), await hunt.start("near")
        async with hunt.loaded(20, at_once=5, pause=0.05):
            await hunt.until(lambda: both_own(hunt, [far, near]))
            for _ in range(times(1, 10)):
                took, ended = await split(hunt, net, far, near, until_gone=FULL)
                taken.append(took)
                gone.append(ended)
        await hunt.settled("plain", "fold")
        await hunt.end()
        assert await hunt.sql.fetch(MISFOLDED) == []
        assert await hunt.anomalies(*plan.run) == {}
    assert max(taken) <= times(60, TTL + 1)
    assert max(gone) <= times(60, GONE_WITHIN)
    note(
        splits=len(taken), events=hunt.appended, lease_s=TTL, slowest_takeover_s=round(max(taken), 2),
        sessions_gone_after_s=round(max(gone), 1), stale_writes_taken=0, anomalies=0,
    )  # fmt: skip
