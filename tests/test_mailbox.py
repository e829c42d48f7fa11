from __future__ import annotations

import asyncio
import logging

import pytest

from eventstore.errors import ConfigurationError, Overflow
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
