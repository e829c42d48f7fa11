"""Messages stay with their tenant, and nobody else can hear, read or forge them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import asyncpg
import pytest

from eventstore import EventStore, NewEvent
from eventstore.mailbox import Mailbox
from eventstore.pubsub import Postgres
from eventstore.schema import signal_channel
from tests.pubsub.test_postgres import Node, envelope, node, noise
from tests.tenants.conftest import ACME, RIVAL, dsn_as
from tests.test_relay import heard


@pytest.fixture
async def nodes(shared: str) -> AsyncIterator[dict[str, Node]]:
    """Two nodes of one tenant and one of another, of one PubSub by its name; a superuser's among them."""
    async with AsyncExitStack() as opened:
        logins = {"acme": dsn_as(shared, ACME), "acme-2": shared, "rival": dsn_as(shared, RIVAL)}
        yield {
            name: await opened.enter_async_context(node(dsn, name, tenant=name.partition("-")[0]))
            for name, dsn in logins.items()
        }


async def test_a_message_reaches_the_nodes_of_its_tenant_alone(nodes: dict[str, Node]) -> None:
    sent = ["small", noise(50_000)]
    for message in sent:
        await nodes["acme"][0].broadcast(envelope(nodes["acme"], message))
        await nodes["rival"][0].broadcast(envelope(nodes["rival"], message))
    await nodes["acme-2"][0].broadcast(envelope(nodes["acme-2"], "back"))
    assert await nodes["acme-2"][1].messages(2) == sent
    assert await nodes["acme"][1].messages(1) == ["back"]
    assert (nodes["rival"][1].envelopes, nodes["rival"][1].rejections) == ([], [])


async def test_a_message_in_a_transaction_is_of_the_tenant_that_sends_it(nodes: dict[str, Node], anybody: str) -> None:
    connection = await asyncpg.connect(anybody)
    async with connection.transaction():
        for name in ("rival", "acme"):
            await nodes[name][0].broadcast_in(connection, envelope(nodes[name], [name, noise(50_000)]))
    await connection.close()
    assert await nodes["acme-2"][1].messages(1) == [["acme", noise(50_000)]]


async def test_each_tenant_has_a_secret_and_rows_of_its_own(
    nodes: dict[str, Node], everything: asyncpg.Connection
) -> None:
    await nodes["acme"][0].broadcast(envelope(nodes["acme"], noise(50_000)))
    found = await everything.fetch("select tenant, name, key from eventstore.pubsub_keys order by tenant")
    assert [(row["tenant"], row["name"]) for row in found] == [("acme", "chat"), ("rival", "chat")]
    assert found[0]["key"] != found[1]["key"]
    assert {row[0] for row in await everything.fetch("select tenant from eventstore.pubsub_spill")} == {"acme"}


async def test_only_who_has_the_secret_knows_where_to_listen(nodes: dict[str, Node]) -> None:
    channels = {name: set(of[0]._running._channels()) for name, of in nodes.items()}  # type: ignore[union-attr]
    assert channels["acme"] == channels["acme-2"]
    assert not channels["acme"] & channels["rival"]
    (ours,), (theirs,) = channels["acme"], channels["rival"]
    alone = Postgres("postgresql://", node_name="a")
    assert ours != theirs
    assert "acme" not in ours
    assert alone.tenant is None


async def test_a_new_secret_moves_everybody_to_another_channel(
    nodes: dict[str, Node], everything: asyncpg.Connection
) -> None:
    await everything.execute("update eventstore.pubsub_keys set key = sha256(key) where tenant = 'acme'")
    for name in ("acme", "acme-2"):
        await nodes[name][0]._running._prepare()  # type: ignore[union-attr]
    await nodes["acme"][0].broadcast(envelope(nodes["acme"], "again"))
    assert await nodes["acme-2"][1].messages(1) == ["again"]


async def test_what_expired_is_deleted_by_its_tenant(nodes: dict[str, Node], everything: asyncpg.Connection) -> None:
    for name in ("acme", "rival"):
        await nodes[name][0].broadcast(envelope(nodes[name], noise(50_000)))
    await everything.execute("update eventstore.pubsub_spill set created_at = now() - interval '1 hour'")
    of = nodes["acme-2"][0]
    async with asyncio.timeout(30):
        while await of._purged(of._running._line):  # type: ignore[union-attr]
            pass  # there may be more, or it took too long
    assert [row[0] for row in await everything.fetch("select tenant from eventstore.pubsub_spill")] == ["rival"]


async def test_stores_broadcast_and_tell_of_their_lifecycle_among_themselves(
    acme: EventStore, rival: EventStore, anybody: str
) -> None:
    async with EventStore(anybody, tenant="acme", node_name="acme-2") as other:
        for store in (other, rival):
            await heard(store)
        boxes: list[Mailbox[object]] = [Mailbox(), Mailbox()]
        for store, box in zip((other, rival), boxes, strict=True):
            if (waiting := store.pubsub.subscribe("topic", box)) is not None:
                await waiting
        await rival.pubsub.broadcast("topic", "rival's")
        await acme.pubsub.broadcast("topic", "acme's")
        async with asyncio.timeout(30):
            assert [await boxes[0].get(), await boxes[1].get()] == ["acme's", "rival's"]


async def test_a_signal_of_the_log_tells_nothing(acme: EventStore, shared: str) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()
    connection = await asyncpg.connect(dsn_as(shared, RIVAL))
    await connection.add_listener(signal_channel("eventstore"), lambda *told: heard.put_nowait(str(told[3])))
    await acme.append("secret-stream", [NewEvent("Secret", "secret")])
    async with asyncio.timeout(30):
        told = await heard.get()
    assert "ecret" not in told
    await connection.close()
