"""Streams do not grow for ever."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import timedelta

from services.gateway.timing import Timing
from services.gateway.trimming import TRIM_EVERY_S, Trimming
from shared import streams
from shared.bus import Output
from shared.clock import ManualClock
from sim.bus import MemoryBus
from sim.server import MemoryServer
from tests.builders import MONDAY, a_bar


async def test_old_days_go_once_an_hour_and_a_server_that_is_away_is_asked_again() -> None:
    """The gateway does not end because of it, and what it could not trim goes an hour later."""
    clock = ManualClock()
    server = MemoryServer(lambda: streams.milliseconds(clock.now()), clock.monotonic_s)
    bus = MemoryBus(server, "t", "features")
    await bus.hold_lease(600)
    await bus.ensure_groups([streams.BARS])
    days = [MONDAY + timedelta(days=day) for day in range(5)]
    await bus.publish([Output(a_bar(open_time=day), streams.market_id(day)) for day in days])
    while read := (await bus.read_new([streams.BARS], block=False)).get(streams.BARS):
        await bus.commit(read, [])
    server.is_up = False
    task = asyncio.create_task(Trimming(bus, Timing(1, clock), keep_days=2).run())
    try:
        await asyncio.sleep(0)
        assert len(server.streams["bars"].ids) == 5
        server.is_up = True
        clock.advance(TRIM_EVERY_S)
        await asyncio.sleep(0.01)
        assert [entry_id for entry_id, _ in server.streams["bars"].ids] == [
            streams.milliseconds(day) for day in days[2:]
        ]
        assert not task.done()
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
