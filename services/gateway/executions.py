"""What happened to our orders: numbered, journalled, then put into the outbox with the account."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from services.gateway import orders
from services.gateway.context import Context
from services.gateway.journal import Entry, OrderRecord
from services.gateway.orders import Status
from services.gateway.outbox import Outbox
from shared import streams
from shared.bus import Output
from shared.log import get_logger
from shared.messages import ExecutionKind, ExecutionReported, OrderRequested, Severity

log = get_logger("gateway.executions")

Listener = Callable[[OrderRecord, ExecutionKind], None]


@dataclass(frozen=True, slots=True)
class Happening:
    """What happened to an order, before it has a number."""

    request: OrderRequested
    kind: ExecutionKind
    details: dict[str, Any] = field(default_factory=dict)  # further fields of the execution
    at_ms: int | None = None  # venue time; None: now


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
        await self.record_all([Happening(request, kind, details, at_ms)])

    async def record_all(self, happenings: Sequence[Happening]) -> None:
        """Record what happened to different orders, as `record` does, with one write to the disk."""
        async with self._lock:
            entries: list[Entry] = []
            for happening in happenings:
                status = self._status_after(happening)
                if status is not None:
                    number = self._outbox.last_number + len(entries) + 1
                    entries.append(Entry(self._event(happening, number), status, happening.request))
            if entries:
                await self._journal.record(entries)
            for entry in entries:
                self._put(entry.event, entry.request)
        for entry in entries:
            record = self._journal.order(entry.event.client_order_id)
            if record is not None:
                for listener in self._listeners:
                    listener(record, entry.event.kind)

    def _status_after(self, happening: Happening) -> Status | None:
        """Return the order's next status, or None: the event does not fit, or is no news."""
        label, kind = happening.request.client_order_id, happening.kind
        before = self._journal.order(label)
        try:
            status = orders.next_status(before.status if before else None, kind)
        except orders.IllegalTransitionError as error:
            if self._is_echo(label, kind, happening.details):
                log.info("execution.again", order=label, kind=kind)
            else:
                self._alarms.tell_soon(f"{label}: {error}", Severity.WARNING)
                self._line.ask_books()
            return None
        if before is not None and before.status in orders.NEVER_THERE:
            self._alarms.tell_soon(f"{label} was {before.status}, and is {kind}", Severity.CRITICAL)
        return status

    def _event(self, happening: Happening, number: int) -> ExecutionReported:
        request = happening.request
        at = streams.from_milliseconds(happening.at_ms or self._timing.now_ms())
        return ExecutionReported(
            meta=request.meta.effect(ExecutionReported, str(number), at),
            number=number,
            kind=happening.kind,
            client_order_id=request.client_order_id,
            symbol=request.symbol,
            direction=request.direction,
            **happening.details,
        )

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
