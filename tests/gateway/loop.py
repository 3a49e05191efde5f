"""Tests over real sockets run on the one loop that Twisted runs on."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from services.gateway.protocol import LOOP

TEST_S_MAX = 90.0  # on a machine that others use too


def on_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Make a test of a coroutine; what it leaves running is cancelled, and fails it if it is ours."""

    @functools.wraps(test)
    def run(*arguments: Any, **fixtures: Any) -> None:
        LOOP.run_until_complete(_bounded(test(*arguments, **fixtures)))

    return run


async def _bounded(test: Coroutine[Any, Any, None]) -> None:
    async with asyncio.timeout(TEST_S_MAX):
        await test


async def until(holds: Callable[[], Any], *, within_s: float = 10.0) -> None:
    """Wait until something holds; it happens at the other end of a socket."""
    try:
        async with asyncio.timeout(within_s):
            while not holds():  # noqa: ASYNC110
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"it never held: {holds.__code__.co_names}") from None


async def until_so(holds: Callable[[], Awaitable[Any]], *, within_s: float = 10.0) -> None:
    """Wait until something that has to be asked for holds."""
    async with asyncio.timeout(within_s):
        while not await holds():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
