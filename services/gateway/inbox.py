"""What has come in and is not handled yet."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Generic, TypeVar

INBOX_MAX = 200_000  # messages; more than this unread means that we have stopped reading

Item = TypeVar("Item")


class Inbox(Generic[Item]):
    """A queue with one reader. asyncio's serves many, at several times the cost of a quote's way."""

    def __init__(self, limit: int = INBOX_MAX) -> None:
        self.limit = limit
        self._items: deque[Item] = deque()
        self._awaited: asyncio.Future[None] | None = None  # by the reader, while there is nothing

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: Item) -> bool:
        """Take something behind all else. False: it is full, and does not."""
        if len(self._items) >= self.limit:
            return False
        self._items.append(item)
        if self._awaited is not None and not self._awaited.done():
            self._awaited.set_result(None)
        return True

    def put_back(self, items: Sequence[Item]) -> None:
        """Have things come once more, before all else."""
        self._items.extendleft(reversed(items))

    async def get(self) -> Item:
        """Return the oldest, as soon as there is one."""
        while not self._items:
            self._awaited = asyncio.get_running_loop().create_future()
            try:
                await self._awaited
            finally:
                self._awaited = None
        return self._items.popleft()
