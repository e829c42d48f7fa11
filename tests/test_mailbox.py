from __future__ import annotations

import asyncio
import gc
import logging
import random
import weakref
from typing import Any

import pytest

from eventstore.errors import ConfigurationError, MailboxClosed, Overflow
from eventstore.mailbox import Mailbox


async def test_items_come_out_in_the_order_they_went_in() -> None:
    box: Mailbox[int] = Mailbox()
    for n in range(5):
        box.put_nowait(n)
    assert await box.take(3) == [0, 1, 2]
    assert box.take_nowait(9) == [3, 4]


@pytest.mark.parametrize(("rule", "kept"), [("drop_oldest", [2, 3, 4]), ("drop_newest", [0, 1, 2])])
async def test_a_full_mailbox_drops_by_its_rule_and_counts(rule: str, kept: list[int]) -> None:
    box: Mailbox[int] = Mailbox(3, overflow=rule)  # type: ignore[arg-type]
    for n in range(5):
        box.put_nowait(n)
    assert (box.take_nowait(9), box.dropped) == (kept, 2)


async def test_error_refuses_what_does_not_fit() -> None:
    box: Mailbox[int] = Mailbox(1, overflow="error")
    box.put_nowait(1)
    with pytest.raises(Overflow):
        box.put_nowait(2)


async def test_block_makes_the_sender_wait_for_room() -> None:
    box: Mailbox[int] = Mailbox(1, overflow="block")
    await box.put(1)
    sender = asyncio.create_task(box.put(2))
    await asyncio.sleep(0)
    assert not sender.done()
    assert await box.take(1) == [1]
    await sender
    assert await box.take(1) == [2]


async def test_a_closed_mailbox_is_drained_and_then_ends() -> None:
    box: Mailbox[int] = Mailbox()
    box.put_nowait(1)
    box.close()
    box.put_nowait(2)
    assert await box.take(9) == [1]
    assert await box.take(9) == []


async def test_a_reader_is_woken_by_closing() -> None:
    box: Mailbox[int] = Mailbox()
    reader = asyncio.create_task(box.take(1))
    await asyncio.sleep(0)
    box.close()
    assert await reader == []


async def test_four_fifths_full_is_warned_about_once(caplog: pytest.LogCaptureFixture) -> None:
    box: Mailbox[int] = Mailbox(10)
    with caplog.at_level(logging.WARNING):
        for n in range(10):
            box.put_nowait(n)
    assert [record.message for record in caplog.records] == ["a mailbox is 80 % full (8 of 10)"]


@pytest.mark.parametrize("options", [{"maxsize": 0}, {"overflow": "explode"}])
def test_illegal_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        Mailbox(**options)  # type: ignore[arg-type]


# -- reading


async def test_get_returns_what_comes_next_and_waits_for_it() -> None:
    box: Mailbox[int] = Mailbox()
    reader = asyncio.create_task(box.get())
    await asyncio.sleep(0)
    box.put_nowait(1)
    box.put_nowait(2)
    assert (await reader, await box.get()) == (1, 2)


async def test_get_nowait_never_waits() -> None:
    box: Mailbox[int] = Mailbox()
    box.put_nowait(1)
    assert box.get_nowait() == 1
    with pytest.raises(asyncio.QueueEmpty):
        box.get_nowait()


async def test_iterating_ends_when_the_mailbox_is_closed_and_drained() -> None:
    box: Mailbox[int] = Mailbox()
    for n in range(3):
        box.put_nowait(n)
    box.close()
    assert [n async for n in box] == [0, 1, 2]
    with pytest.raises(StopAsyncIteration):
        await anext(box)


async def test_get_drains_a_closed_mailbox_and_then_says_so() -> None:
    box: Mailbox[int] = Mailbox(name="the mail")
    box.put_nowait(1)
    box.close()
    assert await box.get() == 1
    with pytest.raises(MailboxClosed, match="the mail is closed"):
        await box.get()


async def test_readers_are_served_in_the_order_they_came() -> None:
    box: Mailbox[int] = Mailbox()
    readers = [asyncio.create_task(box.get()) for _ in range(5)]
    await asyncio.sleep(0)
    for n in range(5):
        box.put_nowait(n)
    assert await asyncio.gather(*readers) == [0, 1, 2, 3, 4]


