"""What quotes cost: 5,000 events a second, the way from the closing one to the bars, a history.

Messages come in as the bytes of the venue, in batches as a socket gives them, through the gateway's own link,
feed and outbox to an embedded Valkey. A slice is closed by the first quote of the last symbol's next bar; its
time is taken from that quote's bytes to the server's answer that the bars are written.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from bench.common import figures, show, valkey
from bench.orders import TUESDAY, Venue
from services.gateway.bars import BAR_MS, SliceAssembler
from services.gateway.desk import Desk, Patience
from services.gateway.feed import Feed
from services.gateway.inbox import Inbox
from services.gateway.journal import Journal
from services.gateway.link import Link, Received
from services.gateway.protocol import common, model, oa, payload_type
from services.gateway.session import Session
from services.gateway.timing import Timing
from services.gateway.translate import history_bar
from services.gateway.transport import Transport
from shared.account import Quote
from shared.bus import Output
from shared.clock import SystemClock, monotonic_s
from shared.messages import BarClosed
from shared.redis_bus import RedisBus
from shared.streams import market_id
from venue.book import CONTRACTS

SPOTS_PER_S = 5_000
BATCH = 50
SLICES, WARM_UP = 240, 20
SPOTS_A_SLICE = 1_250
TRENDBARS = 14_000
START_MS = int(TUESDAY.timestamp() * 1000) // BAR_MS * BAR_MS
IDS = dict(enumerate(CONTRACTS, 1))


class TimedBus(RedisBus):
    """Notes when the bars of a slice were written."""

    written_s: dict[str, float]

    async def publish(self, outputs: Sequence[Output], **more: Any) -> list[str]:
        """Write messages, all or none."""
        ids = await super().publish(outputs, **more)
        if isinstance(outputs[-1].message, BarClosed):
            self.written_s[outputs[-1].entry_id] = monotonic_s()
        return ids


@dataclass
class Wire:
    """A place that is dialled: what a link would hear is put in by hand."""

    host: str = "bench"
    hear: Callable[[bytes], None] = lambda _: None

    async def dial(self, on_message: Callable[[bytes], None], on_end: Callable[[str], None]) -> Transport:
        """Return a way on which nothing is sent."""
        self.hear = on_message
        return cast(Transport, self)


def spot(symbol_id: int, at_ms: int, number: int) -> bytes:
    """Return the bytes of a spot event with its forming bar."""
    open_ms = at_ms // BAR_MS * BAR_MS
    bid = 110_000 + number % 50
    event = oa.ProtoOASpotEvent(
        ctidTraderAccountId=1,
        symbolId=symbol_id,
        bid=bid,
        ask=bid + 10,
        timestamp=at_ms,
        trendbar=[
            model.ProtoOATrendbar(
                volume=number % 500 + 1,
                period=model.M5,
                low=109_900,
                deltaOpen=100,
                deltaHigh=200,
                utcTimestampInMinutes=open_ms // 60_000,
            )
        ],
    )
    envelope = common.ProtoMessage(payloadType=payload_type(event), payload=event.SerializeToString())
    return bytes(envelope.SerializeToString())


def slice_spots(number: int) -> list[bytes]:
    """Return the events of one slice, symbol by symbol in turn."""
    begin_ms = START_MS + number * BAR_MS
    ids = list(IDS)
    return [spot(ids[k % len(ids)], begin_ms + k * BAR_MS // SPOTS_A_SLICE, k) for k in range(SPOTS_A_SLICE)]


async def pump(inbox: Inbox[Received], feed: Feed) -> None:
    """Handle what comes, as the connection does."""
    while True:
        await feed.on_spot((await inbox.get()).message)


async def run(url: str, folder: Path) -> dict[str, Any]:
    """Let the quotes come for a while; return how long slices took, and what a second cost."""
    events = [content for number in range(SLICES + 1) for content in slice_spots(number)]
    journal = Journal(folder / "journal.db")
    journal.open()
    timing = Timing(0, SystemClock())
    timing.stamp(START_MS)
    async with TimedBus.connect(url, "bench", "gateway") as bus:
        timed = cast(TimedBus, bus)
        timed.written_s = {}
        await bus.hold_lease(600)
        desk = Desk(journal, bus, timing, Patience(1.0, 60.0, 10.0), folder / "HALT")
        assembler = SliceAssembler(tuple(IDS.values()), bar_close_ms=150, deadline_ms=300)
        feed = Feed("bench", desk.context, desk.outbox, assembler, 300, 60.0)
        session = cast(Session, Venue())
        await desk.account.open(session)
        feed.learn(session)
        for symbol, contract in CONTRACTS.items():
            desk.account.model.quotes[symbol] = Quote(
                contract.tick * 10_000, contract.tick * 10_001, START_MS
            )
        inbox: Inbox[Received] = Inbox()
        wire = Wire()
        await Link.connect(wire, inbox)
        beside = [
            asyncio.create_task(work)
            for work in (pump(inbox, feed), desk.outbox.run(), desk.background.run())
        ]
        heard_s, cpu_s, wall_s = await hear(wire, events)
        await asyncio.sleep(1.0)
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
        journal.close()
        times = [timed.written_s[entry_id] - at_s for entry_id, at_s in heard_s.items()]
    assert len(times) == SLICES
    return {
        "spot events a second": {"rate": round(len(events) / wall_s), "cpu_share": round(cpu_s / wall_s, 3)},
        "processor time of an event": {"us": round(1e6 * cpu_s / len(events), 1), "n": len(events)},
        "closing event to bars": figures(times[WARM_UP:]),
    }


async def hear(wire: Wire, events: Sequence[bytes]) -> tuple[dict[str, float], float, float]:
    """Put events in at their pace; return when each slice's closing one came, processor and wall time."""
    heard_s: dict[str, float] = {}
    began_s, began_cpu = monotonic_s(), time.process_time()
    for at in range(0, len(events), BATCH):
        for number in range(at, at + BATCH):
            if number >= SPOTS_A_SLICE and number % SPOTS_A_SLICE == len(IDS) - 1:
                close_ms = START_MS + number // SPOTS_A_SLICE * BAR_MS
                close = TUESDAY.fromtimestamp(close_ms / 1000, TUESDAY.tzinfo)
                heard_s[market_id(close, len(IDS) - 1)] = monotonic_s()
            wire.hear(events[number])
        await asyncio.sleep(max(0.0, began_s + (at + BATCH) / SPOTS_PER_S - monotonic_s()))
    return heard_s, time.process_time() - began_cpu, monotonic_s() - began_s


