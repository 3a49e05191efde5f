"""A recorded book without a mesh: the services' handlers, a stub of a venue, and chance in between.

The executor reads as it does live: at some instant, all that is there by then, commands first, then
executions, then signals. When it looks is chance; that is what a replay has to find out again.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from services.executor.policy import Policy
from services.features.handlers import FeaturesHandlers
from services.inference.bundle import Bundle
from services.inference.handlers import InferenceHandlers
from shared import messages as m
from shared import streams
from shared.bus import Delivery
from shared.runtime import Service, on
from shared.streams import Stream, from_milliseconds, market_id
from sim.memory import MemoryBook, MemoryBus, Station
from sim.recording import Recording, Saved
from sim.replay import Engine, InForce, executor_of
from tests.features.builders import a_position, an_account, bars_of_slice
from tests.features.conftest import STEP_MS, SYMBOLS, Slices
from tests.inference.small import a_bundle
from venue.book import CONTRACTS

BOOK = "test"
SLICES_MIN = 300
ALPHA = (0.9, -0.9, 0.5, -0.6, 0.1)  # four entries wanted at every slice
COMMANDS = (
    m.Command.PAUSE, m.Command.FLATTEN, m.Command.FLATTEN, m.Command.HALT, *[m.Command.RESUME] * 6,
)  # fmt: skip


def an_engine(bundle: Bundle | None = None, **policy: Any) -> Engine:
    return Engine(bundle or a_bundle(ALPHA), [InForce({}, Policy(book=BOOK, **policy))], SLICES_MIN)


@dataclass
class Recorder:
    """Runs a book over a market and keeps what was written and read."""

    market: Slices
    seed: int
    engine: Engine = field(default_factory=an_engine)
    restarts: Mapping[int, Policy] = field(default_factory=dict)  # row -> by what is decided from then on
    save_at: int = -1  # the row before which the state is saved

    def __post_init__(self) -> None:
        self.in_force = list(self.engine.policies)
        self.saved = Saved()
        self.random = random.Random(self.seed)  # noqa: S311 - a test's
        self.clock_ms = 1_800_000_000_000
        self.written: dict[Stream, list[Delivery]] = {stream: [] for stream in streams.STREAMS}
        self.written_in_order: list[
            list[Delivery]
        ] = []  # what the gateway and the operator wrote, step by step
        self.book = MemoryBook(CONTRACTS)
        bus = MemoryBus(self.book)
        features = FeaturesHandlers(SYMBOLS, bus, slices_min=self.engine.slices_min)
        inference = InferenceHandlers(self.engine.bundle)
        self.features = Station("features", Service((on(m.BarClosed, features.on_bar),), features), bus)
        self.inference = Station(
            "inference",
            Service((on(m.FeaturesComputed, inference.on_features),), inference),
            MemoryBus(self.book),
        )
        self.executor = executor_of(self.recording(), self.engine.policies[0].policy, self.book)
        self.unread: dict[Stream, list[Delivery]] = {
            stream: [] for stream in (streams.COMMANDS, streams.EXECUTIONS, streams.SIGNALS)
        }
        self.number = 0
        self.next_of: dict[str, list[m.ExecutionKind]] = {}
        self.orders: dict[str, m.OrderRequested] = {}
        self.positions: dict[int, m.PositionReported] = {}

    def recording(self, marks: Mapping[str, Mapping[str, str]] | None = None) -> Recording:
        return Recording(BOOK, self.written, CONTRACTS, marks or {}, self.saved)

    async def run(self) -> Recording:
        for row in range(len(self.market.times)):
            if row in self.restarts:
                self._restart_executor(self.restarts[row])
            if row == self.save_at:
                self.saved = self._state()
            await self._slice(row)
            while self.random.random() < 0.7:
                await self._something_happens()
                if self.random.random() < 0.5:
                    await self._executor_reads()
        await self._executor_reads()
        return self.recording(self._state().marks)

    def _state(self) -> Saved:
        stations = (self.features, self.inference, self.executor)
        return Saved(
            states={station.name: station.service.state.snapshot() for station in stations},
            marks={station.name: station.bus.last_ids() for station in stations},
        )

    def _restart_executor(self, policy: Policy) -> None:
        self.in_force.append(InForce(self.executor.bus.last_ids(), policy))
        successor = executor_of(self.recording(), policy, self.book)
        successor.become(self.executor)
        self.executor = successor

    # --- what is written ------------------------------------------------------------------------

    def _id(self) -> str:
        self.clock_ms += self.random.randrange(3)
        last = max(
            (streams.id_parts(e.entry_id) for s in self.unread for e in self.written[s]), default=(0, 0)
        )
        return f"{self.clock_ms}-{last[1] + 1 if last[0] == self.clock_ms else 0}"

    def _write(self, message: m.Message, entry_id: str) -> Delivery:
        entry = Delivery(streams.stream_of(message), entry_id, streams.encode(message))
        self.written[entry.stream].append(entry)
        return entry

    async def _slice(self, row: int) -> None:
        close_ms = int(self.market.times[row]) + STEP_MS
        positions = tuple(self.positions.values())
        account = an_account(
            execution_number=self.number,
            positions=positions,
            quotes=self._quotes(row),
            free_margin=Decimal(9_000),
        )
        account_id = f"{close_ms}-0"
        written = [self._write(account, account_id)]
        self.book.put(written)
        for bar in bars_of_slice(self.market, row, account_id=account_id):
            entry = self._write(bar, market_id(bar.close_time, bar.index))
            written.append(entry)
            for features in await self.features.take(entry):
                self.written[features.stream].append(features)
                for signal in await self.inference.take(features):
                    self.written[signal.stream].append(signal)
                    self.unread[streams.SIGNALS].append(signal)
        self.written_in_order.append(written)

    def _quotes(self, row: int) -> dict[str, m.QuoteReported]:
        found = {}
        for k, symbol in enumerate(SYMBOLS):
            bid = Decimal(repr(float(self.market.bars[row, k, 3]))).quantize(CONTRACTS[symbol].tick)
            ask = bid + CONTRACTS[symbol].tick
            found[symbol] = m.QuoteReported(bid=bid, ask=ask, age_s=0.1, conversion=Decimal(1))
        return found

    async def _something_happens(self) -> None:
        """An operator commands, or an order comes a step further."""
        if self.random.random() < 0.08:
            self._command()
        elif self.next_of:
            self._execution(self.random.choice(sorted(self.next_of)))

    def _command(self) -> None:
        entry_id = self._id()
        given = m.CommandGiven(
            meta=m.Meta.root(f"command:{entry_id}", from_milliseconds(self.clock_ms)),
            command=self.random.choice(COMMANDS),
            who="test",
            why="chance",
        )
        self._happened(self._write(given, entry_id))

    def _execution(self, key: str) -> None:
        kind = self.next_of[key].pop(0)
        if not self.next_of[key]:
            del self.next_of[key]
        self.number += 1
        order = self.orders[key]
        position_id = int.from_bytes(key.encode()[-10:], "big") % 1_000_000
        if kind is m.ExecutionKind.FILLED:
            self.positions[position_id] = a_position(
                order.symbol, position_id=position_id, client_order_id=key, direction=order.direction
            )
        if kind is m.ExecutionKind.CLOSED:
            del self.positions[position_id]
        at = from_milliseconds(self.clock_ms)
        execution = m.ExecutionReported(
            meta=m.Meta.root(f"execution:{self.number}", at), number=self.number, kind=kind,
            client_order_id=key, symbol=order.symbol, direction=order.direction,
            position_id=None if kind is m.ExecutionKind.SENT else position_id,
        )  # fmt: skip
        self._happened(self._write(execution, self._id()))

    def _happened(self, entry: Delivery) -> None:
        self.unread[entry.stream].append(entry)
        self.written_in_order.append([entry])

    # --- what is read ---------------------------------------------------------------------------

    async def _executor_reads(self) -> None:
        batches = {stream: list(entries) for stream, entries in self.unread.items()}
        for stream, batch in batches.items():
            self.unread[stream].clear()
            for entry in batch:
                for written in await self.executor.take(entry):
                    self._wrote(written)

    def _wrote(self, written: Delivery) -> None:
        self.written[written.stream].append(Delivery(written.stream, self._id(), written.fields))
        kinds, message = m.ExecutionKind, streams.decode(written.fields)
        match message:
            case m.OrderRequested():
                self.orders[message.client_order_id] = message
                ends = [kinds.SENT, kinds.REJECTED]
                fills = [kinds.SENT, kinds.FILLED, kinds.PROTECTED]
                fills += [kinds.CLOSED] if self.random.random() < 0.7 else []
                self.next_of[message.client_order_id] = fills if self.random.random() < 0.8 else ends
            case m.CloseRequested() if message.position_id in self.positions:
                self.next_of.setdefault(message.client_order_id, [m.ExecutionKind.CLOSED])


def altered(recording: Recording, place: int, **fields: str) -> Recording:
    """Return the recording with other fields in one bar."""
    bars = list(recording.entries[streams.BARS])
    bar = bars[place]
    bars[place] = Delivery(bar.stream, bar.entry_id, {**bar.fields, **fields})
    return Recording(
        recording.book, {**recording.entries, streams.BARS: bars}, recording.contracts, recording.marks
    )


def types_of(entries: Sequence[Delivery]) -> set[str]:
    return {entry.fields["type"] for entry in entries}