async def test_a_wake_up_of_a_cancelled_reader_goes_to_the_next_one() -> None:
    box: Mailbox[int] = Mailbox()
    first, second = (asyncio.create_task(box.get()) for _ in range(2))
    await asyncio.sleep(0)
    box.put_nowait(1)
    first.cancel()
    async with asyncio.timeout(60):
        assert await second == 1
    assert first.cancelled()


@pytest.mark.parametrize("seed", range(20))
async def test_several_readers_and_writers_that_are_cancelled_lose_nothing(seed: int) -> None:
    rng, box, got, put = random.Random(seed), Mailbox[int](3, "block"), list[int](), list[int]()

    async def read(how: int) -> None:
        while True:
            # What a read returns is kept without another await, so a cancellation comes before it or after it.
            got.extend([await box.get()] if how == 0 else await box.take(2) if how == 1 else [await anext(box)])

    async def write(begin: int) -> None:
        for n in range(begin, begin + 10):
            await box.put(n)
            put.append(n)

    tasks = [asyncio.create_task(read(n % 3)) for n in range(6)]
    tasks += [asyncio.create_task(write(n * 100)) for n in range(12)]
    for _ in range(60):
        rng.choice(tasks[:5] + tasks[6:12]).cancel()
        for _ in range(rng.randrange(3)):
            await asyncio.sleep(0)
    async with asyncio.timeout(60):
        await asyncio.gather(*tasks[6:], return_exceptions=True)
        while len(box):
            await asyncio.sleep(0)
    tasks[5].cancel()
    await asyncio.wait(tasks)
    assert sorted(got) == sorted(put)
    assert set(got) >= {n * 100 + step for n in range(6, 12) for step in range(10)}
    for n in range(12):
        mine = [one for one in put if one // 100 == n]
        assert mine == list(range(n * 100, n * 100 + len(mine)))


# -- writing


async def test_senders_that_wait_are_let_in_in_the_order_they_came() -> None:
    box: Mailbox[int] = Mailbox(1, "block")
    senders = [asyncio.create_task(box.put(n)) for n in range(6)]
    async with asyncio.timeout(60):
        assert [await box.get() for _ in range(6)] == list(range(6))
    await asyncio.gather(*senders)


async def test_a_sender_who_comes_while_others_wait_does_not_change_their_order() -> None:
    box: Mailbox[str] = Mailbox(1, "block")
    await box.put("first")
    waiting = [asyncio.create_task(box.put(name)) for name in "abc"]
    await asyncio.sleep(0)
    assert box.get_nowait() == "first"
    await box.put("late")  # before the first of those who wait has run
    async with asyncio.timeout(60):
        found = [await box.get() for _ in range(4)]
    await asyncio.gather(*waiting)
    assert [name for name in found if name != "late"] == ["a", "b", "c"]


async def test_a_room_for_a_cancelled_sender_goes_to_the_next_one() -> None:
    box: Mailbox[int] = Mailbox(1, "block")
    await box.put(0)
    first, second = (asyncio.create_task(box.put(n)) for n in (1, 2))
    await asyncio.sleep(0)
    assert box.get_nowait() == 0
    first.cancel()
    async with asyncio.timeout(60):
        await second
    assert box.take_nowait(9) == [2]


async def test_only_block_makes_a_sender_wait() -> None:
    for rule in ("drop_oldest", "drop_newest"):
        box: Mailbox[int] = Mailbox(1, rule)  # type: ignore[arg-type]
        await box.put(1)
        await box.put(2)
        assert box.dropped == 1
    refusing: Mailbox[int] = Mailbox(1, "error")
    await refusing.put(1)
    with pytest.raises(Overflow):
        await refusing.put(2)


async def test_block_refuses_where_nobody_can_wait() -> None:
    box: Mailbox[int] = Mailbox(1, "block")
    box.put_nowait(1)
    with pytest.raises(Overflow):
        box.put_nowait(2)
    assert box.take_nowait(9) == [1]


# -- the end


async def test_closing_wakes_everybody_who_waits() -> None:
    empty, full = Mailbox[int](), Mailbox[int](1, "block")
    full.put_nowait(1)
    waiting = [asyncio.create_task(work) for work in (empty.get(), empty.take(3), _all(empty), full.put(2))]
    await asyncio.sleep(0)
    empty.close()
    full.close()
    async with asyncio.timeout(60):
        closed, nothing, none, taken = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(closed, MailboxClosed)
    assert (nothing, none, taken, full.take_nowait(9)) == ([], [], None, [1])


async def _all(box: Mailbox[int]) -> list[int]:
    return [n async for n in box]


async def test_on_close_is_told_once_and_can_be_taken_back() -> None:
    told: list[Any] = []
    box: Mailbox[int] = Mailbox()
    box.on_close(told.append)
    forget = box.on_close(lambda _: told.append("forgotten"))
    forget()
    forget()
    box.close()
    box.close()
    assert told == [box]


async def test_on_close_of_a_closed_mailbox_is_told_at_once() -> None:
    told: list[Any] = []
    box: Mailbox[int] = Mailbox()
    box.close()
    box.on_close(told.append)()
    assert told == [box]


async def test_those_told_of_the_end_may_take_back_their_wish_meanwhile() -> None:
    told: list[str] = []
    box: Mailbox[int] = Mailbox()
    forgets = [
        box.on_close(lambda _, name=name: (told.append(name), [forget() for forget in forgets])) for name in "ab"
    ]
    box.close()
    assert told == ["a", "b"]


async def test_who_may_take_back_a_wish_does_not_keep_the_mailbox_alive() -> None:
    box: Mailbox[int] = Mailbox()
    reference, forget = weakref.ref(box), box.on_close(print)
    del box
    gc.collect()
    assert reference() is None
    forget()


@pytest.mark.parametrize("end", ["returns", "fails", "is cancelled", "had ended"])
async def test_the_end_of_its_owner_closes_a_mailbox(end: str) -> None:
    async def work() -> None:
        if end == "fails":
            raise ZeroDivisionError
        if end == "is cancelled":
            await asyncio.Event().wait()

    owner = asyncio.create_task(work())
    if end == "had ended":
        await owner
    box: Mailbox[int] = Mailbox(owner=owner)
    assert not box.closed
    box.put_nowait(1)
    await asyncio.sleep(0)
    owner.cancel()
    async with asyncio.timeout(60):
        assert await _all(box) == [1]
    await asyncio.wait([owner])
    assert box.closed
    assert owner.cancelled() or end == "returns" or end == "had ended" or owner.exception()


async def test_an_owner_does_not_keep_its_mailbox_alive() -> None:
    owner = asyncio.create_task(asyncio.Event().wait())
    box: Mailbox[int] = Mailbox(owner=owner)
    reference = weakref.ref(box)
    del box
    gc.collect()
    assert reference() is None
    owner.cancel()
    await asyncio.wait([owner])


async def test_leaving_a_block_over_it_closes_a_mailbox_and_keeps_what_is_queued() -> None:
    async with Mailbox[int]() as box:
        box.put_nowait(1)
    assert box.closed
    assert await _all(box) == [1]


# -- the warning


async def test_the_warning_comes_again_after_the_mailbox_was_half_empty(caplog: pytest.LogCaptureFixture) -> None:
    box: Mailbox[int] = Mailbox(10, name="the mail")
    counts = []
    for taken in (4, 5, 10):
        for n in range(12):
            box.put_nowait(n)
        counts.append(len(caplog.records))
        box.take_nowait(taken)
    assert counts == [1, 1, 1]
    for n in range(9):
        box.put_nowait(n)
    assert [record.message for record in caplog.records] == ["the mail is 80 % full (8 of 10)"] * 2


async def test_small_mailboxes_warn_of_nothing(caplog: pytest.LogCaptureFixture) -> None:
    box: Mailbox[int] = Mailbox(4)
    for n in range(9):
        box.put_nowait(n)
    assert not caplog.records


@pytest.mark.parametrize("owner", ["a task", 1, asyncio.sleep])
async def test_an_owner_that_is_no_task_is_refused(owner: Any) -> None:
    with pytest.raises(ConfigurationError, match="the owner of a mailbox is a task"):
        Mailbox(owner=owner)


async def test_an_owner_keeps_nothing_of_mailboxes_that_ended() -> None:
    owner = asyncio.current_task()
    assert owner is not None
    before = len(owner._callbacks or ())  # type: ignore[attr-defined]
    for _ in range(100):
        Mailbox[int](owner=owner).close()
        Mailbox[int](owner=owner)
    gc.collect()
    assert len(owner._callbacks or ()) == before  # type: ignore[attr-defined]
