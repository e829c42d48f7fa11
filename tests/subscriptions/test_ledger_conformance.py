"""What a ledger promises, asked of the real one and of the fake that simulations run on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import pytest

from eventstore import All, SubscriptionExists, SubscriptionNotFound
from eventstore.errors import CheckpointAheadOfLog, ConfigurationError, LeaseLost
from eventstore.subscriptions.ledger import Ledger
from eventstore.subscriptions.model import Claim, Failed, ParkedKey
from tests.simulation.log import bucket_v1
from tests.simulation.stages import Fake, Stage, opened

TTL = 60.0


@pytest.fixture(params=["fake", "real"])
def dsn(request: Any) -> str | None:
    """Of a database for the real one; None: the fake is asked."""
    return request.getfixturevalue("db") if request.param == "real" else None


@pytest.fixture
async def stage(dsn: str | None) -> AsyncIterator[Stage]:
    if dsn is None:
        yield Fake()
        return
    async with opened(dsn) as real:
        yield real


@pytest.fixture
def ledger(stage: Stage) -> Ledger:
    return stage.ledger


async def joined(ledger: Ledger) -> UUID:
    node = uuid4()
    await ledger.register(node, "a node", TTL)
    return node


async def claimed(ledger: Ledger, node: UUID, name: str = "s", held: Any = ()) -> list[Claim]:
    claims = (await ledger.claim(node, [name], held)).claims
    return sorted(claims, key=lambda one: one.partition)


async def owner(ledger: Ledger, pool_size: int = 1) -> Claim:
    """The first partition of a new subscription, claimed by a new node."""
    await ledger.create("s", All(), pool_size=pool_size)
    return (await claimed(ledger, await joined(ledger)))[0]


async def appended(stage: Stage, *streams: str) -> list[int]:
    return [await stage.append(stream) for stream in streams]


def failure(position: int, stream: str = "x", **fields: Any) -> Failed:
    values = {"attempts": 1, "error": "E", "message": "m", "traceback": "t", **fields}
    return Failed(position, bucket_v1(stream), f"s:{stream}", **values)


async def checkpoints(ledger: Ledger) -> list[int]:
    return [one.checkpoint for one in (await ledger.get("s")).partitions]


# -- leases


async def test_every_new_owner_has_a_higher_epoch(ledger: Ledger) -> None:
    first = await owner(ledger)
    await ledger.leave(first.owner)
    (second,) = await claimed(ledger, await joined(ledger))
    assert (first.epoch, second.epoch) == (1, 2)


async def test_nobody_takes_what_a_living_node_owns(ledger: Ledger) -> None:
    await owner(ledger)
    assert await claimed(ledger, await joined(ledger)) == []


async def test_what_a_dead_node_owned_is_taken(stage: Stage, ledger: Ledger) -> None:
    first = await owner(ledger)
    await stage.expire(first.owner)
    (second,) = await claimed(ledger, await joined(ledger))
    assert second.epoch == 2
    assert not (await ledger.renew(first.owner, TTL)).renewed
    with pytest.raises(LeaseLost):
        await ledger.claim(first.owner, ["s"])


async def test_a_claim_that_is_refused_changes_nothing(stage: Stage, ledger: Ledger) -> None:
    first = await owner(ledger)
    await stage.expire(first.owner)
    with pytest.raises(LeaseLost):
        await ledger.claim(first.owner, ["s"])
    assert [one.owner for one in (await ledger.get("s")).partitions] == ["a node"]


async def test_a_renewal_tells_of_changes_and_of_the_next_expiry(stage: Stage, ledger: Ledger) -> None:
    node, other = await joined(ledger), await joined(ledger)
    before = await ledger.renew(node, TTL)
    await ledger.create("s", All())
    after = await ledger.renew(node, TTL)
    assert before.renewed
    assert after.generation > before.generation
    assert after.next_expiry is not None
    assert after.next_expiry > 0
    await stage.expire(other)
    expired = (await ledger.renew(node, TTL)).next_expiry
    assert expired is not None
    assert expired < 0


async def test_nodes_share_a_pool(ledger: Ledger) -> None:
    await ledger.create("s", All(), pool_size=5)
    first, second = await joined(ledger), await joined(ledger)
    mine = await claimed(ledger, first)
    await claimed(ledger, second)
    release = [one.release for one in await ledger.owned(first)]
    assert len(mine) == 5
    assert release.count("share") in (2, 3)
    back = [(one, None) for one, why in zip(mine, release, strict=True) if why]
    await ledger.release(first, back)
    assert len(await claimed(ledger, second)) == release.count("share")


async def test_a_fallback_has_no_share_while_another_node_handles_it(ledger: Ledger) -> None:
    await ledger.create("s", All())
    standby, node = await joined(ledger), await joined(ledger)
    assert len((await ledger.claim(standby, (), (), ["s"])).claims) == 1
    await claimed(ledger, node)
    assert [one.release for one in await ledger.owned(standby)] == ["share"]


async def test_what_a_node_owns_and_does_not_hold_is_claimed_anew(ledger: Ledger) -> None:
    first = await owner(ledger)
    assert await claimed(ledger, first.owner, held=[first.key]) == []
    (again,) = await claimed(ledger, first.owner)
    assert again.epoch == 2


async def test_what_is_not_handled_any_more_is_to_be_released(ledger: Ledger) -> None:
    claim = await owner(ledger)
    await ledger.claim(claim.owner, [], [claim.key])
    assert [one.release for one in await ledger.owned(claim.owner)] == ["not_handled"]


# -- the fence


async def test_checkpoints_move_forward_only(ledger: Ledger) -> None:
    claim = await owner(ledger)
    for position in (5, 3):
        assert await ledger.settle(claim.owner, [(claim, position)]) == {claim.key}
    assert await checkpoints(ledger) == [5]


@pytest.mark.parametrize("stale", ["expired", "rewound", "updated", "resized"])
async def test_a_stale_owner_changes_nothing(stage: Stage, ledger: Ledger, stale: str) -> None:
    claim = await owner(ledger)
    if stale == "expired":
        await stage.expire(claim.owner)
        await claimed(ledger, await joined(ledger))
    elif stale == "rewound":
        await ledger.rewind("s", 0)
    elif stale == "updated":
        await ledger.update("s", {"policy": {"attempts": 2}})
    else:
        await stage.expire(claim.owner)
        await ledger.resize("s", 2)
    assert await ledger.settle(claim.owner, [(claim, 9)]) == set()
    assert await ledger.release(claim.owner, [(claim, 9)]) == set()
    assert not await ledger.settle_one(claim, 9, [failure(1)])
    assert not await ledger.halt(claim, ValueError("no"))
    assert await checkpoints(ledger) == ([0, 0] if stale == "resized" else [0])
    assert next(one.halted for one in (await ledger.get("s")).partitions) is None


async def test_a_halted_partition_is_claimed_once_it_is_resumed(ledger: Ledger) -> None:
    claim = await owner(ledger)
    assert await ledger.halt(claim, ValueError("no"))
    (partition,) = (await ledger.get("s")).partitions
    assert partition.halted is not None
    assert partition.halted["error"] == "ValueError"
    assert await claimed(ledger, claim.owner) == []
    assert await ledger.resume("s")
    assert not await ledger.resume("s")
    assert len(await claimed(ledger, claim.owner)) == 1


# -- operators


async def test_what_is_paused_is_given_back_and_not_claimed(ledger: Ledger) -> None:
    claim = await owner(ledger)
    assert await ledger.pause("s")
    assert not await ledger.pause("s")
    assert [one.release for one in await ledger.owned(claim.owner)] == ["paused"]
    await ledger.release(claim.owner, [(claim, 0)])
    assert await claimed(ledger, claim.owner) == []


async def test_a_rewind_moves_checkpoints_back_and_forgets_what_was_parked_beyond(stage: Stage, ledger: Ledger) -> None:
    await appended(stage, *"xxx")
    claim = await owner(ledger)
    assert await ledger.settle_one(claim, 3, [failure(1), failure(3)])
    rewound = await ledger.rewind("s", 2)
    assert (rewound.after, rewound.partitions, rewound.parked) == (2, 1, 1)
    assert await checkpoints(ledger) == [2]
    assert [one.position for one in await ledger.parked("s")] == [1]
    with pytest.raises(CheckpointAheadOfLog):
        await ledger.rewind("s", 4)


async def test_an_acknowledgement_moves_what_stands_below(stage: Stage, ledger: Ledger) -> None:
    await appended(stage, *"xx")
    await owner(ledger)
    assert [await ledger.ack("s", 1), await ledger.ack("s", 1)] == [1, 0]
    assert await checkpoints(ledger) == [1]
    with pytest.raises(CheckpointAheadOfLog):
        await ledger.ack("s", 3)


async def test_a_resize_waits_until_nobody_owns_a_partition(ledger: Ledger) -> None:
    claim = await owner(ledger)
    assert not await ledger.resize("s", 3)
    assert [one.release for one in await ledger.owned(claim.owner)] == ["resizing"]
    await ledger.release(claim.owner, [(claim, 4)])
    claims = await claimed(ledger, claim.owner)
    assert [(one.partition, one.checkpoint, one.epoch) for one in claims] == [(n, 4, 3) for n in range(3)]


async def test_a_resize_to_the_same_size_tells_of_the_dead_nodes_it_removed(stage: Stage, ledger: Ledger) -> None:
    claim, other = await owner(ledger), await joined(ledger)
    before = (await ledger.renew(other, TTL)).generation
    await stage.expire(claim.owner)
    assert await ledger.resize("s", 1)
    assert (await ledger.renew(other, TTL)).generation > before


async def test_a_resize_remembers_what_is_settled(ledger: Ledger) -> None:
    claim = await owner(ledger, pool_size=2)
    await ledger.settle(claim.owner, [(claim, 7)])
    await ledger.leave(claim.owner)
    assert await ledger.resize("s", 1)
    (whole,) = await claimed(ledger, await joined(ledger))
    assert whole.checkpoint == 0
    assert whole.floors is not None
    assert {whole.floors[bucket] for bucket in range(0, 1024, 2)} == {7}
    assert {whole.floors[bucket] for bucket in range(1, 1024, 2)} == {0}


async def test_floors_are_forgotten_when_they_tell_nothing(ledger: Ledger) -> None:
    claim = await owner(ledger, pool_size=2)
    await ledger.settle(claim.owner, [(claim, 7)])
    await ledger.leave(claim.owner)
    await ledger.resize("s", 1)
    await ledger.rewind("s", 0)
    (whole,) = await claimed(ledger, await joined(ledger))
    assert whole.floors is None


async def test_a_name_is_taken_once(ledger: Ledger) -> None:
    await ledger.create("s", All(), pool_size=2)
    assert not (await ledger.create_if_new("s", All(), pool_size=3))[1]
    with pytest.raises(SubscriptionExists):
        await ledger.create("s", All(), after="current")
    await ledger.delete("s")
    for call in (ledger.get, ledger.delete, ledger.pause, ledger.resume):
        with pytest.raises(SubscriptionNotFound):
            await call("s")


# -- parked events


async def test_what_is_parked_is_there_for_the_next_owner(stage: Stage, ledger: Ledger) -> None:
    await appended(stage, "x", "y", "x")
    claim = await owner(ledger)
    await ledger.settle_one(claim, 1, [failure(1), failure(3, attempts=0)])
    await ledger.leave(claim.owner)
    (again,) = await claimed(ledger, await joined(ledger))
    assert again.parked
    found = await ledger.load_parked(again)
    assert sorted(found, key=lambda one: one.position) == [
        ParkedKey("s:x", True, False, 1), ParkedKey("s:x", True, False, 3)
    ]  # fmt: skip
    assert await ledger.closed_keys(again, ["s:x", "s:y"]) == {"s:x"}


async def test_a_queue_is_replayed_in_order_and_ends_at_a_failure(stage: Stage, ledger: Ledger) -> None:
    await appended(stage, *"xx")
    claim = await owner(ledger)
    await ledger.settle_one(claim, 2, [failure(1), failure(2, attempts=0)])
    with pytest.raises(ConfigurationError):
        await ledger.replay_parked("s", position=2)
    assert await ledger.replay_parked("s", key="x") == 2
    assert [one.position for one in await ledger.replayable(claim, 10)] == [1, 2]
    assert [one.parked_revision for one in await ledger.owned(claim.owner)] == [1]
    await ledger.settle_one(claim, None, [failure(1)])
    assert await ledger.replayable(claim, 10) == []
    assert [one.attempts for one in await ledger.parked("s")] == [2, 0]


async def test_what_joins_a_queue_that_is_replayed_is_replayed_too(stage: Stage, ledger: Ledger) -> None:
    await appended(stage, *"xx")
    claim = await owner(ledger)
    await ledger.settle_one(claim, 1, [failure(1)])
    await ledger.replay_parked("s")
    await ledger.settle_one(claim, 2, [failure(2, attempts=0)], [1])
    assert [one.position for one in await ledger.replayable(claim, 10)] == [2]


async def test_what_joins_a_queue_that_waits_waits(stage: Stage, ledger: Ledger) -> None:
    await appended(stage, *"xx")
    claim = await owner(ledger)
    await ledger.settle_one(claim, 1, [failure(1)])
    await ledger.settle_one(claim, 2, [failure(2, attempts=0)])
    assert await ledger.replayable(claim, 10) == []


async def test_what_is_discarded_holds_back_nothing_and_stays_so(stage: Stage, ledger: Ledger) -> None:
    await appended(stage, "x")
    claim = await owner(ledger)
    await ledger.settle_one(claim, 1, [failure(1)])
    assert await ledger.discard_parked("s", position=1) == 1
    await ledger.settle_one(claim, None, [failure(1)])
    assert await ledger.closed_keys(claim, ["s:x"]) == set()
    assert [one.state for one in await ledger.parked("s", state=None)] == ["discarded"]
    with pytest.raises(ConfigurationError):
        await ledger.discard_parked("s", position=1)
