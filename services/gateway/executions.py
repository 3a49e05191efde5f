"""What happened to our orders: numbered, journalled, then put into the outbox with the account."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from services.gateway import orders
from services.gateway.context import Context
from services.gateway.journal import OrderRecord
from services.gateway.outbox import Outbox
from shared import streams
from shared.bus import Output
from shared.log import get_logger
from shared.messages import ExecutionKind, ExecutionReported, OrderRequested, Severity

log = get_logger("gateway.executions")

Listener = Callable[[OrderRecord, ExecutionKind], None]


class Executions:
    """The one way from an event to the journal, the order's status and the streams."""

    def __init__(self, context: Context, outbox: Outbox) -> None:
        self._outbox = outbox
        self._journal = context.journal
        self._account = context.account
        self._line = context.line
        self._timing = context.timing
        self._alarms = context.alarms
        self._lock = asyncio.Lock()  # one event at a time is numbered and journalled
        self._listeners: list[Listener] = []

    def listen(self, listener: Listener) -> None:
        """Have every event told, once it is journalled."""
        self._listeners.append(listener)

    async def record(
        self,
        request: OrderRequested,
        kind: ExecutionKind,
        *,
        at_ms: int | None = None,
        **details: Any,  # noqa: ANN401
    ) -> None:
        """Number and journal one event, follow the order's status, have it published.

        An event that does not fit the status is an alarm; the status stays, and the venue is asked. One
        that was told before changes nothing.

        Args:
            request: the order.
            kind: what happened to it.
            at_ms: when, venue time; now if it is not given.
            details: further fields of the execution.
        """
        label = request.client_order_id
        async with self._lock:
            before = self._journal.order(label)
            try:
                status = orders.next_status(before.status if before else None, kind)
            except orders.IllegalTransitionError as error:
                if self._is_echo(label, kind, details):
                    log.info("execution.again", order=label, kind=kind)
                    return
                self._alarms.tell_soon(f"{label}: {error}", Severity.WARNING)
                self._line.ask_books()
                return
            if before is not None and before.status in orders.NEVER_THERE:
                self._alarms.tell_soon(f"{label} was {before.status}, and is {kind}", Severity.CRITICAL)
            number = self._outbox.last_number + 1
            at = streams.from_milliseconds(at_ms or self._timing.now_ms())
            event = ExecutionReported(
                meta=request.meta.effect(ExecutionReported, str(number), at),
                number=number,
                kind=kind,
                client_order_id=label,
                symbol=request.symbol,
                direction=request.direction,
                **details,
            )
            await self._journal.record(event, status, request)
            self._put(event, request)
        record = self._journal.order(label)
        if record is not None:
            for listener in self._listeners:
                listener(record, kind)

    def _is_echo(self, label: str, kind: ExecutionKind, details: dict[str, Any]) -> bool:
        """Whether the venue has told this event of this order and position before."""
        told = ("order_id", "position_id")
        said = [details.get(name) for name in told]
        return any(
            event.kind is kind and [getattr(event, name) for name in told] == said
            for event in self._journal.events_of(label)
        )

    def _put(self, event: ExecutionReported, request: OrderRequested) -> None:
        outputs = [Output(event)]
        if self._account.is_open:
            self._account.remember_trade(event, request)
            outputs.append(self._account.entry(event.meta, "execution", event.number, live=True))
        self._outbox.put_execution(outputs, event.number)
