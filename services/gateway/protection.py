"""Every position of ours has a stop at the venue: one without it is amended, else closed."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import partial

from services.gateway import orders
from services.gateway.closing import Closing
from services.gateway.context import Context
from services.gateway.executions import Executions
from services.gateway.journal import OrderRecord
from services.gateway.refusals import RefusedError, VenueError
from shared.account import Position
from shared.log import get_logger
from shared.messages import ExecutionKind, OrderRequested, Severity

log = get_logger("gateway.protection")

AMEND_ANSWER_S = 0.3
AMEND_RETRY_S = 0.1
AMEND_TRIES = 4


@dataclass
class _Watch:
    """What is known of the stop of one order's position."""

    stands: bool = False  # it stands, or nothing needs one any more
    is_repairing: bool = False
    error: VenueError | None = None  # the venue's answer to the amendment that was sent last
    news: asyncio.Event = field(default_factory=asyncio.Event)


class Protection:
    """Follows every fill until its stop stands."""

    def __init__(
        self, context: Context, executions: Executions, closing: Closing, protection_s: float
    ) -> None:
        """Take what it works with; `protection_s` is how long a stop may take, in the venue's seconds."""
        self._executions = executions
        self._closing = closing
        self._protection_s = protection_s
        self._account = context.account
        self._line = context.line
        self._timing = context.timing
        self._background = context.background
        self._alarms = context.alarms
        self._watched: dict[str, _Watch] = {}  # by order
        executions.listen(self._follow)

    def _follow(self, record: OrderRecord, kind: ExecutionKind) -> None:
        watch = self._watched.get(record.request.client_order_id)
        if kind is ExecutionKind.FILLED:
            self.start(record)
        elif kind in (ExecutionKind.PROTECTED, ExecutionKind.CLOSED) and watch is not None:
            watch.stands = True
            watch.news.set()

    def start(self, record: OrderRecord, *, at_once: bool = False) -> None:
        """Watch an order's position, one task an order, until its stop stands or it is being closed.

        Args:
            record: the order.
            at_once: its stop is overdue: one that was found late is not given its time once more.
        """
        label = record.request.client_order_id
        watch = self._watched.get(label)
        if watch is None or watch.stands:  # a stop that stood may be gone before its task has seen it
            watch = self._watched[label] = _Watch()
            self._background.spawn(partial(self._protect, record.request, watch))
        if at_once and not watch.is_repairing:
            watch.news.set()

    def refused(self, client_order_id: str, error: VenueError) -> None:
        """Take the venue's answer that it does not set the levels."""
        watch = self._watched.get(client_order_id)
        if watch is None:
            log.warning("protection.refused_late", order=client_order_id, error=str(error))
            self._line.ask_books()
        else:
            watch.error = error
            watch.news.set()

    async def _protect(self, request: OrderRequested, watch: _Watch) -> None:
        """See that the stop stands in time; else set it; else close the position."""
        order = request.client_order_id
        try:
            await self._timing.within_venue(self._protection_s, watch.news)
            if watch.stands:
                return
            position = self._account.position_of(order)
            if position is None or position.stop_loss_price is not None:
                self._line.ask_books()  # it stands or is gone: what says so is on its way
                return
            watch.is_repairing = True
            await self._executions.record(request, ExecutionKind.REPAIRING, reason="NO_STOP_IN_TIME")
            self._alarms.tell_soon(f"{order}: no stop at the venue in time, setting it", Severity.ERROR)
            if await self._repair(request, watch):
                return
        finally:  # interrupted, it is begun again by the next reconcile
            if self._watched.get(order) is watch:
                del self._watched[order]
        self._alarms.tell_soon(f"{order}: no stop can be set, closing the position", Severity.CRITICAL)
        await self._closing.close(order, "UNPROTECTED")

    async def _repair(self, request: OrderRequested, watch: _Watch) -> bool:
        """Set both levels, a few times. False: they cannot be set."""
        for _ in range(AMEND_TRIES):
            position = self._account.position_of(request.client_order_id)
            if position is None or position.stop_loss_price is not None:
                self._line.ask_books()
                return True
            if not await self._amend(request, position, watch):
                return False
            if watch.stands:
                return True
        return False

    async def _amend(self, request: OrderRequested, position: Position, watch: _Watch) -> bool:
        """Ask once for both levels. False: the venue refuses them and always will."""
        await self._line.up.wait()
        session = self._line.session
        if session is None or watch.stands:
            return True
        stop, target = orders.protective_levels(
            request.direction,
            position.entry_price,
            request.stop_distance,
            request.target_distance,
            session.contracts[request.symbol],
        )
        watch.error = None
        watch.news.clear()
        session.send_amend(request.client_order_id, position.position_id, stop, target)
        await self._timing.within(AMEND_ANSWER_S, watch.news)
        if watch.error is None or watch.stands:
            return True
        log.warning("protection.refused", order=request.client_order_id, error=str(watch.error))
        if isinstance(watch.error, RefusedError) and watch.error.code != "POSITION_NOT_FOUND":
            return False
        await self._timing.sleep(AMEND_RETRY_S)  # just after a fill the venue may not know it yet
        return True
