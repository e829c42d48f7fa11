"""Tenants that share a pooler's connections: nothing of the one is left on them for the other."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import asyncpg
import pytest

from eventstore import All, Delivery, Event, EventStore, NewEvent
from tests.conftest import QUICK
from tests.operating.pgbouncer import pgbouncer
from tests.tenants.test_stores import data_of, running

LEFT = "select coalesce(current_setting('eventstore.tenant', true), '')"


async def test_tenants_share_two_connections_of_a_pooler_in_transaction_mode(shared: str) -> None:
    settings = replace(QUICK, listen_dsn=shared)
    with pgbouncer(shared, size=3) as pooler:
        dsn = pooler.dsn(shared)
        names = ("acme", "rival", "third")
        stores = [EventStore(dsn, tenant=name, settings=settings, node_name=name) for name in names]
        got: dict[str, list[object]] = {name: [] for name in names}
        for store in stores:

            @store.handler("all", All())
            async def handle(event: Event, delivery: Delivery, mine: list[object] = got[store.tenant or ""]) -> None:
                mine.append(event.data)

        for store in stores:
            await store.__aenter__()
        try:
            async with running(*stores):
                appends = (
                    store.append(f"s-{n % 3}", [NewEvent("A", store.tenant)]) for n in range(30) for store in stores
                )
                last = max(one.position for one in await asyncio.gather(*appends))
                for store in stores:
                    assert await data_of(store) == [store.tenant] * 30
                    await store.subscriptions.wait_for("all", last)
        finally:
            for store in stores:
                await store.__aexit__()
        plain = await asyncpg.connect(dsn, statement_cache_size=0)
        assert {await plain.fetchval(LEFT) for _ in range(10)} == {""}
        await plain.close()
    assert got == {name: [name] * 30 for name in names}


async def test_a_tenant_left_on_a_pooled_connection_would_be_somebody_elses(shared: str) -> None:
    with pgbouncer(shared, size=1) as pooler:
        careless, next_one = [await asyncpg.connect(pooler.dsn(shared), statement_cache_size=0) for _ in range(2)]
        await careless.execute("set eventstore.tenant = 'acme'")
        assert await next_one.fetchval(LEFT) == "acme"
        # Who names its own is not misled, and who names none is refused nevertheless.
        async with EventStore(pooler.dsn(shared), tenant="rival", settings=replace(QUICK, listen=False)) as store:
            assert store.database.tenant == "rival"
            assert await data_of(store) == []
        with pytest.raises(Exception, match="none is named"):
            await EventStore(pooler.dsn(shared), settings=replace(QUICK, listen=False)).__aenter__()
        for connection in (careless, next_one):
            await connection.close()
