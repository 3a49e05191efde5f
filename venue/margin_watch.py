"""What happens when the margin level falls: the client is told, and in the end positions are closed. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from venue.calendar import is_open
from venue.intake import Intake
from venue.open_book import OpenBook
from venue.positions import Positions
from venue.records import CloseReason, Happening, MarginCall, MarginCalled, Order, RefusedError
from venue.terms import Terms
from venue.valuation import Valuer

AGAIN_MS = 10 * 60_000  # a threshold is told at most once in so long
THRESHOLD_PERCENT_MAX = 1_000


class MarginWatch:
    """Compares equity with used margin."""

    def __init__(
        self,
        terms: Terms,
        book: OpenBook,
        valuer: Valuer,
        intake: Intake,
        positions: Positions,
        price_of: Callable[[Order, int], int],
    ) -> None:
        """Take what the account is, and at which price an order that takes any fills now."""
        self._terms = terms
        self._book = book
        self._valuer = valuer
        self._intake = intake
        self._positions = positions
        self._price_of = price_of

    def set_call(self, call_id: int, threshold_percent: float, now_ms: int) -> MarginCall:
        """Say at which margin level the client wants to be told.

        Raises:
            RefusedError: there is no such margin call, or the level makes no sense.
        """
        if call_id not in self._book.margin_calls:
            raise RefusedError("INVALID_REQUEST", "There are three margin calls")
        if not self._terms.stop_out_percent < threshold_percent <= THRESHOLD_PERCENT_MAX:  # neither is NaN
            raise RefusedError("INVALID_REQUEST", "The threshold is not between the stop-out's and 1000 %")
        call = MarginCall(call_id, threshold_percent, now_ms)
        self._book.put_margin_call(call)
        return call

    def look(self, now_ms: int) -> list[Happening]:
        """Tell of every threshold that is reached; close the worst positions if the level is too low."""
        level = self._valuer.margin_level_percent()
        if level is None:
            return []
        told: list[Happening] = []
        for call in list(self._book.margin_calls.values()):
            is_due = call.told_ms is None or now_ms - call.told_ms >= AGAIN_MS
            if level <= call.threshold_percent and is_due:
                call = replace(call, told_ms=now_ms)
                self._book.put_margin_call(call)
                told.append(MarginCalled(now_ms, call))
        return told + self._stop_out(now_ms)

    def _stop_out(self, now_ms: int) -> list[Happening]:
        """Close the position with the worst result, one after the other, until the margin level is back."""
        happened: list[Happening] = []
        while self._is_too_low():
            losing = [
                (self._valuer.value(position).net_cents, position.position_id)
                for position in self._book.positions.values()
                if is_open(position.symbol, now_ms)
            ]
            if not losing:
                break
            position = self._book.positions[min(losing)[1]]
            order = self._intake.stop_out_order(position, now_ms)
            price = self._price_of(order, now_ms)
            happened += self._positions.fill(
                order, price, position.volume_cents, now_ms, CloseReason.STOP_OUT
            )
        return happened

    def _is_too_low(self) -> bool:
        if not self._terms.stop_out_percent:
            return False
        level = self._valuer.margin_level_percent()
        return level is not None and level <= self._terms.stop_out_percent
