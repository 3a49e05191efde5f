"""The order desk: every order's path from request to end, and the account as it stands.

An order is journalled before its first byte leaves and is never sent twice. What comes back is journalled
as a numbered event, then published; the journal is the outbox. Whatever has no answer is UNKNOWN until the
venue's own books say what became of it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol

from services.gateway import orders
from services.gateway.journal import Journal, OrderRecord, execution_key
from services.gateway.link import Received, VenueError, error_of
from services.gateway.orders import Status
from services.gateway.session import Session
from services.gateway.translate import CloseFound, OrderFound, VenueEvent
from services.gateway.venue_time import VenueTime
from shared import streams
from shared.account import AccountModel, Position
from shared.bus import BusUnavailableError, CounterError, Output
from shared.clock import monotonic_s, utc_now
from shared.errors import InputError, UnavailableError
from shared.log import get_logger
from shared.messages import (
    AccountReported,
    Command,
    EventReported,
    ExecutionKind,
    ExecutionReported,
    Message,
    Meta,
    OrderRequested,
    Severity,
)

log = get_logger("gateway.desk")

PUBLISH_RETRY_S = 0.1
AMEND_ANSWER_S = 0.3
AMEND_RETRY_S = 0.1
AMEND_TRIES = 4
CLOSE_ANSWER_S = 1.0  # doubles with every try
CLOSE_TRIES = 5
SNAPSHOT_TRIES = 3  # at the open positions, while events come in between
ANSWER_LOOKS = 10  # at an accepted order that is not filled
LOOK_BACK_MS = 60_000  # the venue's clock and ours may differ a little when its books are asked


class Publisher(Protocol):
    """What the desk needs of the bus."""

    @property
    def book(self) -> str:
        """The book's name."""

    def holds_lease(self) -> bool:
        """Whether this instance may act."""

    async def publish(
        self, outputs: Sequence[Output], *, counter: tuple[str, int] | None = None
    ) -> list[str]:
        """Write messages, all or none."""

    async def append(self, message: Message) -> str:
        """Write one message at any time."""

    async def counter(self, name: str) -> int:
        """Return the number of the last message published under a counter."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long the desk waits, in seconds of venue time."""

    protection_s: float
    order_answer_s: float
    absent_after_s: float


@dataclass(frozen=True, slots=True)
class _Pending:
    """What is written to the streams together: an execution with its account, or slices with theirs."""

    outputs: list[Output]
    number: int | None = None  # of the execution
    closed_s: float | None = None  # of a live slice: when its closing quote came


