"""What the venue says to our orders, and what it does not say: an order without an answer is unknown."""

from __future__ import annotations

from functools import partial
from typing import Any

from services.gateway.context import Context
from services.gateway.executions import Executions
from services.gateway.journal import OrderRecord
from services.gateway.link import Received, error_of
from services.gateway.orders import Status
from services.gateway.protection import Protection
from services.gateway.refusals import SessionEndedError, TokenRefusedError, leaves_an_order_open
from services.gateway.session import Session
from services.gateway.translate import VenueEvent
from shared.log import get_logger
from shared.messages import ExecutionKind, OrderRequested, Severity

log = get_logger("gateway.answers")

TAKEN_BACK = "REJECTED_AFTER_ACCEPTED"
ANSWER_LOOKS = 10  # at an accepted order that is not filled


class Answers:
    """Takes executions and refusals, in the venue's order, and misses those that do not come."""

    def __init__(
        self, context: Context, executions: Executions, protection: Protection, answer_s: float
    ) -> None:
        """Take what it works with; `answer_s` is how long an answer may take, in the venue's seconds."""
        self._executions = executions
        self._protection = protection
        self._answer_s = answer_s
        self._journal = context.journal
        self._account = context.account
        self._line = context.line
        self._timing = context.timing
        self._background = context.background
        self._alarms = context.alarms

    # --- what it says ---------------------------------------------------------------------------

    async def on_execution(self, message: Any) -> None:  # noqa: ANN401 - generated class
        """Take one execution event: first the account, then the order it belongs to."""
        event = self._line.session.event(message) if self._line.session else None
        if event is None or not self._account.is_open:
            return
        is_new = event.position is not None and self._account.position(event.position.position_id) is None
        self._account.follow(event)
        if event.client_order_id is None:
            if is_new:
                self._line.ask_books()  # somebody else's: they will be told
            return
        record = self._journal.order(event.client_order_id)
        if record is None:
            self._alarms.tell_soon(
                f"{event.client_order_id}: our label, but not in the journal", Severity.CRITICAL
            )
        elif event.position_id is not None and record.position_id not in (None, event.position_id):
            log.warning("order.other_position", order=event.client_order_id, position=event.position_id)
        elif event.kind is ExecutionKind.CLOSED and self._was_closed_in_parts(event):
            log.info("order.closed_in_parts", order=event.client_order_id)  # all its deals make its result
        else:
            await self._follow_order(record, event)
            return
        self._line.ask_books()

    def _was_closed_in_parts(self, event: VenueEvent) -> bool:
        events = self._journal.events_of(event.client_order_id or "")
        filled = next((e.volume_units for e in events if e.kind is ExecutionKind.FILLED), None)
        return filled is not None and event.volume_units is not None and event.volume_units < filled

    async def _follow_order(self, record: OrderRecord, event: VenueEvent) -> None:
        position = event.position
        if event.kind is None:
            if record.status is Status.PROTECTED and position and not position.stop_loss_price:
                self._protection.start(record)  # somebody has taken the stop away
            return
        # taken back by the venue itself: until its books say which word holds, the symbol stays locked
        is_taken_back = event.kind is ExecutionKind.REJECTED and record.status is Status.ACCEPTED
        await self._executions.record(
            record.request,
            ExecutionKind.UNKNOWN if is_taken_back else event.kind,
            order_id=event.order_id,
            position_id=event.position_id,
            price=position.entry_price if position else event.price,
            volume_units=position.volume_units if position else event.volume_units,
            stop_loss_price=position.stop_loss_price if position else None,
            take_profit_price=position.take_profit_price if position else None,
            pnl=event.pnl,
            balance=event.balance,
            reason=f"{TAKEN_BACK}: {event.reason}" if is_taken_back else event.reason,
            at_ms=event.time_ms,
        )
        if is_taken_back:
            self._line.sent_here.discard(record.request.client_order_id)
            self._line.ask_books()

    async def on_refusal(self, received: Received) -> None:
        """Take an error that answers an order, an amendment or a closing."""
        error = error_of(received.message)
        purpose, client_order_id, *_ = (*received.request_id.split(":"), "")
        record = self._journal.order(client_order_id) if client_order_id else None
        if error is None or record is None:
            log.warning("venue.error", request=received.request_id, error=str(error))
        elif purpose == "amend":
            self._protection.refused(client_order_id, error)
        elif purpose != "order":
            log.warning("venue.refused", request=received.request_id, error=str(error))
            self._line.ask_books()
        elif leaves_an_order_open(error):
            await self._executions.record(record.request, ExecutionKind.UNKNOWN, reason=error.code)
            self._line.sent_here.discard(client_order_id)
            self._line.ask_books()
        else:
            await self._executions.record(record.request, ExecutionKind.REJECTED, reason=str(error))
        if isinstance(error, SessionEndedError | TokenRefusedError) and self._line.session is not None:
            self._line.session.end(str(error))  # the next one is authorised again

    # --- what it does not say -------------------------------------------------------------------

    def expect(self, request: OrderRequested, session: Session) -> None:
        """See, beside all else, that an order that has left is answered."""
        self._background.spawn(partial(self._wait_for_answer, request, session))

    async def _wait_for_answer(self, request: OrderRequested, session: Session) -> None:
        """Without an answer an order is unknown; one that is only accepted is not filled."""
        for _ in range(ANSWER_LOOKS):
            await self._timing.sleep_venue(self._answer_s)
            record = self._journal.order(request.client_order_id)
            if record is None or session.link.ended.is_set():
                return
            if record.status is Status.SENT:
                await self._executions.record(request, ExecutionKind.UNKNOWN, reason="NO_ANSWER")
                session.link.abort(f"no answer to {request.client_order_id}")
                return
            if record.status is not Status.ACCEPTED:
                return
            self._line.sent_here.discard(request.client_order_id)  # it should be filled: the books know more
            self._line.ask_books()
