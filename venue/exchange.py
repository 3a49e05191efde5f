"""The venue without its doors: plays quotes through the matching core and writes the books.

What a step did is in the books before any listener is told to send it. Requests arrive at the venue's
present; in one process run everything is decided by the quotes and the order of the requests alone.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Protocol

from venue.calendar import is_open
from venue.depth import Depth
from venue.faults import Faults
from venue.ledger import Ledger
from venue.matching import Matching
from venue.playback import Playback, Spot
from venue.records import (
    Deal,
    Execution,
    Happening,
    MarginCall,
    Notice,
    Order,
    Position,
    Refusal,
    RefusedError,
    StopChange,
    TriggerMethod,
)
from venue.rules import OrderChange, OrderRequest

QUOTES_PER_COMMIT = 256
QUIET_MS_MAX = 30 * 60_000  # a symbol without quotes for longer is closed: the session ends, or a holiday


class Pace(Protocol):
    """What says how late it is at the venue."""

    def now_ms(self, played_ms: int) -> int:
        """Return the venue's time, given the last moment played; never before it."""


class Stepped:
    """Time stands where the last step left it."""

    def now_ms(self, played_ms: int) -> int:
        """Return the last moment played."""
        return played_ms


class Listener(Protocol):
    """Who sends on what happens."""

    def on_spot(self, spot: Spot) -> None:
        """Take a quote."""

    def on_execution(self, execution: Execution) -> None:
        """Take an execution that is to be told."""

    def on_notice(self, notice: Notice) -> None:
        """Take what is to be told beside executions."""

    async def flush(self) -> None:
        """Send what was taken: the books hold it now. Waits for who is far behind."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request led to: its order, and the executions to be told now."""

    order: Order
    executions: tuple[Execution, ...]


