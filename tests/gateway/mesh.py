"""A gateway put together as its main does, on a real venue, server and journal, in one process."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import redis.asyncio as redis

from services.gateway.access import Credentials
from services.gateway.bars import SliceAssembler
from services.gateway.connection import Connection, Retry
from services.gateway.desk import Desk, Patience
from services.gateway.feed import Feed
from services.gateway.handlers import GatewayHandlers
from services.gateway.journal import Journal
from services.gateway.orders import Status
from services.gateway.session import Session
from services.gateway.timing import Timing
from services.gateway.transport import Address
from shared import streams
from shared.clock import SystemClock
from shared.errors import UnavailableError
from shared.messages import (
    AccountReported,
    BarClosed,
    EventReported,
    ExecutionKind,
    ExecutionReported,
    OrderRequested,
)
from shared.redis_bus import RedisBus
from tests.gateway.builders import a_journal, address_of, credentials_of
from tests.gateway.loop import until, until_so
from tests.venue.conftest import a_setting
from venue.faults import Fault
from venue.main import RunningVenue, serve

SYMBOLS = ("EURUSD", "XAUUSD")
QUICK = Patience(protection_s=0.15, order_answer_s=0.25, absent_after_s=0.2)
M5_MS = 300_000
_BOOKS = itertools.count()


@dataclass
class Place:
    """Where a gateway is started, killed and started again: its venue, its server, its folder, its book."""

    venue: RunningVenue
    redis_url: str
    folder: Path
    patience: Patience = QUICK
    retry: Retry = field(default_factory=lambda: Retry(0.05, 6))
    warmup: int = 5
    speed: float = 0.0
    quiet_s: float = 60.0
    book: str = field(default_factory=lambda: f"gw{next(_BOOKS)}")

    tokens: Path | None = None  # of another place, whose grant is shared

    def credentials(self) -> Credentials:
        """Return who we are at the venue, as the gateway is told at every start."""
        return credentials_of(self.venue.ready, self.tokens or self.folder / "tokens")

    # --- the venue

    @property
    def now_ms(self) -> int:
        return self.venue.exchange.now_ms

    async def step(self, ms: int = 30_000) -> None:
        """Let the venue's time run, and give what it said the time to arrive."""
        await self.venue.exchange.play(self.now_ms + ms)
        await asyncio.sleep(0.02)

    async def step_until(self, holds: Callable[[], Any], *, ms: int = 30_000, steps: int = 400) -> None:
        for _ in range(steps):
            if holds():
                return
            await self.step(ms)
        raise AssertionError("it never came to that at the venue")

    def fault(self, name: str, count: int = 1, **how: Any) -> Fault:
        return self.venue.exchange.faults.ask({"fault": name, "count": count, **how})

    def books(self) -> dict[str, Any]:
        """Return the venue's own books: the judge."""
        return self.venue.exchange.ledger.books()

    def opening_orders(self, request: OrderRequested) -> list[dict[str, Any]]:
        return [o for o in self.books()["orders"] if o["client_order_id"] == request.client_order_id]

    def positions(self, label: str) -> list[dict[str, Any]]:
        return [p for p in self.books()["positions"] if p["label"] == label]

    def open_positions(self, label: str) -> list[dict[str, Any]]:
        return [p for p in self.positions(label) if p["status"] == "OPEN"]

    # --- the streams

    async def history(self, stream: streams.Stream) -> list[tuple[str, Any]]:
        async with RedisBus.connect(self.redis_url, self.book, "reader") as bus:
            return await bus.history(stream)

    async def executions(self) -> list[ExecutionReported]:
        return [message for _, message in await self.history(streams.EXECUTIONS)]

    async def accounts(self) -> list[AccountReported]:
        return [message for _, message in await self.history(streams.ACCOUNT)]

    async def live_slices(self) -> int:
        return len({bar.open_time for bar in await self.bars() if bar.origin == "live"})

    async def has_live_slices(self, count: int) -> bool:
        return await self.live_slices() >= count

    async def bars(self) -> list[BarClosed]:
        return [message for _, message in await self.history(streams.BARS)]

    async def has_alarm(self, words: str) -> bool:
        return any(words in text for text in await self.alarms())

    async def alarms(self) -> list[str]:
        return [event.text for event in await self.told()]

    async def told(self) -> list[EventReported]:
        return [message for _, message in await self.history(streams.EVENTS)]

    async def read(self) -> redis.Redis:
        return redis.Redis.from_url(self.redis_url, decode_responses=True)

    def key(self, name: str) -> str:
        return streams.key(self.book, name)


