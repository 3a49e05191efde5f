"""The venue's books against the journal: whatever nobody told us of is found here, and nowhere guessed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace

from services.gateway import orders
from services.gateway.answers import Answers
from services.gateway.closing import Closing
from services.gateway.context import Context
from services.gateway.executions import Executions
from services.gateway.journal import OrderRecord
from services.gateway.link import ANSWER_TIMEOUT_S
from services.gateway.orders import NEVER_THERE, Status
from services.gateway.protection import Protection
from services.gateway.refusals import VenueError
from services.gateway.session import Session
from services.gateway.translate import CloseFound, OrderFound
from shared import streams
from shared.account import Position
from shared.errors import UnavailableError
from shared.log import get_logger
from shared.messages import ExecutionKind, Severity

log = get_logger("gateway.reconcile")

POSITIONS_ANSWER_S = 0.5  # a bare position may wait behind the question; doubles with every failure
AGAIN = 1 / 8  # of that time, before the next try
SNAPSHOT_TRIES = 3  # at the open positions, while events come in between
BARE_OVERDUE_MS = 500  # so old a position should have its stop, of venue time
BARE_UNKNOWN_S = 2.0  # then a position with our label, without a stop and without an order is closed
DOUBT_MS = 3_600_000  # so long an order that the venue rejected is looked up once in its books, of venue time
LOOK_BACK_MS = 60_000  # the venue's clock and ours may differ a little when its books are asked


class Reconcile:
    """Asks the venue what there is, and brings every order of ours in line with it."""

    def __init__(
        self,
        context: Context,
        executions: Executions,
        answers: Answers,
        protection: Protection,
        closing: Closing,
        absent_after_s: float,
    ) -> None:
        """Take what it works with; `absent_after_s` is how far apart two looks in vain must be."""
        self._executions = executions
        self._answers = answers
        self._protection = protection
        self._closing = closing
        self._absent_after_s = absent_after_s
        self._journal = context.journal
        self._account = context.account
        self._line = context.line
        self._timing = context.timing
        self._background = context.background
        self._alarms = context.alarms
        self._lock = asyncio.Lock()
        self._absent_since_s: dict[str, float] = {}
        self._over: set[str] = set()  # rejected orders of which the books know nothing else
        self._told: set[int] = set()  # open positions that are not the journal's, and were told

    async def run(self, every_s: float) -> None:
        """Compare with the venue's books now and then, and whenever something does not fit."""
        answer_s = POSITIONS_ANSWER_S
        while True:
            pause_s = self._absent_after_s / 4 if self._absent_since_s else every_s
            if answer_s > POSITIONS_ANSWER_S:
                pause_s = AGAIN * answer_s
            await self._timing.within(pause_s, self._line.books_asked)
            self._line.books_asked.clear()
            if self._line.session is None:
                answer_s = POSITIONS_ANSWER_S  # the next one begins with a comparison
                continue
            try:
                await self.now(answer_s)
                answer_s = POSITIONS_ANSWER_S
            except (UnavailableError, VenueError) as error:
                answer_s = min(2 * answer_s, ANSWER_TIMEOUT_S)
                log.warning("reconcile.failed", error=str(error))

    async def now(self, answer_s: float = ANSWER_TIMEOUT_S) -> None:
        """Ask the venue what there is, and bring every order of ours in line with it.

        Raises:
            UnavailableError, VenueError: not now; `answer_s` is how long the answer about positions may take.
        """
        async with self._lock:
            session = self._line.session
            if session is None or not self._account.is_open:
                return
            account = self._account.model
            open_now = await self._open_now(session, answer_s)
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
                if r.request.client_order_id not in {*ours, *self._line.sent_here}
            ]
            unresolved += self._doubtful(ours)
            self._told &= account.positions.keys()
            self._tell_foreign(open_now)
            self._close_doubles(open_now, ours)
            for position in ours.values():
                await self._adopt(position)
            if gone or unresolved:
                await self._look_up(session, gone, unresolved)
            self._account.take_trader(await session.read_trader())

    def _doubtful(self, ours: Mapping[str, Position]) -> list[OrderRecord]:
        """Return orders that were rejected of late, each until the books have confirmed it.

        A venue may contradict itself: what it fills all the same is a fact, and may be over unheard.
        """
        since_ms = self._timing.now_ms() - DOUBT_MS
        late = {r.request.client_order_id: r for r in self._journal.orders_sent_since(since_ms, *NEVER_THERE)}
        self._over &= late.keys()
        return [record for label, record in late.items() if label not in self._over and label not in ours]

    async def _open_now(self, session: Session, answer_s: float) -> list[Position]:
        """Return the open positions; asked again if an event came in between, which may be the newer."""
        for _ in range(SNAPSHOT_TRIES):
            taken = self._account.events_followed
            asked_s = self._timing.monotonic_s()
            open_now = await session.positions(answer_s)
            self._timing.note_round_trip(self._timing.monotonic_s() - asked_s)
            if taken == self._account.events_followed:
                break
        return open_now

    async def _look_up(
        self, session: Session, gone: list[OrderRecord], unresolved: list[OrderRecord]
    ) -> None:
        """Find in the venue's lists how positions ended, and what became of orders."""
        now_ms = self._timing.now_ms()
        since_ms = max(0, min(r.sent_ms or now_ms for r in (*gone, *unresolved)) - LOOK_BACK_MS)
        closes = _by_position(await session.closes_since(since_ms, now_ms + LOOK_BACK_MS))
        listed = await session.orders_since(since_ms, now_ms + LOOK_BACK_MS)
        reasons = {order.order_id: order.close_reason for order in listed}
        for record in gone:
            close = closes.get(record.position_id or 0)
            if close is None:
                label = record.request.client_order_id
                self._alarms.tell_soon(f"{label}: its position is gone without a deal", Severity.ERROR)
            else:
                await self._record_close(record, close, reasons)
        found = {order.client_order_id: order for order in listed}
        for record in unresolved:
            order = found.get(record.request.client_order_id)
            if record.status in NEVER_THERE and (order is None or not order.is_filled):
                if order is None or not order.is_open:
                    self._over.add(record.request.client_order_id)
                continue
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
                self._alarms.tell_soon(
                    f"{label} has two positions, closing {position.position_id}", Severity.CRITICAL
                )
                self._closing.start(label, position.position_id)

    async def _adopt(self, position: Position) -> None:
        """Bring the order of an open position of ours in line with it."""
        label = position.client_order_id or ""
        record = self._journal.order(label)
        if record is None:
            self._adopt_unknown(label, position)
            return
        if record.status in (*orders.UNRESOLVED, *NEVER_THERE):
            self._absent_since_s.pop(label, None)
            await self._executions.record(
                record.request,
                ExecutionKind.FILLED,
                position_id=position.position_id,
                price=position.entry_price,
                volume_units=position.volume_units,
                at_ms=streams.milliseconds(position.entry_time),
                reason="FOUND_AT_VENUE",
            )
        elif record.status is Status.CLOSING:
            self._closing.start(label, position.position_id)
        elif record.status in orders.ENDED:
            self._alarms.tell_soon(
                f"{label} has ended, closing its position {position.position_id}", Severity.CRITICAL
            )
            self._closing.start(label, position.position_id)
        is_overdue = record.status in orders.UNRESOLVED and label not in self._line.sent_here
        await self._adopt_stop(self._journal.order(label) or record, position, is_overdue=is_overdue)

    def _adopt_unknown(self, label: str, position: Position) -> None:
        """A position with our label, but no order of the journal's: leave it its stop, or close it."""
        is_told = position.position_id in self._told
        self._tell_once(position, f"{label}: an open position of ours that the journal does not know")
        if position.stop_loss_price is None and is_told:
            self._closing.start(label, position.position_id)  # its levels are known to nobody
        elif position.stop_loss_price is None:
            self._background.spawn(self._look_again)

    async def _look_again(self) -> None:
        await self._timing.sleep(BARE_UNKNOWN_S)
        self._line.ask_books()

    def _tell_foreign(self, open_now: Sequence[Position]) -> None:
        for position in open_now:
            if position.client_order_id is None:
                self._tell_once(
                    position, f"foreign position {position.position_id}: {position.symbol} is locked by it"
                )

    def _tell_once(self, position: Position, text: str) -> None:
        if position.position_id not in self._told:
            self._told.add(position.position_id)
            severity = Severity.WARNING if position.client_order_id is None else Severity.CRITICAL
            self._alarms.tell_soon(text, severity)

    async def _adopt_stop(self, record: OrderRecord, position: Position, *, is_overdue: bool) -> None:
        """See to its stop; of an order that should have been told long ago the stop is overdue too."""
        if record.status not in (Status.FILLED, Status.PROTECTED):
            return
        if position.stop_loss_price is None:
            bare_ms = self._timing.now_ms() - streams.milliseconds(position.entry_time)
            self._protection.start(record, at_once=is_overdue or bare_ms >= BARE_OVERDUE_MS)
        elif record.status is Status.FILLED:
            await self._executions.record(
                record.request,
                ExecutionKind.PROTECTED,
                position_id=position.position_id,
                price=position.entry_price,
                volume_units=position.volume_units,
                stop_loss_price=position.stop_loss_price,
                take_profit_price=position.take_profit_price,
            )

    async def _record_close(self, record: OrderRecord, close: CloseFound, reasons: Mapping[int, str]) -> None:
        await self._executions.record(
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
                await self._executions.record(
                    request, ExecutionKind.ACCEPTED, order_id=found.order_id, reason="FOUND_AT_VENUE"
                )
                self._answers.expect(request, session)
            return
        if not found.is_filled:
            await self._executions.record(
                request, ExecutionKind.REJECTED, order_id=found.order_id, reason="FOUND_AT_VENUE"
            )
            return
        await self._executions.record(
            request,
            ExecutionKind.FILLED,
            order_id=found.order_id,
            position_id=found.position_id,
            price=found.price,
            volume_units=found.volume_units,
            at_ms=found.time_ms,
            reason="FOUND_AT_VENUE",
        )
        self._line.ask_books()  # filled after the positions were listed: they will show it

    async def _resolve_absent(self, record: OrderRecord) -> None:
        label = record.request.client_order_id
        if record.status in (Status.SENDING, Status.SENT):
            await self._executions.record(record.request, ExecutionKind.UNKNOWN, reason="NO_ANSWER_SEEN")
        if label not in self._absent_since_s:
            self._line.ask_books()  # from now on it is looked for more often
        since_s = self._absent_since_s.setdefault(label, self._timing.monotonic_s())
        if self._timing.monotonic_s() - since_s >= self._absent_after_s and record.status is Status.UNKNOWN:
            del self._absent_since_s[label]
            await self._executions.record(record.request, ExecutionKind.NOT_SENT, reason="ABSENT_TWICE")


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
