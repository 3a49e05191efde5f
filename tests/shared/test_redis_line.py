"""A server that does not answer, hangs up or is slow, and what the door says of it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import pytest

from shared import redis_bus as bus_module
from shared import redis_line as line_module
from shared import streams
from shared.bus import BusUnavailableError
from shared.clock import monotonic_s
from shared.redis_bus import RedisBus
from tests.builders import an_event
from tests.features.builders import an_account

pytestmark = pytest.mark.redis
WAIT_S = 10.0
SOON_S = 0.9  # less than a second more than the time-out of these tests


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for answers and for entries for a moment only."""
    monkeypatch.setattr(bus_module, "BLOCK_MS", 50)
    monkeypatch.setattr(bus_module, "SOCKET_TIMEOUT_S", 0.05)
    monkeypatch.setattr(line_module, "SOCKET_TIMEOUT_S", 0.05)


@asynccontextmanager
async def impostor(*, hangs_up: bool = False) -> AsyncIterator[tuple[RedisBus, list[bytes]]]:
    """Open a door to a server that greets and answers nothing else; give it and what the server has heard."""
    heard: list[bytes] = []
    talks: list[asyncio.Task[None] | None] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talks.append(asyncio.current_task())
        while data := await reader.read(65536):
            heard.append(data)
            greetings = data.count(b"SETINFO")
            if hangs_up and not greetings:
                break
            writer.write(b"+OK\r\n" * greetings)
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, RedisBus.connect(f"redis://127.0.0.1:{port}/0", "b", "features") as bus:
        yield bus, heard
    await asyncio.gather(*(talk for talk in talks if talk))


async def refused_after_s(call: Callable[[], Awaitable[object]]) -> float:
    """Return the shortest time of three after which a call was given up: the machine may be busy."""
    times = []
    for _ in range(3):
        began = monotonic_s()
        async with asyncio.timeout(WAIT_S):
            with pytest.raises(BusUnavailableError, match=r"^redis: Time"):
                await call()
        times.append(monotonic_s() - began)
    return min(times)


@pytest.mark.parametrize(
    "call",
    [
        lambda bus: bus.account("1-1"),
        lambda bus: bus.read_pending(streams.BARS),
        lambda bus: bus.read_new([streams.BARS], block=True),
        lambda bus: bus.last(streams.BARS),
    ],
)
@pytest.mark.usefixtures("hasty")
async def test_server_that_does_not_answer_is_told_in_time(
    call: Callable[[RedisBus], Awaitable[object]],
) -> None:
    """It is up, but as good as away; the error says what was missing."""
    async with impostor() as (bus, _):
        assert await refused_after_s(lambda: call(bus)) < SOON_S


@pytest.mark.usefixtures("hasty")
async def test_host_that_takes_no_connection_is_told_in_time() -> None:
    """Nor does a start wait for it."""
    with socket.socket() as full, ExitStack() as queue:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):  # more than it holds; the next one is let wait
            filler = queue.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        url = f"redis://127.0.0.1:{full.getsockname()[1]}/0"
        async with RedisBus.connect(url, "b", "features") as bus:
            assert await refused_after_s(lambda: bus.last(streams.BARS)) < SOON_S
            assert await refused_after_s(lambda: bus.read_pending(streams.BARS)) < SOON_S


@pytest.mark.usefixtures("hasty")
async def test_following_gives_up_a_server_that_does_not_answer() -> None:
    """What is at hand could be of a past that it no longer has."""
    async with impostor() as (bus, _):
        bus._accounts["1-1"] = an_account()
        following = asyncio.create_task(bus.follow_accounts())
        async with asyncio.timeout(WAIT_S):
            while bus._accounts:  # noqa: ASYNC110 - another task makes it empty
                await asyncio.sleep(0.01)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def test_waiting_for_entries_may_take_longer_than_an_answer(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quiet market is no server that is away."""
    monkeypatch.setattr(bus_module, "BLOCK_MS", 1100)
    monkeypatch.setattr(line_module, "SOCKET_TIMEOUT_S", 1.0)
    async with RedisBus.connect(redis_url, "quiet", "features") as bus:
        await bus.ensure_groups([streams.BARS])
        bus._accounts["1-1"] = an_account()
        following = asyncio.create_task(bus.follow_accounts())
        for _ in range(2):  # so that the following has waited once from beginning to end
            assert await bus.read_new([streams.BARS], block=True) == {}
        assert "1-1" in bus._accounts
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def test_write_without_an_answer_is_not_sent_again() -> None:
    """It may have arrived: a second one would be a duplicate."""
    async with impostor(hangs_up=True) as (bus, heard):
        with pytest.raises(BusUnavailableError):
            await bus.append(an_event())
    assert sum(b"XADD" in data for data in heard) == 1


async def test_state_is_asked_for_over_the_same_kind_of_connection(tmp_path: Path) -> None:
    """A server may stand behind a file or behind TLS."""
    async with RedisBus.connect(f"unix://{tmp_path}/nobody", "b", "features") as bus:
        with pytest.raises(BusUnavailableError):
            await bus.state()
