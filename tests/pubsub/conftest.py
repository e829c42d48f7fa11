from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from tests.conftest import Databases
from tests.pubsub import nodes
from tests.pubsub.nodes import Cluster


@pytest.fixture(scope="session")
def pubsub_db(databases: Databases, pg: Any) -> Iterator[str]:
    """DSN of a database shared by the tests of the suite, whose PubSubs have names of their own."""
    with databases.fresh(f"{pg.dbname}_pubsub") as dsn:
        yield dsn


@pytest.fixture(scope="session")
def redis_server() -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    pytest.importorskip("redis", reason="redis-py is not installed")
    try:
        with nodes.redis_server() as running:
            yield running
    except FileNotFoundError as missing:
        pytest.skip(str(missing))


@pytest.fixture
def redis_url(redis_server: tuple[str, Any]) -> str:
    return redis_server[0]


@pytest.fixture(params=["local", "postgres", "redis"])
def unopened(request: pytest.FixtureRequest) -> Cluster:
    if request.param == "postgres":
        return nodes.postgres_cluster(request.getfixturevalue("pubsub_db"))
    if request.param == "redis":
        return nodes.redis_cluster(request.getfixturevalue("redis_url"))
    return Cluster(nodes.local_adapters())


@pytest.fixture
async def cluster(unopened: Cluster) -> AsyncIterator[Cluster]:
    """Opens nodes of one PubSub, on each adapter in turn."""
    async with unopened.stack:
        yield unopened
