"""`Owners`: ids for tasks, mailboxes and `Owner`s, and noticing that they end."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import pytest

from eventstore.errors import ConfigurationError
from eventstore.mailbox import Mailbox
from eventstore.tracker.owners import Owner, OwnerRef, Owners


@pytest.fixture
def ended() -> list[str]:
    return []


@pytest.fixture
def owners(ended: list[str]) -> Owners:
    return Owners("a", "life", ended.append)


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


# -- Owner


async def test_an_owner_is_closed_by_leaving_its_block_or_by_close() -> None:
    async with Owner("x") as owner:
        assert not owner.closed
    assert owner.closed
    owner.close()
    assert repr(owner) == "<Owner x, closed>"


def test_closing_calls_each_callback_once() -> None:
    owner, calls = Owner(), list[Any]()
    other: list[Any] = []
    owner.on_close(calls.append)
    owner.on_close(other.append)
    owner.close()
    owner.close()
    assert calls == other == [owner]


def test_a_callback_for_an_owner_that_is_closed_is_called_at_once() -> None:
    owner, calls = Owner(), list[Any]()
    owner.close()
    owner.on_close(calls.append)
    assert calls == [owner]


def test_a_callback_that_was_taken_back_is_not_called() -> None:
    owner, calls = Owner(), list[Any]()
    forget = owner.on_close(calls.append)
    forget()
    forget()
    owner.close()
    assert calls == []


def test_a_callback_may_take_others_back_while_the_owner_closes() -> None:
    owner = Owner()
    forgets: list[Any] = []
    forgets += [owner.on_close(lambda _: [forget() for forget in forgets]), owner.on_close(lambda _: None)]
    owner.close()
    assert owner.closed


def test_who_may_take_a_callback_back_does_not_keep_the_owner_alive() -> None:
    owner = Owner()
    forget, reference = owner.on_close(lambda _: None), weakref.ref(owner)
    del owner
    gc.collect()
    assert reference() is None
    forget()


# -- ids


@pytest.mark.parametrize("kind", [Owner, Mailbox])
def test_an_owner_has_one_id_as_long_as_it_lives(owners: Owners, kind: Any) -> None:
    one, other = kind(), kind()
    assert owners.id_of(one) == owners.id_of(one) == (owners.known_as(one), True)
    assert owners.id_of(other)[0] != owners.id_of(one)[0]
    assert owners.known_as(kind()) is None


@pytest.mark.parametrize("kind", [Owner, Mailbox])
def test_an_owner_that_has_ended_has_a_new_id_each_time_and_is_not_known(owners: Owners, kind: Any) -> None:
    dead = kind()
    dead.close()
    first, second = owners.id_of(dead), owners.id_of(dead)
    assert (first[1], second[1], first != second, owners.known_as(dead)) == (False, False, True, None)


async def test_a_task_that_is_done_has_ended(owners: Owners, ended: list[str]) -> None:
    task = asyncio.create_task(asyncio.sleep(0))
    await task
    assert owners.id_of(task)[1] is False
    assert ended == []


@pytest.mark.parametrize("no_owner", [None, "x", object(), Owner])
def test_nothing_else_is_an_owner(owners: Owners, no_owner: Any) -> None:
    with pytest.raises(ConfigurationError, match="an owner is a task, a Mailbox or an Owner"):
        owners.id_of(no_owner)


def test_an_owner_is_found_by_its_id_on_its_own_node_only(owners: Owners) -> None:
    owner = Owner()
    name, _ = owners.id_of(owner)
    assert owners.of("a", name) is owner
    assert owners.of("b", name) == OwnerRef("b", name)
    assert owners.of("a", "another") == OwnerRef("a", "another")
    owner.close()
    assert owners.of("a", name) == OwnerRef("a", name)


# -- the end


@pytest.mark.parametrize("kind", [Owner, Mailbox])
@pytest.mark.parametrize("way", ["closed", "collected"])
def test_the_end_is_told_once_by_id_and_forgotten(owners: Owners, ended: list[str], kind: Any, way: str) -> None:
    one = kind()
    name, _ = owners.id_of(one)
    if way == "closed":
        one.close()
    del one
    gc.collect()
    assert (ended, owners._known, owners._by_id) == ([name], {}, {})


@pytest.mark.parametrize("way", ["done", "cancelled"])
async def test_the_end_of_a_task_is_told(owners: Owners, ended: list[str], way: str) -> None:
    event = asyncio.Event()
    task = asyncio.create_task(event.wait())
    name, _ = owners.id_of(task)
    event.set() if way == "done" else task.cancel()
    await asyncio.wait([task])
    await asyncio.sleep(0)
    assert (ended, owners._known) == ([name], {})


def test_an_owner_at_the_place_of_one_that_was_collected_is_another(owners: Owners) -> None:
    names = set()
    for _ in range(100):
        owner = Owner()
        names.add(owners.id_of(owner)[0])
        del owner
    assert (len(names), owners._known) == (100, {})


async def test_ending_an_owner_cancels_a_task_and_closes_the_others(owners: Owners, ended: list[str]) -> None:
    task, mailbox, owner = asyncio.create_task(forever()), Mailbox[Any](), Owner()
    names = [owners.id_of(one)[0] for one in (task, mailbox, owner)]
    for name in names:
        owners.end(name)
        owners.end(name)
    owners.end("nobody")
    await asyncio.wait([task])
    await asyncio.sleep(0)
    assert (task.cancelled(), mailbox.closed, owner.closed, sorted(ended)) == (True, True, True, sorted(names))


async def test_after_clear_nobody_is_watched(owners: Owners, ended: list[str]) -> None:
    task, mailbox, owner = asyncio.create_task(forever()), Mailbox[Any](), Owner()
    for one in task, mailbox, owner:
        owners.id_of(one)
    owners.clear()
    assert (mailbox._ends, owner._ends, owners.known_as(owner)) == ({}, {}, None)
    task.cancel()
    mailbox.close()
    owner.close()
    await asyncio.wait([task])
    await asyncio.sleep(0)
    assert ended == []
