"""The bus on every server that we support."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from itertools import count

import pytest

from shared.redis_bus import RedisBus
from shared.streams import Stream
from tests.contract.promises import *  # noqa: F403 - the promises are collected here

pytestmark = pytest.mark.redis
_BOOKS = count()


class OnServer:
    """Instances on a real server, over a socket."""

    def __init__(self, url: str, stack: AsyncExitStack) -> None:
        self._url, self._stack = url, stack
        self._book = f"t{next(_BOOKS)}"
        self._known: list[RedisBus] = []

    async def open(self, service: str = "features") -> RedisBus:
        bus = await self._stack.enter_async_context(RedisBus.connect(self._url, self._book, service))
        self._known.append(bus)
        return bus

    async def open_away(self) -> RedisBus:
        nobody = RedisBus.connect("redis://127.0.0.1:1/0", self._book, "features")
        return await self._stack.enter_async_context(nobody)

    async def end_lease(self) -> None:
        bus = self._known[0]
        await bus._client.delete(bus.key("lease:features"))

    async def forget_lease(self) -> None:
        bus = self._known[0]
        await bus._client.delete(bus.key("lease:features"), bus.key("epoch:features"))

    async def forget_group(self, stream: Stream) -> None:
        bus = self._known[0]
        await bus._client.xgroup_destroy(bus.key(stream.name), "features")

    async def write_foreign(self, stream: Stream, fields: dict[str, str]) -> None:
        bus = self._known[0]
        await bus._client.xadd(bus.key(stream.name), fields)

    async def group(self, stream: Stream) -> tuple[str, int, int]:
        bus = self._known[0]
        found = (await bus._client.xinfo_groups(bus.key(stream.name)))[0]
        return found["name"], found["pending"], found["lag"]


@pytest.fixture
async def instances(redis_url: str) -> AsyncIterator[OnServer]:
    async with AsyncExitStack() as stack:
        yield OnServer(redis_url, stack)
