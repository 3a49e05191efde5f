"""How long the gateway holds orders: from requests that were read together to the bytes of each.

The journal is real and on a disk. What is replaced are the venue's session, which notes when it is told to
send, and the streams. `--folder DIR` names the disk, `--orders K` how many requests a slice has.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

from bench.common import figures, show
from services.gateway.desk import Desk, Patience
from services.gateway.handlers import GatewayHandlers
from services.gateway.journal import Journal
from services.gateway.orders import Status
from services.gateway.session import Session
from services.gateway.terms import Trader
from services.gateway.timing import Timing
from shared import messages as m
from shared.account import Quote
from shared.bus import Output
from shared.clock import SystemClock, monotonic_s
from shared.contracts import Contract
from shared.streams import Stream
from venue.book import CONTRACTS

SLICES = 300
PAUSE_S = 0.01  # between two slices: nothing of one is left when the next begins
TUESDAY = datetime(2025, 1, 7, 7, 20, tzinfo=UTC)
D = Decimal


class Streams:
    """Streams that take everything."""

    book = "bench"

    def holds_lease(self) -> bool:
        """Whether this instance may act: always."""
        return True

    async def publish(
        self, outputs: Sequence[Output], *, counter: tuple[str, int] | None = None
    ) -> list[str]:
        """Take messages."""
        return []

    async def append(self, message: m.Message) -> str:
        """Take one message."""
        return "1-0"

    async def counter(self, name: str) -> int:
        """Return that nothing was published before."""
        return 0

    async def write_contracts(self, contracts: Mapping[str, Contract]) -> None:
        """Take the terms."""

    async def history(
        self, stream: Stream, start: str = "-", end: str = "+", count: int | None = None
    ) -> list[tuple[str, m.Message]]:
        """Return that nothing stands in a stream."""
        return []

    async def mark(self, service: str, stream: Stream) -> str:
        """Return that nothing was committed before."""
        return ""


class Venue:
    """A session that sends nothing and notes when it should have."""

    def __init__(self) -> None:
        self.link = self
        self.ended = asyncio.Event()
        self.contracts = dict(CONTRACTS)
        self.by_id = dict(enumerate(CONTRACTS.values(), 1))
        self.trader = Trader(D(10_000), 1, "USD", D(30), "")
        self.sent_s: list[float] = []

    def send_market_order(self, *_: Any, **__: Any) -> None:
        """Note when the bytes would leave."""
        self.sent_s.append(monotonic_s())


async def measure(folder: Path, slices: int, count: int) -> dict[str, Any]:
    """Return how long the first and the last order of a slice took, and how long until all was done."""
    journal = Journal(folder / "journal.db")
    journal.open()
    timing = Timing(0, SystemClock())
    timing.stamp(int(TUESDAY.timestamp() * 1000))
    desk = Desk(journal, Streams(), timing, Patience(1.0, 60.0, 10.0), folder / "HALT")
    venue = Venue()
    session = cast(Session, venue)
    await desk.account.open(session)
    for symbol in CONTRACTS:
        desk.account.model.quotes[symbol] = Quote(D("1.10000"), D("1.10010"), timing.now_ms())
    desk.line.go_on(session)
    desk.line.up.set()
    desk.line.trading.set()
    handlers = GatewayHandlers(desk, journal)
    beside = [asyncio.create_task(work()) for work in (desk.background.run, desk.outbox.run)]
    first, last, done = [], [], []
    for number in range(slices):
        requests = [a_request(symbol, number) for symbol in list(CONTRACTS)[:count]]
        venue.sent_s.clear()
        began_s = monotonic_s()
        for request in requests:
            await handlers.on_order_requested(request)
        await handlers.settle()
        done.append(monotonic_s() - began_s)
        first.append(venue.sent_s[0] - began_s)
        last.append(venue.sent_s[-1] - began_s)
        for request in requests:
            await desk.executions.record(request, m.ExecutionKind.REJECTED, reason="bench")
        await asyncio.sleep(PAUSE_S)
    assert len(journal.orders(Status.REJECTED)) == slices * count
    for task in beside:
        task.cancel()
    await asyncio.gather(*beside, return_exceptions=True)
    journal.close()
    return {
        "orders a slice": count,
        **{
            "first order's bytes": figures(first),
            "last order's bytes": figures(last),
            "all journalled": figures(done),
        },
    }


def a_request(symbol: str, number: int) -> m.OrderRequested:
    """Return the request of one symbol at one slice."""
    close = TUESDAY + timedelta(minutes=5 * number)
    order = f"TG-bench-{close:%Y%m%dT%H%M}-{symbol}"
    contract = CONTRACTS[symbol]
    return m.OrderRequested(
        meta=m.Meta.root(f"request:{order}", close, f"slice:{close.isoformat()}"),
        client_order_id=order,
        symbol=symbol,
        direction=m.Direction.LONG,
        volume_units=contract.min_volume_units,
        stop_distance=contract.pip * 50,
        target_distance=contract.pip * 70,
        valid_until=close + timedelta(days=30),
        risk_fraction=0.005,
        sl_mult=1.0,
        tp_mult=2.0,
        equity=D(10_000),
        reserved_margin=D(100),
        bound_by="risk",
        account_id="1-0",
        inputs={"signals": "1736234400000-4", "account": "1736234400150-0"},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=SLICES)
    parser.add_argument("--orders", type=int, default=len(CONTRACTS))
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        show("orders", asyncio.run(measure(Path(folder), options.slices, options.orders)))


if __name__ == "__main__":
    main()