class Gateway:
    """A running gateway."""

    def __init__(self, place: Place, bus: RedisBus, journal: Journal) -> None:
        self.place = place
        self.bus = bus
        self.journal = journal
        self.timing = Timing(place.speed, SystemClock())
        self.desk = Desk(journal, bus, self.timing, place.patience, place.folder / "HALT")
        assembler = SliceAssembler(SYMBOLS, bar_close_ms=150, deadline_ms=300)
        self.feed = Feed(
            place.book, self.desk.context, self.desk.outbox, assembler, place.warmup, place.quiet_s
        )
        self.dialled = 0
        self.connection = Connection(self._where, place.book, self.desk, self.feed, SYMBOLS, place.retry)
        self.handlers = GatewayHandlers(self.desk, self.journal)

    def _where(self) -> tuple[Address, Credentials]:
        self.dialled += 1
        told = self.place.venue.ready
        return address_of(told), self.place.credentials()

    @property
    def session(self) -> Session:
        session = self.desk.line.session
        assert session is not None
        return session

    def is_online(self) -> bool:
        return self.desk.line.session is not None and self.connection.trouble == ""

    def cut(self) -> None:
        """Cut the connection, as a network does: without a word."""
        self.connection.trouble = "cut"
        self.session.link.abort("the test cuts it")

    async def handle(self, *requests: OrderRequested) -> None:
        """Handle requests that were read together, up to their commit."""
        for request in requests:
            await self.handlers.on_order_requested(request)
        await self.handlers.settle()

    async def place_order(self, request: OrderRequested) -> None:
        """Handle a request as the runtime does: what is not available now is tried again."""
        for _ in range(50):
            try:
                await self.handle(request)
            except UnavailableError:
                await asyncio.sleep(0.05)
            else:
                return
        raise AssertionError("the request was never handled")

    def status(self, request: OrderRequested) -> Status | None:
        record = self.journal.order(request.client_order_id)
        return record.status if record else None

    def kinds(self, request: OrderRequested) -> list[ExecutionKind]:
        return [event.kind for event in self.journal.events_of(request.client_order_id)]

    async def reached(self, request: OrderRequested, *statuses: Status, within_s: float = 10.0) -> None:
        """Wait for an order's status."""
        try:
            await until(lambda: self.status(request) in statuses, within_s=within_s)
        except AssertionError:
            kinds = ", ".join(self.kinds(request))
            raise AssertionError(f"not {statuses}: {self.status(request)} after {kinds}") from None

    async def protected(self, request: OrderRequested) -> None:
        """Place an order and let the venue fill and protect it."""
        await self.place_order(request)
        await until(lambda: self.place.opening_orders(request))
        await self.place.step()
        await self.reached(request, Status.PROTECTED)

    async def published(self) -> None:
        """Wait until all that is journalled stands on the stream."""
        await until_so(self._is_published)

    async def _is_published(self) -> bool:
        return len(await self.place.executions()) >= self.journal.last_number()


@asynccontextmanager
async def a_place(folder: Path, redis_url: str, **venue: Any) -> AsyncIterator[Place]:
    """Open a venue, stepped, and name a fresh book."""
    settings = a_setting(folder / "venue", requests_per_s=100_000, history_requests_per_s=100_000, **venue)
    async with serve(settings) as running:
        yield Place(running, redis_url, folder, speed=settings.speed)


@asynccontextmanager
async def a_gateway(place: Place, *, wait: bool = True) -> AsyncIterator[Gateway]:
    """Run a gateway for the length of the block, then kill it: nothing is finished, nobody is told.

    Raises:
        What a task of the gateway ended with, if one did.
    """
    journal = a_journal(place.folder / "journal.db")
    async with RedisBus.connect(place.redis_url, place.book, "gateway") as bus:
        await bus.hold_lease(600)
        gateway = Gateway(place, bus, journal)
        account, bar = await bus.last(streams.ACCOUNT), await bus.last(streams.BARS)
        try:
            await gateway.desk.start(account[0] if account else None)
            await gateway.feed.start(bar[1] if bar else None)  # type: ignore[arg-type]
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(work)
                    for work in (
                        gateway.connection.run(),
                        gateway.desk.background.run(),
                        gateway.desk.outbox.run(),
                        gateway.desk.recovery.run(),
                        gateway.desk.reconcile.run(30.0),
                        gateway.feed.keep_time(),
                        gateway.feed.watchdog.run(),
                    )
                ]
                if wait:
                    await until(gateway.is_online)
                yield gateway
                for task in tasks:
                    task.cancel()
        finally:
            journal.close()
            with contextlib.suppress(UnavailableError):
                await bus.release_lease()


def net_pnl(books: dict[str, Any], position_id: int) -> Decimal:
    """Return a position's result as the venue's deals say."""
    deals = [d for d in books["deals"] if d["position_id"] == position_id and d["gross_cents"] is not None]
    cents = sum(d["gross_cents"] + d["swap_cents"] + d["round_trip_commission_cents"] for d in deals)
    return Decimal(cents) / 100


def numbers(events: list[ExecutionReported]) -> list[int]:
    return [event.number for event in events]
