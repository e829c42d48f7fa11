from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from pytest_postgresql.janitor import DatabaseJanitor

from tests.conftest import dsn_of
from tests.tracker import clusters
from tests.tracker.clusters import Cluster


@pytest.fixture(scope="session")
def tracker_db(pg: Any) -> Iterator[str]:
    """DSN of a database shared by the tests of trackers, whose PubSubs have names of their own."""
    dbname = f"{pg.dbname}_tracker"
    with DatabaseJanitor(user=pg.user, host=pg.host, port=pg.port, dbname=dbname, template_dbname=pg.template_dbname):
        yield dsn_of(pg.host, pg.port, pg.user, dbname)


@pytest.fixture
async def local() -> AsyncIterator[Cluster]:
    """Opens nodes of one PubSub inside this process."""
    async with clusters.opened(clusters.local_cluster()) as cluster:
        yield cluster


@pytest.fixture(params=["local", "postgres"])
def unopened(request: pytest.FixtureRequest) -> Cluster:
    if request.param == "local":
        return clusters.local_cluster()
    return clusters.postgres_cluster(request.getfixturevalue("tracker_db"))


@pytest.fixture
async def cluster(unopened: Cluster) -> AsyncIterator[Cluster]:
    """Opens nodes of one PubSub, on each adapter in turn."""
    async with clusters.opened(unopened):
        yield unopened
