from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from tests.conftest import Databases
from tests.pubsub.nodes import local_adapters, postgres_adapters
from tests.tracker.clusters import WITHIN, Cluster


@pytest.fixture(scope="session")
def tracker_db(databases: Databases, pg: Any) -> Iterator[str]:
    """DSN of a database shared by the tests of trackers, whose PubSubs have names of their own."""
    with databases.fresh(f"{pg.dbname}_tracker") as dsn:
        yield dsn


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Farewells are said, however long the machine takes for them."""
    monkeypatch.setattr("eventstore.tracker.tracker.FAREWELL_WITHIN", WITHIN)


@pytest.fixture
async def local() -> AsyncIterator[Cluster]:
    """Opens nodes of one PubSub inside this process."""
    cluster = Cluster(local_adapters())
    async with cluster.stack:
        yield cluster


@pytest.fixture(params=["local", "postgres"])
def unopened(request: pytest.FixtureRequest) -> Cluster:
    if request.param == "local":
        return Cluster(local_adapters())
    return Cluster(postgres_adapters(request.getfixturevalue("tracker_db")))


@pytest.fixture
async def cluster(unopened: Cluster) -> AsyncIterator[Cluster]:
    """Opens nodes of one PubSub, on each adapter in turn."""
    async with unopened.stack:
        yield unopened
