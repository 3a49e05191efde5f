"""From a stop to silence: a mesh that has too much to do is given a command; when does its last order leave?

    python -m bench.kill_switch [--bars N] [--stops N] [--seed S] [--json]

Real processes on an embedded Valkey: `bars` gets a backlog of 100,000 entries, which features, inference and
executor work on, and `orders` gets requests as the executor writes them, one queue for every stop, which the
gateway works on. A door of loopback stands between the gateway and the venue and notes when the bytes of an
order come by. Every request is for more than the account can pay: the venue refuses it, so that the next one
is sent at once, instead of waiting for its position to be closed.

In the middle of each queue a stop is given on `commands`, as `tradeguard halt` does without its file. What is
left in the queue must be refused, not sent. Exit status 0: it was, within the aim, every time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, cast

import redis.asyncio as redis

from bench.common import figures, machine
from bench.proxy import Proxy
from cli.demo import BOOK, Demo, DemoOptions
from cli.supervisor import Supervisor
from shared import streams
from shared.clock import monotonic_s, utc_now
from shared.errors import UnavailableError
from shared.log import configure_log
from shared.messages import (
    BAR_LENGTH,
    BarClosed,
    Command,
    CommandGiven,
    Direction,
    EventReported,
    ExecutionKind,
    ExecutionReported,
    Message,
    Meta,
    OrderRequested,
)
from shared.settings import DEFAULT_SYMBOLS

BUNDLE: Final = Path(__file__).parents[1] / "bundles" / "plumbing"
AIM_S: Final = 0.25
# of the requests that the gateway reads together one a symbol leaves, the others find it locked
QUEUE: Final = 1_000  # requests of one stop
SENT_BEFORE: Final = 10  # orders that leave before the stop is given
PIPELINE: Final = 1_000
WAIT_S: Final = 120.0
POLL_S: Final = 0.005
SETTLED_S: Final = 2.0
LOOK_MS: Final = 50
TICK: Final = 1e-4  # largest change of a bar, as a part of the price
# what the account of 10,000 USD at 1:100 cannot pay; of the other symbols five millions
VOLUME_UNITS: Final = {"XAUUSD": Decimal(5_000)}
LONG_AGO: Final = datetime(2001, 1, 1, tzinfo=UTC)  # closes of the requests: their ids are of this run alone
_RECORD_HEADER: Final = 5
_APPLICATION_DATA: Final = 23
_ORDER_BYTES_MIN: Final = 100  # of a TLS record; heartbeats and questions are shorter


@dataclass
class OrderWatch:
    """Sees the gateway's TLS records go by; the long ones are orders."""

    times_s: list[float] = field(default_factory=list)
    _pending: bytes = b""

    def __call__(self, data: bytes) -> None:
        """Take what went by."""
        now_s = monotonic_s()
        self._pending += data
        while len(self._pending) >= _RECORD_HEADER:
            kind, length = self._pending[0], int.from_bytes(self._pending[3:_RECORD_HEADER], "big")
            if len(self._pending) < _RECORD_HEADER + length:
                return
            self._pending = self._pending[_RECORD_HEADER + length :]
            if kind == _APPLICATION_DATA and length >= _ORDER_BYTES_MIN:
                self.times_s.append(now_s)


@dataclass(frozen=True)
class Stop:
    """What one stop did."""

    last_byte_s: float  # from the command to the last order that came by; 0: none came after it
    acknowledged_s: float
    sent_before: int
    sent_after: int
    refused: int  # of the queue, because of the stop
    bars_left: int  # of the backlog, when it was given


@asynccontextmanager
async def _watched(supervisor: Supervisor, watch: OrderWatch) -> AsyncIterator[None]:
    """Put the door between gateway and venue as soon as the venue says where it is."""
    file = supervisor.folder / "behind-the-door.json"
    for child in supervisor.instances["gateway"]:
        child.env = {**child.env, "SIM_VENUE_FILE": str(file)}

    async def keep_open() -> None:
        while not supervisor.venue_file.exists():  # noqa: ASYNC110 - another process writes it
            await asyncio.sleep(POLL_S)
        told = json.loads(supervisor.venue_file.read_text())
        async with Proxy.to(told["port"], watch) as door:
            part = file.with_suffix(".part")
            part.write_text(json.dumps({**told, "port": door.port}))
            part.replace(file)
            await asyncio.Event().wait()

    task = asyncio.create_task(keep_open())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


