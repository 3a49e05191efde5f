"""A door of loopback in front of a server, which can be cut off or stall: a network that fails at will."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

CHUNK_BYTES = 65_536

Watch = Callable[[bytes], None]


def _unwatched(_: bytes) -> None:
    return


class Proxy:
    """Passes bytes on, both ways, until it is told otherwise."""

    def __init__(self, server_port: int, watch: Watch = _unwatched) -> None:
        self.port = 0
        self._watch = watch  # sees what goes to the server, as it comes
        self._server_port = server_port
        self._is_cut = False
        self._flows = asyncio.Event()
        self._flows.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    @asynccontextmanager
    async def to(cls, server_port: int, watch: Watch = _unwatched) -> AsyncIterator[Proxy]:
        """Open a door on a free port; everything is closed at the end."""
        proxy = cls(server_port, watch)
        server = await asyncio.start_server(proxy._accept, "127.0.0.1", 0)
        proxy.port = server.sockets[0].getsockname()[1]
        try:
            yield proxy
        finally:
            server.close()
            for task in proxy._tasks:
                task.cancel()
            await asyncio.gather(*proxy._tasks, return_exceptions=True)

    @property
    def is_used(self) -> bool:
        """Whether somebody is connected."""
        return bool(self._writers)

    def cut(self) -> None:
        """Reset all connections and every new one."""
        self._is_cut = True
        for writer in self._writers:
            writer.transport.abort()

    def stall(self) -> None:
        """Hold all bytes back; connections stay, and what was sent meanwhile arrives late."""
        self._flows.clear()

    def heal(self) -> None:
        """Pass bytes on again."""
        self._is_cut = False
        self._flows.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        try:
            if not self._is_cut:
                await self._pass_on(reader, writer)
        except asyncio.CancelledError:
            return  # the door closes; a server's task that ends cancelled is reported as an error
        finally:
            writer.transport.abort()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream, server = await asyncio.open_connection("127.0.0.1", self._server_port)
        except OSError:
            return  # the server is down: so is whoever asks through us
        pair = {writer, server}
        self._writers |= pair
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, server, self._watch))
                group.create_task(self._pump(upstream, writer))
        finally:
            self._writers -= pair
            server.transport.abort()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, watch: Watch = _unwatched
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(CHUNK_BYTES):
                watch(data)
                await self._flows.wait()
                writer.write(data)
                await writer.drain()
        with suppress(OSError):
            writer.write_eof()
