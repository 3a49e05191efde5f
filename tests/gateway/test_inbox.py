"""What came first is handled first, and nothing gets lost on the way."""

from __future__ import annotations

import asyncio

import pytest

from services.gateway.inbox import Inbox


async def test_things_come_out_in_the_order_in_which_they_went_in() -> None:
    """The venue's order is the order of its facts."""
    inbox: Inbox[int] = Inbox()
    for number in range(3):
        assert inbox.put(number)
    assert [await inbox.get() for _ in range(3)] == [0, 1, 2]
    assert not len(inbox)


async def test_reader_is_woken_by_what_comes() -> None:
    """It waits without looking."""
    inbox: Inbox[int] = Inbox()
    reader = asyncio.create_task(inbox.get())
    await asyncio.sleep(0)
    inbox.put(1)
    inbox.put(2)
    assert await reader == 1
    assert await inbox.get() == 2


async def test_full_inbox_takes_no_more() -> None:
    """Whoever put it in has to know that nobody reads any more."""
    inbox: Inbox[int] = Inbox(2)
    assert [inbox.put(number) for number in range(3)] == [True, True, False]
    assert [await inbox.get(), await inbox.get()] == [0, 1]
    assert inbox.put(3)


async def test_what_is_put_back_comes_before_what_came_meanwhile() -> None:
    """A fill that is put behind its stop would not fit."""
    inbox: Inbox[int] = Inbox()
    for number in range(4):
        inbox.put(number)
    inbox.put_back([await inbox.get(), await inbox.get()])
    assert [await inbox.get() for _ in range(4)] == [0, 1, 2, 3]


@pytest.mark.parametrize("is_there", [False, True])
async def test_reader_that_gives_up_loses_nothing(is_there: bool) -> None:
    """A time-out may end the wait at the very moment at which something comes."""
    inbox: Inbox[int] = Inbox()
    reader = asyncio.create_task(inbox.get())
    await asyncio.sleep(0)
    if is_there:
        inbox.put(1)
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    if not is_there:
        inbox.put(1)
    assert await asyncio.wait_for(inbox.get(), 1) == 1
