"""The bus in memory keeps the same promises as the one on a server."""

from __future__ import annotations

import pytest

from shared.clock import monotonic_s, utc_now
from shared.streams import Stream, milliseconds
from sim.bus import MemoryBus
from sim.server import Entry, MemoryServer
from tests.contract.promises import *  # noqa: F403 - the promises are collected here


class InMemory:
    """Instances on a server in memory."""

    def __init__(self) -> None:
        self.server = a_server()

    async def open(self, service: str = "features") -> MemoryBus:
        return MemoryBus(self.server, "t", service)

    async def open_away(self) -> MemoryBus:
        server = a_server()
        server.is_up = False
        return MemoryBus(server, "t", "features")

    async def end_lease(self) -> None:
        self.server.drop_lease("features")

    async def forget_lease(self) -> None:
        self.server.leases.clear()
        self.server.epochs.clear()

    async def forget_group(self, stream: Stream) -> None:
        self.server.streams[stream.name].groups.clear()

    async def write_foreign(self, stream: Stream, fields: dict[str, str]) -> None:
        self.server.add(stream.name, Entry("*", None, fields))

    async def group(self, stream: Stream) -> tuple[str, int, int]:
        entries = self.server.streams[stream.name]
        ((name, group),) = entries.groups.items()
        return name, len(group.pending), len(entries.after(group.delivered))


def a_server() -> MemoryServer:
    return MemoryServer(lambda: milliseconds(utc_now()), monotonic_s)


@pytest.fixture
def instances() -> InMemory:
    return InMemory()
