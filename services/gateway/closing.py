"""Closing positions of ours: asked for again until they are gone, a bounded time."""

from __future__ import annotations

from functools import partial

from services.gateway import orders
from services.gateway.context import Context
from services.gateway.executions import Executions
from services.gateway.orders import Status
from shared.messages import ExecutionKind, Severity

CLOSE_ANSWER_S = 1.0  # doubles with every try
CLOSE_TRIES = 5


class Closing:
    """Closes positions at the market, one task a position: closing opens nothing, so it may be repeated."""

    def __init__(self, context: Context, executions: Executions) -> None:
        self._executions = executions
        self._journal = context.journal
        self._account = context.account
        self._line = context.line
        self._timing = context.timing
        self._background = context.background
        self._alarms = context.alarms
        self._running: set[int] = set()  # positions

    async def close(self, client_order_id: str, reason: str) -> None:
        """Close the position of one of our orders; asked again, it is sent again only if still open."""
        record = self._journal.order(client_order_id)
        if record is None or record.status not in orders.HOLDS_POSITION:
            return
        if record.status is not Status.CLOSING:
            await self._executions.record(
                record.request, ExecutionKind.CLOSING, position_id=record.position_id, reason=reason
            )
        position = self._account.position_of(client_order_id)
        if position is not None:
            self.start(client_order_id, position.position_id)
        else:
            self._line.ask_books()

    def start(self, label: str, position_id: int) -> None:
        """Close a position beside all else; who asks while that runs changes nothing."""
        if position_id not in self._running:
            self._running.add(position_id)
            self._background.spawn(partial(self._until_gone, label, position_id))

    async def _until_gone(self, label: str, position_id: int) -> None:
        """Ask until it is gone; open all the same (the market may be closed), the next reconcile asks."""
        try:
            for sent in range(CLOSE_TRIES):
                await self._line.up.wait()
                position = self._account.position(position_id)
                if position is None or self._line.session is None:
                    return
                self._line.session.send_close(label, position_id, position.volume_units)
                await self._timing.sleep(CLOSE_ANSWER_S * 2**sent)
            if self._account.position(position_id) is not None:
                self._alarms.tell_soon(f"{label}: position {position_id} cannot be closed", Severity.CRITICAL)
        finally:
            self._running.discard(position_id)
