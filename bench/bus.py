"""One hop over the bus: a message is published, read by a group, and committed with the next message.

Two processes, as in the mesh: the writer here, the reader in another one, an embedded Valkey with AOF every
second between them. Time is taken by the machine's monotonic clock, which both processes share.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from multiprocessing.connection import Connection

from bench.common import figures, show, valkey
from shared import streams
from shared.bus import Output
from shared.messages import BarClosed, EventReported, Meta
from shared.redis_bus import RedisBus
from shared.streams import market_id

HOPS = 2_000
WARM_UP = 200
PAUSE_S = 0.001  # between two messages: the mesh waits for a slice, it does not push
MONDAY = datetime(2025, 1, 6, tzinfo=UTC)


def a_bar(number: int) -> BarClosed:
    """Return one bar a slice."""
    at = MONDAY + timedelta(minutes=5 * number)
    return BarClosed(
        meta=Meta.root(f"bench:{number}", at),
        symbol="EURUSD",
        open_time=at,
        open=Decimal("1.10000"),
        high=Decimal("1.10020"),
        low=Decimal("1.09990"),
        close=Decimal("1.10010"),
        tick_volume=number,
        origin="live",
        synthetic=False,
        index=0,
        slice_size=1,
        account_id=market_id(at),
    )


async def consume(url: str, tell: Connection) -> None:
    """Read each bar and commit an event for it; tell when each was read, and when it was committed."""
    times: list[tuple[int, int]] = []
    async with RedisBus.connect(url, "bench", "features") as bus:
        await bus.hold_lease(600)
        await bus.ensure_groups((streams.BARS,))
        tell.send("ready")
        while len(times) < HOPS + WARM_UP:
            for delivery in (await bus.read_new((streams.BARS,), block=True)).get(streams.BARS, []):
                bar = streams.decode(delivery.fields)
                read_ns = time.monotonic_ns()
                event = EventReported(
                    meta=bar.meta.effect(EventReported), service="features", kind="limit", text="seen"
                )
                await bus.commit([delivery], [Output(event)], b"state")
                times.append((read_ns, time.monotonic_ns()))
    tell.send(times)


def reader(url: str, tell: Connection) -> None:
    """Run the reader's process."""
    asyncio.run(consume(url, tell))


async def produce(url: str) -> list[tuple[int, int]]:
    """Publish a bar at a time; return when each publication began and ended."""
    times = []
    async with RedisBus.connect(url, "bench", "gateway") as bus:
        await bus.hold_lease(600)
        for number in range(HOPS + WARM_UP):
            bar = a_bar(number)
            began_ns = time.monotonic_ns()
            await bus.publish([Output(bar, market_id(bar.close_time))])
            times.append((began_ns, time.monotonic_ns()))
            await asyncio.sleep(PAUSE_S)
    return times


def main() -> None:
    """Measure and print."""
    with valkey() as url:
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context("spawn").Process(target=reader, args=(url, theirs))
        process.start()
        assert ours.recv() == "ready"  # the group is there, so nothing is read late
        published = asyncio.run(produce(url))[WARM_UP:]
        consumed = ours.recv()[WARM_UP:]
        process.join()
    pairs = list(zip(published, consumed, strict=True))
    show(
        "bus",
        {
            "publish, answered": figures([(end - start) / 1e9 for (start, end), _ in pairs]),
            "publish to decoded by the reader": figures(
                [(read - start) / 1e9 for (start, _), (read, _) in pairs]
            ),
            "commit: outputs, state, ack": figures([(end - read) / 1e9 for _, (read, end) in pairs]),
            "whole hop, publish to committed": figures(
                [(end - start) / 1e9 for (start, _), (_, end) in pairs]
            ),
        },
    )


if __name__ == "__main__":
    main()