class Desk:
    """One book's orders and account."""

    def __init__(
        self, journal: Journal, bus: Publisher, time: VenueTime, patience: Patience, halt_file: Path
    ) -> None:
        self._journal = journal
        self._bus = bus
        self._time = time
        self._patience = patience
        self._halt_file = halt_file
        self._lock = asyncio.Lock()  # one event at a time is numbered and journalled
        self._number = journal.last_number()
        self._published = 0  # number of the last execution that the streams have
        self._outbox: deque[_Pending] = deque()
        self._something = asyncio.Event()  # to publish, or a failure to end with
        self._failure: BaseException | None = None
        self._account_id = (0, 0)
        self._session: Session | None = None
        self._online = asyncio.Event()
        self._this_link: set[str] = set()  # orders sent on the connection that is open now
        self._absent_since_s: dict[str, float] = {}
        self._protecting: dict[str, asyncio.Event] = {}  # set when the stop stands, or nothing needs one
        self._closing: set[int] = set()  # positions
        self._errors: dict[str, asyncio.Queue[VenueError]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._reconcile_asked = asyncio.Event()
        self._reconciling = asyncio.Lock()
        self._events_taken = 0
        self.account: AccountModel | None = None
        self.slice_times: dict[
            str, tuple[float, float]
        ] = {}  # account id -> closing quote came, bars written

    # --- start, connection, stop ----------------------------------------------------------------

    async def start(self, last_account_id: str | None) -> None:
        """Take up what was journalled and not published.

        Raises:
            InputError: the streams know executions that the journal does not: it is not this book's.
        """
        self._published = await self._bus.counter(execution_key())
        if self._published > self._number:
            raise InputError(
                f"GATEWAY_JOURNAL ends with execution {self._number}, the book {self._bus.book} has"
                f" {self._published}: it is not this book's journal, or an old copy"
            )
        self._publish_again(self._published, self._number)
        self._account_id = streams.id_parts(last_account_id) if last_account_id else (0, 0)

    async def open_account(self, session: Session) -> None:
        """Make the account of the first session, or give it the terms of a later one."""
        balance = session.trader.balance
        if self.account is None:
            initial = Decimal(self._journal.fact("initial_equity") or balance)
            await self._journal.remember(initial_equity=str(initial))
            self.account = AccountModel(
                currency=session.trader.currency,
                leverage=session.trader.leverage,
                balance=balance,
                initial_equity=initial,
                peak_equity=Decimal(self._journal.fact("peak_equity") or initial),
                contracts=session.contracts,
            )
            self._replay_history(self.account)
        self.account.contracts, self.account.balance = session.contracts, balance

    async def go_online(self, session: Session) -> None:
        """Take over a fresh session, its quotes known; first comes what its books say of our orders."""
        self._session = session
        self._this_link.clear()
        await self.reconcile()
        self._online.set()

    def go_offline(self) -> None:
        """The connection has ended: what was sent on it and not answered is unknown from now on."""
        self._online.clear()
        self._session = None

    async def stop(self) -> None:
        """Cancel what is waiting; the journal knows it all."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _replay_history(self, account: AccountModel) -> None:
        """Rebuild what the risk model sees of past trades from the journal."""
        for event in self._journal.events():
            record = self._journal.order(event.client_order_id)
            if record is not None:
                self._remember_trade(account, event, record.request)

    # --- requests -------------------------------------------------------------------------------

    async def place_once(self, request: OrderRequested, control: Command | None) -> None:
        """Send an order, unless the journal knows it. After a crash this runs again and sends nothing."""
        if self._journal.order(request.client_order_id) is not None:
            return
        taken_s = monotonic_s()
        refusal = await self._refusal(request, control)
        if refusal is not None:
            kind, reason = refusal
            await self.record(request, kind, reason=reason)
            return
        session = self._session
        account = self.account
        if session is None or session.link.ended.is_set() or account is None:
            raise UnavailableError("the session ended while the order was checked")
        contract = session.contracts[request.symbol]
        stop = orders.relative_points(request.stop_distance, contract)
        target = orders.relative_points(request.target_distance, contract)
        self._this_link.add(request.client_order_id)
        await self._journal.begin(request, self.now_ms())
        if not self._bus.holds_lease() or session.link.ended.is_set():
            self._this_link.discard(request.client_order_id)
            self._reconcile_asked.set()  # journalled, not sent: the venue's books will say so
            return
        sent_s = monotonic_s()
        session.send_market_order(
            request.client_order_id,
            request.symbol,
            request.direction,
            request.volume_units,
            stop_points=stop,
            target_points=target,
        )
        await self.record(request, ExecutionKind.SENT, latency_ms=self._latency(request, taken_s, sent_s))
        self._spawn(self._await_answer(request, session))

    async def _refusal(
        self, request: OrderRequested, control: Command | None
    ) -> tuple[ExecutionKind, str] | None:
        await self._wait_online(request)
        if orders.is_expired(request.valid_until, streams.from_milliseconds(self.now_ms())):
            return ExecutionKind.EXPIRED, "VALID_UNTIL_PASSED"
        if self._session is None:
            return ExecutionKind.EXPIRED, "NO_CONNECTION"
        if control is not None:
            return ExecutionKind.REFUSED, f"CONTROL_{control.name}"
        if self._halt_file.exists():
            return ExecutionKind.REFUSED, "HALT_FILE"
        if request.symbol not in self._session.contracts:
            return ExecutionKind.REFUSED, "UNKNOWN_SYMBOL"
        if self.account and any(p.symbol == request.symbol for p in self.account.positions.values()):
            return ExecutionKind.REFUSED, "ASSET_LOCKED"
        if any(r.request.symbol == request.symbol for r in self._journal.orders(*orders.UNRESOLVED)):
            return ExecutionKind.REFUSED, "ASSET_LOCKED"
        return None

    async def _wait_online(self, request: OrderRequested) -> None:
        """Wait for a session as long as the request is worth it."""
        left_ms = streams.milliseconds(request.valid_until) - self.now_ms()
        try:
            async with asyncio.timeout(max(0.0, self._time.real_s(left_ms / 1000))):
                await self._online.wait()
        except TimeoutError:
            log.warning("order.no_connection", order=request.client_order_id)

    async def _await_answer(self, request: OrderRequested, session: Session) -> None:
        """See that an order is answered: without an answer it is unknown; accepted alone is not filled."""
        for _ in range(ANSWER_LOOKS):
            await asyncio.sleep(self._time.real_s(self._patience.order_answer_s))
            record = self._journal.order(request.client_order_id)
            if record is None or session.link.ended.is_set():
                return
            if record.status is Status.SENT:
                await self.record(request, ExecutionKind.UNKNOWN, reason="NO_ANSWER")
                session.link.abort(f"no answer to {request.client_order_id}")
                return
            if record.status is not Status.ACCEPTED:
                return
            self._this_link.discard(request.client_order_id)  # it should be filled: the books know more
            self._reconcile_asked.set()

    def _latency(self, request: OrderRequested, taken_s: float, sent_s: float) -> dict[str, float] | None:
        """Return how long the parts of the way from the closing quote to the order's bytes took, in ms."""
        times = self.slice_times.get(request.account_id)
        if times is None:  # a slice of before a restart
            return None
        closed_s, written_s = times
        parts = {"slice": written_s - closed_s, "decision": taken_s - written_s, "send": sent_s - taken_s}
        return {name: round(1000 * part, 3) for name, part in {**parts, "total": sent_s - closed_s}.items()}

    async def close_position(self, client_order_id: str, reason: str) -> None:
        """Close one of our positions at the market; asked again, it is sent again only if still open."""
        record = self._journal.order(client_order_id)
        if record is None or record.status not in orders.HOLDS_POSITION:
            return
        if record.status is not Status.CLOSING:
            await self.record(
                record.request, ExecutionKind.CLOSING, position_id=record.position_id, reason=reason
            )
        position = self._position_of(client_order_id)
        if position is not None:
            self._start_closing(client_order_id, position.position_id)
        else:
            self._reconcile_asked.set()

    def _start_closing(self, label: str, position_id: int) -> None:
        """One task a position: who asks again while it runs changes nothing."""
        if position_id not in self._closing:
            self._closing.add(position_id)
            self._spawn(self._close_until_gone(label, position_id))

    async def _close_until_gone(self, label: str, position_id: int) -> None:
        """Closing opens nothing, so it may be sent again: until the position is gone, a bounded time.

        A position that is open all the same (the market may be closed) is taken up by the next reconcile.
        """
        try:
            for sent in range(CLOSE_TRIES):
                await self._online.wait()
                position = self.account.positions.get(position_id) if self.account else None
                if position is None or self._session is None:
                    return
                self._session.send_close(label, position_id, position.volume_units)
                await asyncio.sleep(CLOSE_ANSWER_S * 2**sent)
            if self.account and position_id in self.account.positions:
                self.alarm_soon(f"{label}: position {position_id} cannot be closed", Severity.CRITICAL)
        finally:
            self._closing.discard(position_id)

    # --- what the venue says --------------------------------------------------------------------

    async def on_execution(self, message: Any) -> None:  # noqa: ANN401 - generated class
        """Take one execution event: first the account, then the order it belongs to."""
        event = self._session.event(message) if self._session else None
        if event is None or self.account is None:
            return
        self._events_taken += 1
        self._follow_position(event)
        if event.client_order_id is None:
            return
        record = self._journal.order(event.client_order_id)
        if record is None:
            self.alarm_soon(f"{event.client_order_id}: our label, but not in the journal", Severity.CRITICAL)
        elif event.position_id is not None and record.position_id not in (None, event.position_id):
            log.warning("order.other_position", order=event.client_order_id, position=event.position_id)
        elif event.kind is ExecutionKind.CLOSED and self._was_closed_in_parts(event):
            log.info("order.closed_in_parts", order=event.client_order_id)  # all its deals make its result
        else:
            await self._follow_order(record, event)
            return
        self._reconcile_asked.set()

    async def _follow_order(self, record: OrderRecord, event: VenueEvent) -> None:
        if event.kind is not None:
            await self._apply(record, event)
        elif record.status is Status.PROTECTED and event.position and not event.position.stop_loss_price:
            self._start_protecting(record)  # somebody has taken the stop away

    def _was_closed_in_parts(self, event: VenueEvent) -> bool:
        events = self._journal.events_of(event.client_order_id or "")
        filled = next((e.volume_units for e in events if e.kind is ExecutionKind.FILLED), None)
        return filled is not None and event.volume_units is not None and event.volume_units < filled

    def _follow_position(self, event: VenueEvent) -> None:
        if self.account is None:
            return
        if event.position is not None:
            position = event.position
            if position.client_order_id is None and event.client_order_id is not None:
                position = replace(position, client_order_id=event.client_order_id)
            self.account.positions[position.position_id] = position
        elif event.position_gone and event.position_id is not None:
            self.account.positions.pop(event.position_id, None)
        if event.balance is not None:
            self.account.balance = event.balance

    async def _apply(self, record: OrderRecord, event: VenueEvent) -> None:
        assert event.kind is not None  # noqa: S101 - the caller has looked
        position = event.position
        await self.record(
            record.request,
            event.kind,
            order_id=event.order_id,
            position_id=event.position_id,
            price=position.entry_price if position else event.price,
            volume_units=position.volume_units if position else event.volume_units,
            stop_loss_price=position.stop_loss_price if position else None,
            take_profit_price=position.take_profit_price if position else None,
            pnl=event.pnl,
            balance=event.balance,
            reason=event.reason,
            at_ms=event.time_ms,
        )

    async def on_refusal(self, received: Received) -> None:
        """Take an error that answers an order, an amendment or a closing."""
        error = error_of(received.message)
        purpose, _, client_order_id = received.request_id.partition(":")
        record = self._journal.order(client_order_id) if client_order_id else None
        if error is None or record is None:
            log.warning("venue.error", request=received.request_id, error=str(error))
            return
        if purpose == "order":
            if error.code in ("UNKNOWN_ERROR", "TIMEOUT_ERROR"):  # it may have been executed all the same
                await self.record(record.request, ExecutionKind.UNKNOWN, reason=error.code)
                self._this_link.discard(client_order_id)
                self._reconcile_asked.set()
            else:
                await self.record(record.request, ExecutionKind.REJECTED, reason=str(error))
        elif purpose == "amend" and client_order_id in self._errors:
            self._errors[client_order_id].put_nowait(error)
        else:
            log.warning("venue.refused", request=received.request_id, error=str(error))
            self._reconcile_asked.set()

    # --- protection -----------------------------------------------------------------------------

    def _start_protecting(self, record: OrderRecord) -> None:
        """One task an order, until its stop stands or its position is being closed."""
        label = record.request.client_order_id
        if label not in self._protecting:
            self._protecting[label] = asyncio.Event()
            self._spawn(self._protect(record))

    async def _protect(self, record: OrderRecord) -> None:
        """See that the stop stands in time; else set it; else close the position."""
        request = record.request
        order = request.client_order_id
        done = self._protecting[order]
        try:
            if await _within(self._time.real_s(self._patience.protection_s), done):
                return
            position = self._position_of(order)
            if position is None or position.stop_loss_price is not None:
                self._reconcile_asked.set()  # it stands or is gone: what says so is on its way
                return
            await self.record(request, ExecutionKind.REPAIRING, reason="NO_STOP_IN_TIME")
            self.alarm_soon(f"{order}: no stop at the venue in time, setting it", Severity.ERROR)
            if await self._repair(request, done):
                return
        finally:  # interrupted, it is begun again by the next reconcile
            del self._protecting[order]
        self.alarm_soon(f"{order}: no stop can be set, closing the position", Severity.CRITICAL)
        await self.close_position(order, "UNPROTECTED")

    async def _repair(self, request: OrderRequested, done: asyncio.Event) -> bool:
        """Set both levels, a few times. False: they cannot be set."""
        order = request.client_order_id
        self._errors[order] = asyncio.Queue()
        try:
            for _ in range(AMEND_TRIES):
                position = self._position_of(order)
                if position is None or position.stop_loss_price is not None:
                    self._reconcile_asked.set()
                    return True
                if not await self._amend(request, position, done):
                    return False
                if done.is_set():
                    return True
        finally:
            del self._errors[order]
        return False

    async def _amend(self, request: OrderRequested, position: Position, done: asyncio.Event) -> bool:
        """Ask once for both levels. False: the venue refuses them and always will."""
        await self._online.wait()
        if self._session is None:
            return True
        contract = self._session.contracts[request.symbol]
        stop, target = orders.protective_levels(
            request.direction, position.entry_price, request.stop_distance, request.target_distance, contract
        )
        errors = self._errors[request.client_order_id]
        self._session.send_amend(request.client_order_id, position.position_id, stop, target)
        waits = [asyncio.create_task(done.wait()), asyncio.create_task(errors.get())]
        finished, rest = await asyncio.wait(
            waits, timeout=AMEND_ANSWER_S, return_when=asyncio.FIRST_COMPLETED
        )
        for task in rest:
            task.cancel()
        error = waits[1].result() if waits[1] in finished else None
        if isinstance(error, VenueError) and not done.is_set():
            log.warning("protection.refused", order=request.client_order_id, error=str(error))
            if error.code != "POSITION_NOT_FOUND":
                return False
            await asyncio.sleep(AMEND_RETRY_S)
        return True

    def _position_of(self, client_order_id: str) -> Position | None:
        positions = self.account.positions.values() if self.account else ()
        ours = [p for p in positions if p.client_order_id == client_order_id]
        return min(ours, key=lambda p: p.position_id, default=None)

    # --- the venue's books ----------------------------------------------------------------------

    async def keep_reconciled(self, every_s: float) -> None:
        """Compare with the venue's books now and then, and whenever something does not fit."""
        while True:
            waiting = bool(self._absent_since_s)
            await _within(self._patience.absent_after_s / 4 if waiting else every_s, self._reconcile_asked)
            self._reconcile_asked.clear()
            if self._session is None:
                continue
            try:
                await self.reconcile()
            except (UnavailableError, VenueError) as error:
                log.warning("reconcile.failed", error=str(error))

    async def reconcile(self) -> None:
        """Ask the venue what there is, and bring every order of ours in line with it."""
        async with self._reconciling:
            session, account = self._session, self.account
            if session is None or account is None:
                return
            open_now = await self._open_now(session)
            account.positions = {position.position_id: position for position in open_now}
            ours = _oldest_by_label(open_now)
            gone = [
                r
                for r in self._journal.orders(*orders.HOLDS_POSITION)
                if r.request.client_order_id not in ours
            ]
            unresolved = [
                r
                for r in self._journal.orders(*orders.UNRESOLVED)
                if r.request.client_order_id not in {*ours, *self._this_link}
            ]
            self._close_doubles(open_now, ours)
            for position in ours.values():
                await self._adopt(position)
            if gone or unresolved:
                await self._look_up(session, gone, unresolved)
            account.balance = await session.balance()

    async def _open_now(self, session: Session) -> list[Position]:
        """Return the open positions; asked again if an event came in between, which may be the newer."""
        for _ in range(SNAPSHOT_TRIES):
            taken = self._events_taken
            open_now = await session.positions()
            if taken == self._events_taken:
                break
        return open_now

    async def _look_up(
        self, session: Session, gone: list[OrderRecord], unresolved: list[OrderRecord]
    ) -> None:
        """Find in the venue's lists how positions ended, and what became of orders."""
        now_ms = self.now_ms()
        since_ms = max(0, min(r.sent_ms or now_ms for r in (*gone, *unresolved)) - LOOK_BACK_MS)
        closes = _by_position(await session.closes_since(since_ms, now_ms + LOOK_BACK_MS))
        listed = await session.orders_since(since_ms, now_ms + LOOK_BACK_MS)
        reasons = {order.order_id: order.close_reason for order in listed}
        for record in gone:
            close = closes.get(record.position_id or 0)
            if close is None:
                label = record.request.client_order_id
                self.alarm_soon(f"{label}: its position is gone without a deal", Severity.ERROR)
            else:
                await self._record_close(record, close, reasons)
        found = {order.client_order_id: order for order in listed}
        for record in unresolved:
            order = found.get(record.request.client_order_id)
            if order is None:
                await self._resolve_absent(record)
                continue
            await self._resolve(record, order, session)
            filled = self._journal.order(record.request.client_order_id)
            if filled is not None and filled.status is Status.FILLED and order.position_id in closes:
                await self._record_close(filled, closes[order.position_id], reasons)

    def _close_doubles(self, open_now: list[Position], ours: dict[str, Position]) -> None:
        """Two positions with one label: keep the older, close the younger."""
        for position in open_now:
            label = position.client_order_id
            if label is not None and position is not ours[label]:
                self.alarm_soon(
                    f"{label} has two positions, closing {position.position_id}", Severity.CRITICAL
                )
                self._start_closing(label, position.position_id)

    async def _adopt(self, position: Position) -> None:
        """Bring the order of an open position of ours in line with it."""
        label = position.client_order_id or ""
        record = self._journal.order(label)
        if record is None:
            self.alarm_soon(
                f"{label}: an open position of ours that the journal does not know", Severity.CRITICAL
            )
            return
        if record.status in (*orders.UNRESOLVED, Status.NOT_SENT):
            self._absent_since_s.pop(label, None)
            await self.record(
                record.request,
                ExecutionKind.FILLED,
                position_id=position.position_id,
                price=position.entry_price,
                volume_units=position.volume_units,
                at_ms=streams.milliseconds(position.entry_time),
                reason="FOUND_AT_VENUE",
            )
        elif record.status is Status.CLOSING:
            self._start_closing(label, position.position_id)
        elif record.status in orders.ENDED:
            self.alarm_soon(
                f"{label} has ended, closing its position {position.position_id}", Severity.CRITICAL
            )
            self._start_closing(label, position.position_id)
        await self._adopt_stop(self._journal.order(label) or record, position)

    async def _adopt_stop(self, record: OrderRecord, position: Position) -> None:
        if record.status not in (Status.FILLED, Status.PROTECTED):
            return
        if position.stop_loss_price is None:
            self._start_protecting(record)
        elif record.status is Status.FILLED:
            await self.record(
                record.request,
                ExecutionKind.PROTECTED,
                position_id=position.position_id,
                price=position.entry_price,
                volume_units=position.volume_units,
                stop_loss_price=position.stop_loss_price,
                take_profit_price=position.take_profit_price,
            )

    async def _record_close(self, record: OrderRecord, close: CloseFound, reasons: Mapping[int, str]) -> None:
        await self.record(
            record.request,
            ExecutionKind.CLOSED,
            order_id=close.order_id,
            position_id=close.position_id,
            price=close.price,
            volume_units=close.volume_units,
            pnl=close.pnl,
            balance=close.balance,
            reason=reasons.get(close.order_id) or "CLOSED_AT_VENUE",
            at_ms=close.time_ms,
        )

    async def _resolve(self, record: OrderRecord, found: OrderFound, session: Session) -> None:
        """Say what became of an order that nobody told us of. Never send it again."""
        request = record.request
        self._absent_since_s.pop(request.client_order_id, None)
        if found.is_open:
            if record.status is not Status.ACCEPTED:
                await self.record(
                    request, ExecutionKind.ACCEPTED, order_id=found.order_id, reason="FOUND_AT_VENUE"
                )
                self._spawn(self._await_answer(request, session))
            return
        if not found.is_filled:
            await self.record(
                request, ExecutionKind.REJECTED, order_id=found.order_id, reason="FOUND_AT_VENUE"
            )
            return
        await self.record(
            request,
            ExecutionKind.FILLED,
            order_id=found.order_id,
            position_id=found.position_id,
            price=found.price,
            volume_units=found.volume_units,
            at_ms=found.time_ms,
            reason="FOUND_AT_VENUE",
        )
        self._reconcile_asked.set()  # filled after the positions were listed: they will show it

    async def _resolve_absent(self, record: OrderRecord) -> None:
        label = record.request.client_order_id
        if record.status in (Status.SENDING, Status.SENT):
            await self.record(record.request, ExecutionKind.UNKNOWN, reason="NO_ANSWER_SEEN")
        if label not in self._absent_since_s:
            self._reconcile_asked.set()  # from now on it is looked for more often
        since_s = self._absent_since_s.setdefault(label, monotonic_s())
        if monotonic_s() - since_s >= self._patience.absent_after_s and record.status is Status.UNKNOWN:
            del self._absent_since_s[label]
            await self.record(record.request, ExecutionKind.NOT_SENT, reason="ABSENT_TWICE")

    # --- journal and outbox ---------------------------------------------------------------------

    async def record(
        self,
        request: OrderRequested,
        kind: ExecutionKind,
        *,
        at_ms: int | None = None,
        **details: Any,  # noqa: ANN401
    ) -> None:
        """Number and journal one event, follow the order's status, have it published.

        An event that does not fit the status is an alarm; the status stays, and the venue is asked.
        """
        label = request.client_order_id
        async with self._lock:
            record = self._journal.order(label)
            try:
                status = orders.next_status(record.status if record else None, kind)
            except orders.IllegalTransitionError as error:
                self.alarm_soon(f"{label}: {error}", Severity.WARNING)
                self._reconcile_asked.set()
                return
            if record is not None and record.status is Status.NOT_SENT:
                self.alarm_soon(f"{label} was taken for not sent, and is {kind}", Severity.CRITICAL)
            number = self._number + 1
            event = ExecutionReported(
                meta=request.meta.effect(
                    ExecutionReported, str(number), streams.from_milliseconds(at_ms or self.now_ms())
                ),
                number=number,
                kind=kind,
                client_order_id=label,
                symbol=request.symbol,
                direction=request.direction,
                **details,
            )
            await self._journal.record(event, status, request)
            self._number = number
            outputs = [Output(event)]
            if self.account is not None:
                self._remember_trade(self.account, event, request)
                outputs.append(self.account_entry(event.meta, "execution", live=True))
            self._put(_Pending(outputs, number))
        self._follow_protection(label, kind)

    def _remember_trade(
        self, account: AccountModel, event: ExecutionReported, request: OrderRequested
    ) -> None:
        if event.kind is ExecutionKind.FILLED:
            account.add_risk_action(request.symbol, request.sl_mult, request.tp_mult, request.risk_fraction)
        elif event.kind is ExecutionKind.CLOSED and event.pnl is not None:
            account.add_result(request.symbol, event.pnl, request.equity)

    def _follow_protection(self, label: str, kind: ExecutionKind) -> None:
        record = self._journal.order(label)
        if kind is ExecutionKind.FILLED and record is not None:
            self._start_protecting(record)
        elif kind in (ExecutionKind.PROTECTED, ExecutionKind.CLOSED) and label in self._protecting:
            self._protecting[label].set()

    def write_slices(self, outputs: list[Output], closed_s: float | None) -> None:
        """Have slices written, behind all that happened before them; what happens does not wait for it."""
        self._put(_Pending(outputs, closed_s=closed_s))

    def _put(self, pending: _Pending) -> None:
        self._outbox.append(pending)
        self._something.set()

    async def keep_drained(self) -> None:
        """Publish the outbox, oldest first, however long the server is away. Nobody else writes to it.

        Raises:
            Whatever a task in the background has failed with: a bug must not go unheard.
        """
        while True:
            await self._something.wait()
            self._something.clear()
            while self._outbox:
                self._raise_failure()
                await self._publish(self._outbox[0])
                _heed_cancellation()
            self._raise_failure()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    async def _publish(self, first: _Pending) -> None:
        """Write what is first in the outbox; a server that is older than the journal gets all it lost."""
        try:
            if first.number is not None:
                await self._bus.publish(first.outputs, counter=(execution_key(), first.number))
            else:
                await self._bus.publish(first.outputs)
        except CounterError as error:
            if first.number is not None and error.stored < first.number:
                self._publish_again(error.stored, first.number - 1)
                return
        except BusUnavailableError as error:
            log.warning("outbox.waiting", number=first.number, error=str(error))
            await asyncio.sleep(PUBLISH_RETRY_S)
            return
        self._outbox.popleft()
        self._published = first.number or self._published
        if first.closed_s is not None:
            self.slice_times = {first.outputs[0].entry_id: (first.closed_s, monotonic_s())}
            await self._check_published()

    async def _check_published(self) -> None:
        """See at every slice that the server still has all executions that it once had."""
        try:
            stored = await self._bus.counter(execution_key())
        except BusUnavailableError:
            return
        if stored < self._published:
            self._publish_again(stored, self._published)

    def _publish_again(self, after: int, last: int) -> None:
        """Put the executions above a number, up to another, before all else."""
        lost = [event for event in self._journal.events(after) if event.number <= last]
        if lost:
            log.warning("outbox.again", first=lost[0].number, last=last)
        self._outbox.extendleft(_Pending([Output(event)], event.number) for event in reversed(lost))
        self._something.set()

    def account_entry(self, meta: Meta, cause: Any, *, live: bool) -> Output:  # noqa: ANN401
        """Return the account as it is now, with the id it will have."""
        assert self.account is not None  # noqa: S101 - callers come after the first session
        now_ms = self.now_ms()
        last_ms, last_sequence = self._account_id
        self._account_id = (now_ms, 0) if now_ms > last_ms else (last_ms, last_sequence + 1)
        entry: AccountReported = self.account.report(
            meta.effect(AccountReported, f"{cause}:{self._number}"),
            cause=cause,
            live=live,
            now_ms=now_ms,
            execution_number=self._number,
            clock_offset_ms=streams.milliseconds(utc_now()) - now_ms if self._time.speed == 1 else 0.0,
        )
        return Output(entry, f"{self._account_id[0]}-{self._account_id[1]}")

    async def remember_peak(self) -> None:
        """Keep the highest equity over a restart."""
        if self.account is not None and str(self.account.peak_equity) != self._journal.fact("peak_equity"):
            await self._journal.remember(peak_equity=str(self.account.peak_equity))

    # --- small things ---------------------------------------------------------------------------

    def now_ms(self) -> int:
        """Return the venue's time."""
        return self._time.now_ms(monotonic_s())

    async def alarm(self, text: str, severity: Severity) -> None:
        """Say that something is wrong, in the log and on `events`."""
        log.warning("gateway.alarm", text=text, severity=severity)
        now = utc_now()
        meta = Meta.root(f"{self._bus.book}:gateway:alarm:{text}:{now.isoformat()}", now)
        event = EventReported(meta=meta, service="gateway", kind="alarm", severity=severity, text=text)
        try:
            await self._bus.append(event)
        except BusUnavailableError as error:
            log.warning("event.not_written", text=text, error=str(error))
        _heed_cancellation()

    def alarm_soon(self, text: str, severity: Severity) -> None:
        """Say it without waiting for the bus: a stop is more urgent than its alarm."""
        self._spawn(self.alarm(text, severity))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(self._guarded(work))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failure = error
            self._something.set()

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        """A connection that ends in the middle leaves the rest to the next reconcile."""
        try:
            await work
        except UnavailableError as error:
            log.warning("desk.interrupted", error=str(error))
            self._reconcile_asked.set()


def _oldest_by_label(positions: Sequence[Position]) -> dict[str, Position]:
    """Return our positions by their order; of two under one label the older."""
    youngest_first = sorted(positions, key=lambda p: p.position_id, reverse=True)
    return {p.client_order_id: p for p in youngest_first if p.client_order_id is not None}


def _by_position(closes: Sequence[CloseFound]) -> dict[int, CloseFound]:
    """Return each position's last close with the volume and the result of all its parts."""
    whole: dict[int, CloseFound] = {}
    for close in sorted(closes, key=lambda c: c.time_ms):
        before = whole.get(close.position_id)
        volume_units = close.volume_units + (before.volume_units if before else 0)
        pnl = close.pnl + (before.pnl if before else 0)
        whole[close.position_id] = replace(close, volume_units=volume_units, pnl=pnl)
    return whole


def _heed_cancellation() -> None:
    """Raise a cancellation that was swallowed: Python 3.11's `wait_for`, used below us, may do that."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


async def _within(seconds: float, event: asyncio.Event) -> bool:
    """Whether the event came in that many seconds of the machine."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True
