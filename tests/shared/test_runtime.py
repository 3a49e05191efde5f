"""How a service runs: order, wholes, retries, dead letters, stop; over a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from itertools import count
from uuid import UUID

import pytest

from shared import redis_bus, runtime, streams
from shared.bus import Delivery, Output
from shared.errors import InputError, UnavailableError
from shared.log import CORRELATION
from shared.messages import BarClosed, Command, CommandGiven, Message, Meta
from shared.redis_bus import RedisBus
from shared.runtime import Route, Runtime, Service, on
from shared.settings import ServiceSettings
from tests.builders import MONDAY, SYMBOLS, a_bar, an_event

pytestmark = pytest.mark.redis
_BOOKS = count()
WAIT_S = 10.0


class Collector:
    """Takes bars, makes an event of each whole slice, and fails where it is told to."""

    def __init__(self) -> None:
        self.slices: list[str] = []
        self.saved = 0
        self.fail: dict[str, Exception] = {}
        self.failures = 0
        self._bars: list[str] = []

    async def on_bar(self, bar: BarClosed) -> Sequence[Message] | None:
        place = f"{bar.open_time:%H:%M} {bar.symbol}"
        if place in self.fail:
            self.failures += 1
            raise self.fail[place]
        if bar.index != len(self._bars):
            raise InputError(f"{bar.symbol} is not what comes next")
        self._bars.append(bar.symbol)
        if bar.index < bar.slice_size - 1:
            return None
        self.slices.append(f"{bar.open_time:%H:%M} {','.join(self._bars)}")
        self._bars = []
        return [an_event(self.slices[-1])]

    def snapshot(self) -> bytes:
        self.saved += 1
        return "\n".join(self.slices).encode()

    def restore(self, data: bytes | None) -> None:
        self.slices = data.decode().split("\n") if data else []
        self._bars = []


@asynccontextmanager
async def running(
    url: str,
    book: str,
    collector: Collector,
    routes: tuple[Route, ...] = (),
    settle: Callable[[], Awaitable[None]] | None = None,
) -> AsyncIterator[RedisBus]:
    """Run a service while the context is open."""
    settings = ServiceSettings(_env_file=None, book=book, redis_url=url)
    async with RedisBus.connect(url, book, "features") as bus:
        service = Service(routes=routes or (on(BarClosed, collector.on_bar),), state=collector, settle=settle)
        one = Runtime("features", service, bus, settings)
        task = asyncio.create_task(one.run())
        try:
            yield bus
        finally:
            one.stop()
            await task


@pytest.fixture
def book() -> str:
    return f"r{next(_BOOKS)}"


async def write_slices(url: str, book: str, n: int) -> None:
    """Write n slices of bars as the gateway does."""
    async with RedisBus.connect(url, book, "gateway") as gateway:
        assert await gateway.hold_lease(5.0)
        for i in range(n):
            at = MONDAY + timedelta(minutes=5 * i)
            close = at + timedelta(minutes=5)
            bars = [a_bar(symbol, open_time=at) for symbol in SYMBOLS]
            await gateway.publish([Output(bar, streams.market_id(close, k)) for k, bar in enumerate(bars)])
        await gateway.release_lease()


async def events(bus: RedisBus, n: int) -> list[str]:
    """Wait for n events of slices and return their texts."""
    async with asyncio.timeout(WAIT_S):
        while True:
            texts = [e.text for _, e in await bus.history(streams.EVENTS) if e.service == "test"]  # type: ignore[attr-defined]
            if len(texts) >= n:
                return texts
            await asyncio.sleep(0.02)


async def test_a_backlog_is_handled_whole_in_order_and_once(redis_url: str, book: str) -> None:
    """Slices cut in two by a read are still one step each; a batch saves its state once."""
    await write_slices(redis_url, book, 30)
    collector = Collector()
    async with running(redis_url, book, collector) as bus:
        texts = await events(bus, 30)
    assert len(texts) == len(set(texts)) == 30
    assert texts == sorted(texts)
    assert all(text.endswith(",".join(SYMBOLS)) for text in texts)
    assert collector.saved <= 5


async def test_a_command_does_not_wait_for_a_backlog(
    redis_url: str, book: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stop that waits for all that was queued before it is none. The backlog goes on after it."""
    monkeypatch.setattr(runtime, "LOOK_AGAIN_S", 0.0)
    await write_slices(redis_url, book, 40)
    collector, given = Collector(), asyncio.Event()
    done_before_command: list[int] = []

    async def on_bar(bar: BarClosed) -> Sequence[Message] | None:
        if len(collector.slices) == 3 and not given.is_set():
            given.set()
            now = MONDAY
            command = CommandGiven(
                meta=Meta.root("pause", now), command=Command.PAUSE, who="ann", why="a test"
            )
            async with RedisBus.connect(redis_url, book, "cli") as cli:
                await cli.append(command)
        return await collector.on_bar(bar)

    async def on_command(_: CommandGiven) -> Sequence[Message]:
        done_before_command.append(len(collector.slices))
        return ()

    routes = (on(CommandGiven, on_command), on(BarClosed, on_bar))
    async with running(redis_url, book, collector, routes) as bus:
        texts = await events(bus, 40)
    assert done_before_command == [4]
    assert len(texts) == len(set(texts)) == 40