class Bench:
    """One mesh with its backlog, and the stops that are given to it."""

    def __init__(self, demo: Demo, client: redis.Redis, watch: OrderWatch, seed: int) -> None:
        self._demo = demo
        self._client: Any = client
        self._watch = watch
        self._random = random.Random(seed)  # noqa: S311 - repeatable is what it shall be
        self._queued = 0

    async def pile_up(self, bars: int) -> int:
        """Write a backlog behind the bars that are there; features sleeps meanwhile. Return its length."""
        await self._history_is_written()
        self._demo.supervisor.signal("features", signal.SIGSTOP)
        try:
            last = cast(BarClosed, (await self._demo.bus.last(streams.BARS) or ("", None))[1])
            history = await self._demo.bus.history(streams.BARS)
            newest = {cast(BarClosed, bar).symbol: cast(BarClosed, bar) for _, bar in history}
            batch: list[tuple[str, Message]] = []
            for n in range(1, bars // len(DEFAULT_SYMBOLS) + 1):
                close = last.close_time + n * BAR_LENGTH
                newest = {symbol: self._next(bar, close) for symbol, bar in newest.items()}
                batch += [(streams.market_id(close, bar.index), bar) for bar in newest.values()]
                if len(batch) >= PIPELINE:
                    await self._write(batch)
                    batch = []
            await self._write(batch)
            return await self._bars_left()
        finally:
            self._demo.supervisor.signal("features", signal.SIGCONT)

    async def _history_is_written(self) -> None:
        """Wait until the gateway has written what it fetched at its start; then the venue stands still."""
        newest, before = await self._demo.bus.last(streams.BARS), None
        async with asyncio.timeout(WAIT_S):
            while newest is None or newest != before:
                await asyncio.sleep(SETTLED_S)
                newest, before = await self._demo.bus.last(streams.BARS), newest

    def _next(self, bar: BarClosed, close: datetime) -> BarClosed:
        step = Decimal(repr(self._random.uniform(-TICK, TICK)))
        price = (bar.close * (1 + step)).quantize(bar.close)
        changes = {
            "meta": Meta.root(
                f"backlog:{close.isoformat()}:{bar.symbol}", close, f"slice:{close.isoformat()}"
            ),
            "open_time": close - BAR_LENGTH,
            "open": bar.close,
            "close": price,
            "high": max(bar.close, price),
            "low": min(bar.close, price),
            "synthetic": False,
        }
        return bar.model_copy(update=changes)

    async def _write(self, entries: Sequence[tuple[str, Message]]) -> None:
        async with self._client.pipeline(transaction=False) as pipe:
            for entry_id, message in entries:
                key = streams.key(BOOK, streams.stream_of(message).name)
                pipe.xadd(key, streams.encode(message), id=entry_id)
            await pipe.execute()

    async def _bars_left(self) -> int:
        (group,) = await self._client.xinfo_groups(streams.key(BOOK, streams.BARS.name))
        return int(group["lag"])

    async def stop_in_the_middle(self, command: Command) -> Stop:
        """Queue requests, stop while they leave, and see what becomes of the rest."""
        await self._order(Command.RESUME)
        after = (await self._demo.bus.last(streams.EXECUTIONS) or ("0-0", None))[0]
        seen = len(self._watch.times_s)
        requests = [self._request() for _ in range(QUEUE)]
        await self._write([("*", request) for request in requests])
        async with asyncio.timeout(WAIT_S):
            while len(self._watch.times_s) < seen + SENT_BEFORE:  # noqa: ASYNC110 - the door counts
                await asyncio.sleep(POLL_S)
        bars_left = await self._bars_left()
        before = len(self._watch.times_s) - seen
        given_s = monotonic_s()
        await self._order(command)
        acknowledged_s = monotonic_s() - given_s
        ends = await self._ends(requests, after)
        sent = self._watch.times_s[seen:]
        reasons = [end.reason for end in ends.values() if end.kind is ExecutionKind.REFUSED]
        if sum(end.kind is ExecutionKind.REJECTED for end in ends.values()) != len(sent):
            raise UnavailableError("the door and the streams count different orders")
        return Stop(
            last_byte_s=max(0.0, sent[-1] - given_s),
            acknowledged_s=acknowledged_s,
            sent_before=before,
            sent_after=sum(at_s > given_s for at_s in sent),
            refused=reasons.count(f"CONTROL_{command.name}"),
            bars_left=bars_left,
        )

    async def _order(self, command: Command) -> None:
        """Give a command and wait until the executor says that it obeys."""
        last = await self._demo.bus.last(streams.EVENTS)
        after = last[0] if last else "0-0"
        now = utc_now()
        meta = Meta.root(f"{BOOK}:bench:{command}:{now.isoformat()}", now)
        await self._demo.bus.append(CommandGiven(meta=meta, command=command, who="bench", why="measured"))
        async with asyncio.timeout(WAIT_S):
            while True:
                found = (await self._demo.bus.tail({streams.EVENTS: after}, LOOK_MS)).get(streams.EVENTS, [])
                told = [cast(EventReported, event).details for _, event in found]
                if any(details.get("command_id") == str(meta.message_id) for details in told):
                    return
                after = found[-1][0] if found else after

    async def _ends(self, requests: Sequence[OrderRequested], after: str) -> dict[str, ExecutionReported]:
        """Return what ended each request, once every one has ended."""
        ended: dict[str, ExecutionReported] = {}
        wanted = {request.client_order_id for request in requests}
        async with asyncio.timeout(WAIT_S):
            while wanted - ended.keys():
                found = await self._demo.bus.tail({streams.EXECUTIONS: after}, LOOK_MS)
                for entry_id, message in found.get(streams.EXECUTIONS, []):
                    event, after = cast(ExecutionReported, message), entry_id
                    if event.kind in (ExecutionKind.REJECTED, ExecutionKind.REFUSED):
                        ended[event.client_order_id] = event
        return ended

    def _request(self) -> OrderRequested:
        """Return a request that the venue will refuse: nobody lends so much."""
        self._queued += 1
        symbol = DEFAULT_SYMBOLS[self._queued % len(DEFAULT_SYMBOLS)]
        close = LONG_AGO + self._queued * BAR_LENGTH
        stop = Decimal("20.00") if symbol == "XAUUSD" else Decimal("0.50")
        return OrderRequested(
            meta=Meta.root(f"{BOOK}:bench:request:{self._queued}", close),
            client_order_id=f"TG-{BOOK}-{close:%Y%m%dT%H%M}-{symbol}",
            symbol=symbol,
            direction=Direction.LONG,
            volume_units=VOLUME_UNITS.get(symbol, Decimal(5_000_000)),
            stop_distance=stop,
            target_distance=stop,
            valid_until=utc_now() + timedelta(days=36_500),
            risk_fraction=0.005,
            sl_mult=1.0,
            tp_mult=1.0,
            equity=Decimal(10_000),
            reserved_margin=Decimal(0),
            bound_by="RISK",
            account_id="0-0",
            inputs={},
        )


async def measure(bars: int, stops: int, seed: int, folder: Path) -> dict[str, Any]:
    """Return the figures of one run."""
    watch = OrderWatch()
    options = DemoOptions(bundle=BUNDLE, folder=folder, seed=seed)
    async with Demo.start(options, before=lambda supervisor: _watched(supervisor, watch)) as demo:
        client = redis.Redis.from_url(demo.supervisor.redis_url, decode_responses=True)
        try:
            bench = Bench(demo, client, watch, seed)
            backlog = await bench.pile_up(bars)
            commands = (Command.HALT, Command.PAUSE)
            done = [await bench.stop_in_the_middle(commands[n % 2]) for n in range(stops)]
        finally:
            await client.aclose()
    return {
        "backlog, bars": backlog,
        "left of it at the first and last stop": [done[0].bars_left, done[-1].bars_left],
        "last order byte after the command": figures([each.last_byte_s for each in done]),
        "acknowledged by the executor": figures([each.acknowledged_s for each in done]),
        "orders that left after a command": [each.sent_after for each in done],
        "requests queued before a stop, refused after it": sum(each.refused for each in done),
        "orders that left": sum(each.sent_before + each.sent_after for each in done),
        "holds": max(each.last_byte_s for each in done) < AIM_S and all(each.refused for each in done),
    }


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bars", type=int, default=100_000)
    parser.add_argument("--stops", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    configure_log("bench", level="ERROR", format="console", folder=None, secrets=())
    started_s = monotonic_s()
    with tempfile.TemporaryDirectory() as folder:
        results = asyncio.run(measure(options.bars, options.stops, options.seed, Path(folder) / "mesh"))
    report = {
        "bench": "kill_switch",
        "machine": machine(),
        "seconds": round(monotonic_s() - started_s),
        "seed": options.seed,
        **results,
    }
    if options.json:
        print(json.dumps(report))
    else:
        print("\n".join(f"{name:>48}  {value}" for name, value in report.items()))
    return 0 if results["holds"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