def history() -> dict[str, Any]:
    """Return the processor time that an answer of so many bars takes, from its bytes to our bars."""
    bars = [
        model.ProtoOATrendbar(
            volume=k % 900 + 1,
            low=109_900 + k % 70,
            deltaOpen=50,
            deltaHigh=120,
            deltaClose=60,
            utcTimestampInMinutes=START_MS // 60_000 + 5 * k,
        )
        for k in range(TRENDBARS)
    ]
    answer = oa.ProtoOAGetTrendbarsRes(
        ctidTraderAccountId=1, period=model.M5, timestamp=START_MS, symbolId=1, trendbar=bars
    )
    content = answer.SerializeToString()
    samples = []
    for _ in range(20):
        began_s = time.process_time()
        parsed = oa.ProtoOAGetTrendbarsRes()
        parsed.ParseFromString(content)
        found = [history_bar("EURUSD", bar) for bar in parsed.trendbar]
        samples.append(time.process_time() - began_s)
        assert len(found) == TRENDBARS
    return figures(samples)


def main() -> None:
    """Measure and print."""
    with valkey() as url, tempfile.TemporaryDirectory() as folder:
        results = asyncio.run(run(url, Path(folder)))
    show("feed", {**results, f"{TRENDBARS:,} bars of history, processor time": history()})


if __name__ == "__main__":
    main()