class Exchange:
    """One account at one venue."""

    def __init__(
        self, playback: Playback, matching: Matching, ledger: Ledger, faults: Faults, pace: Pace
    ) -> None:
        self.playback = playback
        self.matching = matching
        self.ledger = ledger
        self.faults = faults
        self.listener: Listener | None = None
        self.depth = Depth(playback.store.contracts)
        self._pace = pace
        self._playing = asyncio.Lock()
        self._agenda: list[
            tuple[int, int, Callable[[], None]]
        ] = []  # heap: due, order of arrival, what to do
        self._arrivals = count()
        self._next_refusal_id = ledger.last_id(Refusal) + 1
        matching.quotes.update(playback.start_quotes)
        self.last_stamp_ms = max((quote.time_ms for quote in playback.start_quotes.values()), default=None)

    @classmethod
    def resume(
        cls,
        playback: Playback,
        matching: Matching,
        ledger: Ledger,
        faults: Faults,
        pace: Pace,
        *,
        deposit_cents: int,
    ) -> Exchange:
        """Take up the account where the books left it; in new books open it with a deposit."""
        balance = ledger.balance()
        if balance is None:
            matching.deposit(deposit_cents, playback.time_ms)
            ledger.write(matching.take_changes(), playback.time_ms)
        else:
            matching.restore(
                now_ms=playback.time_ms,
                orders=ledger.standing(Order),
                positions=ledger.standing(Position),
                margin_calls=ledger.standing(MarginCall),
                balance=balance,
                last_ids=(
                    ledger.last_id(Order),
                    ledger.last_position_id(),
                    ledger.last_id(Deal),
                    ledger.last_id(StopChange),
                ),
            )
        return cls(playback, matching, ledger, faults, pace)

    @property
    def now_ms(self) -> int:
        """The venue's time."""
        return self._pace.now_ms(self.playback.time_ms)

    # -- time ----------------------------------------------------------------------------------

    def at(self, due_ms: int, do: Callable[[], None]) -> None:
        """Do something when time reaches `due_ms`, after the quotes of that moment."""
        heapq.heappush(self._agenda, (due_ms, next(self._arrivals), do))

    async def play(self, until_ms: int) -> None:
        """Play every quote up to a time, in steps that are written before they are told."""
        async with self._playing:
            while self.playback.time_ms < until_ms:
                played = 0
                while played < QUOTES_PER_COMMIT and self.playback.time_ms < until_ms:
                    played += self._play_moment(until_ms)
                self._commit(self.playback.time_ms)
                if self.listener is not None:
                    await self.listener.flush()
                await asyncio.sleep(0)

    def _play_moment(self, until_ms: int) -> int:
        """Play the next moment that has a quote, or anything else to be done."""
        due_ms = self.matching.next_due_ms()
        if self._agenda and (due_ms is None or self._agenda[0][0] < due_ms):
            due_ms = self._agenda[0][0]
        if due_ms is not None and due_ms < until_ms:
            until_ms = max(due_ms, self.playback.time_ms)
        spots = self.playback.take(until_ms)
        now_ms = self.playback.time_ms
        for happening in self.matching.on_time(now_ms):
            self._tell(happening)
        for spot in spots:
            self.last_stamp_ms = spot.time_ms
            if self.listener is not None:
                self.listener.on_spot(spot)
            for happening in self.matching.on_quote(spot.symbol, spot.time_ms, spot.bid, spot.ask):
                self._tell(happening)
        while self._agenda and self._agenda[0][0] <= now_ms:
            heapq.heappop(self._agenda)[2]()
        return len(spots) or 1

    def _commit(self, now_ms: int) -> None:
        self.ledger.write(self.matching.take_changes(), now_ms)

    # -- requests ------------------------------------------------------------------------------

    def submit(self, request: OrderRequest) -> Answer:
        """Take an order.

        Raises:
            RefusedError: it breaks a rule.
        """
        now_ms = self.now_ms
        try:
            executions = self.matching.submit(
                request, now_ms, market_open=self._is_open(request.symbol, now_ms)
            )
        except RefusedError as error:
            self._note_refusal("NewOrder", error, request.symbol, client_order_id=request.client_order_id)
            raise
        return self._answer(executions)

    def close(self, position_id: int, volume_cents: int) -> Answer:
        """Take a request to close a position or a part of it.

        Raises:
            RefusedError: it breaks a rule.
        """
        now_ms = self.now_ms
        position = self.matching.positions.get(position_id)
        market_open = position is not None and self._is_open(position.symbol, now_ms)
        try:
            executions = self.matching.close(position_id, volume_cents, now_ms, market_open=market_open)
        except RefusedError as error:
            self._note_refusal("ClosePosition", error, position.symbol if position else "", position_id)
            raise
        return self._answer(executions)

    def amend_order(self, order_id: int, change: OrderChange) -> Answer:
        """Take a request to change an order that waits for its price.

        Raises:
            RefusedError: it breaks a rule.
        """
        now_ms = self.now_ms
        order = self.matching.orders.get(order_id)
        try:
            executions = self.matching.amend_order(order_id, change, now_ms)
        except RefusedError as error:
            self._note_refusal("AmendOrder", error, order.symbol if order else "")
            raise
        return self._answer(executions)

    def cancel(self, order_id: int) -> Answer:
        """Take a request to take back an order that waits for its price.

        Raises:
            RefusedError: it breaks a rule.
        """
        now_ms = self.now_ms
        order = self.matching.orders.get(order_id)
        try:
            executions = self.matching.cancel(order_id, now_ms)
        except RefusedError as error:
            self._note_refusal("CancelOrder", error, order.symbol if order else "")
            raise
        return self._answer(executions)

    def amend(
        self,
        position_id: int,
        stop_points: int | None,
        target_points: int | None,
        *,
        trailing: bool = False,
        trigger_method: TriggerMethod = TriggerMethod.TRADE,
    ) -> Answer:
        """Take a request to set a position's levels.

        Raises:
            RefusedError: it breaks a rule.
        """
        now_ms = self.now_ms
        position = self.matching.positions.get(position_id)
        try:
            executions = self.matching.amend(
                position_id,
                stop_points,
                target_points,
                now_ms,
                trailing=trailing,
                trigger_method=trigger_method,
            )
        except RefusedError as error:
            self._note_refusal("AmendPositionSLTP", error, position.symbol if position else "", position_id)
            raise
        return self._answer(executions)

    async def deposit(self, amount_cents: int) -> None:
        """Put money into the account, or take it out, and tell its clients.

        Raises:
            RefusedError: more would be taken out than is free.
        """
        notice = self.matching.deposit(amount_cents, self.now_ms)
        self._commit(self.playback.time_ms)
        if self.listener is not None:
            self.listener.on_notice(notice)
            await self.listener.flush()

    def set_margin_call(self, call_id: int, threshold_percent: float) -> MarginCall:
        """Say at which margin level the client wants to be told.

        Raises:
            RefusedError: there is no such margin call, or the level makes no sense.
        """
        call = self.matching.set_margin_call(call_id, threshold_percent, self.now_ms)
        self._commit(self.playback.time_ms)
        return call

    def _is_open(self, symbol: str, now_ms: int) -> bool:
        """Tell whether the symbol trades: by the calendar, and by the quotes that are to come (holidays)."""
        if symbol not in self.playback.store.contracts:
            return True  # that is for another check to refuse
        next_ms = self.playback.next_quote_of(symbol, now_ms + self.matching.terms.latency_ms)
        return is_open(symbol, now_ms) and next_ms is not None and next_ms - now_ms <= QUIET_MS_MAX

    def _note_refusal(
        self,
        request: str,
        error: RefusedError,
        symbol: str,
        position_id: int | None = None,
        client_order_id: str = "",
    ) -> None:
        now_ms = self.now_ms
        refusal = Refusal(
            self._next_refusal_id,
            now_ms,
            request,
            symbol,
            error.code,
            error.description,
            client_order_id,
            position_id,
        )
        self._next_refusal_id += 1
        self.ledger.write([refusal], self.playback.time_ms)

    def _answer(self, executions: tuple[Execution, ...]) -> Answer:
        self._commit(self.playback.time_ms)
        return Answer(executions[0].order, executions)

    def _tell(self, happening: Happening) -> None:
        if self.listener is None:
            return
        if isinstance(happening, Execution):
            self.listener.on_execution(happening)
        else:
            self.listener.on_notice(happening)