async def test_what_is_put_off_is_settled_before_the_commit(redis_url: str, book: str) -> None:
    """What was read together is done together; when that fails, nothing of it is committed."""
    await write_slices(redis_url, book, 3)
    collector, story = Collector(), []
    fails = [UnavailableError("not now")]

    async def settle() -> None:
        story.append(list(collector.slices))
        if fails:
            raise fails.pop()

    async with running(redis_url, book, collector, settle=settle) as bus:
        texts = await events(bus, 3)
    assert len(texts) == len(set(texts)) == 3
    assert story[0] == story[1] == collector.slices  # again from the first, after the failure


async def test_a_wrong_entry_is_buried_with_its_whole_and_the_rest_goes_on(redis_url: str, book: str) -> None:
    """What will never be right does not stop the stream; its error and its fields are kept."""
    await write_slices(redis_url, book, 4)
    collector = Collector()
    collector.fail["10:05 USDJPY"] = InputError("a price of nothing")
    async with running(redis_url, book, collector) as bus:
        texts = await events(bus, 3)
        dead = [message for _, message in await bus.history(streams.DEAD)]
    assert [text[:5] for text in texts] == ["10:00", "10:10", "10:15"]
    assert "a price of nothing" in dead[0].error  # type: ignore[attr-defined]
    assert {d.fields["symbol"] for d in dead} == {"USDJPY", "USDCHF", "XAUUSD"}  # type: ignore[attr-defined]


async def test_parts_of_a_whole_that_another_instance_has_read_are_fetched_back(
    redis_url: str, book: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One whose lease has just run out may still read: no part is lost, or committed with what is none."""
    monkeypatch.setattr(redis_bus, "READ_COUNT", 3)
    monkeypatch.setattr(RedisBus, "read_count", 3)
    await write_slices(redis_url, book, 1)
    collector, stolen = Collector(), list[Delivery]()

    async def on_bar(bar: BarClosed) -> Sequence[Message] | None:
        if bar.index == 2 and not stolen:
            async with RedisBus.connect(redis_url, book, "features") as other:
                stolen.extend((await other.read_new((streams.BARS,), block=False))[streams.BARS])
            await write_slices(redis_url, book, 2)
        return await collector.on_bar(bar)

    async with running(redis_url, book, collector, (on(BarClosed, on_bar),)) as bus:
        texts = await events(bus, 2)
        assert await bus.history(streams.DEAD) == []
    assert len(stolen) == 2
    assert [text[:5] for text in texts] == ["10:00", "10:05"]


async def test_what_cannot_be_done_now_is_tried_again_and_then_done(redis_url: str, book: str) -> None:
    """A dependency that is away for a moment costs time, not entries; state goes back before each try."""
    await write_slices(redis_url, book, 3)
    collector = Collector()
    collector.fail["10:05 EURUSD"] = UnavailableError("away")
    async with running(redis_url, book, collector) as bus:
        async with asyncio.timeout(WAIT_S):
            while collector.failures < 3:  # noqa: ASYNC110 - the service counts
                await asyncio.sleep(0.01)
        collector.fail.clear()
        texts = await events(bus, 3)
        assert await bus.history(streams.DEAD) == []
    assert [text[:5] for text in texts] == ["10:00", "10:05", "10:10"]


async def test_what_never_succeeds_is_buried_after_a_bounded_number_of_tries(
    redis_url: str, book: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every retry has a limit."""
    monkeypatch.setattr(runtime, "TRIES_BEFORE_DEAD", 3)
    await write_slices(redis_url, book, 2)
    collector = Collector()
    collector.fail["10:00 EURUSD"] = UnavailableError("away for good")
    async with running(redis_url, book, collector) as bus, asyncio.timeout(WAIT_S):
        while not await bus.history(streams.DEAD):  # noqa: ASYNC110 - the service writes
            await asyncio.sleep(0.02)
    assert collector.failures == 3


async def test_a_restart_goes_on_from_the_last_commit(redis_url: str, book: str) -> None:
    """A start and a restart are one path: state as saved, then what was not committed, then what is new."""
    await write_slices(redis_url, book, 2)
    first, second = Collector(), Collector()
    async with running(redis_url, book, first) as bus:
        await events(bus, 2)
    await write_slices(redis_url, book, 5)
    async with running(redis_url, book, second) as bus:
        texts = await events(bus, 5)
    assert second.slices == texts
    assert len(texts) == 5


async def test_what_a_handler_logs_belongs_to_its_slice(redis_url: str, book: str) -> None:
    """One id follows a slice from the broker to Discord."""
    await write_slices(redis_url, book, 1)
    collector, seen = Collector(), list[tuple[UUID, UUID | None]]()

    async def on_bar(bar: BarClosed) -> Sequence[Message] | None:
        seen.append((bar.meta.correlation_id, CORRELATION.get()))
        return await collector.on_bar(bar)

    async with running(redis_url, book, collector, (on(BarClosed, on_bar),)) as bus:
        await events(bus, 1)
    assert len(seen) == len(SYMBOLS)
    assert all(of_bar == of_lines for of_bar, of_lines in seen)
