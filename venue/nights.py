"""What a position pays or gets for being kept over the day's end. Pure."""

from __future__ import annotations

from dataclasses import replace

from venue.calendar import next_roll_ms, weekday_before
from venue.costs import swap_cents
from venue.open_book import OpenBook
from venue.records import Position, Side, SwapCharged
from venue.terms import Terms
from venue.triggers import closing_price
from venue.valuation import Valuer

TRIPLE = 3  # nights on the day whose value date steps over the weekend


class Nights:
    """Counts the ends of days."""

    def __init__(self, terms: Terms, book: OpenBook, valuer: Valuer) -> None:
        self._terms = terms
        self._book = book
        self._valuer = valuer
        self.next_roll_ms = 0  # known once there is a position

    def restore(self, now_ms: int) -> None:
        """Go on from a time up to which all was counted."""
        self.next_roll_ms = next_roll_ms(now_ms)

    def end(self, now_ms: int) -> list[SwapCharged]:
        """End the days that are over: every position that stood at the end of one has its swap."""
        charged: list[SwapCharged] = []
        positions = self._book.positions
        if positions and not self._terms.swap_free:
            oldest_ms = min(position.opened_ms for position in positions.values())
            roll_ms = max(self.next_roll_ms, next_roll_ms(oldest_ms))
            while roll_ms <= now_ms:
                charged += self._charge(roll_ms)
                roll_ms = next_roll_ms(roll_ms)
        self.next_roll_ms = next_roll_ms(now_ms)
        return charged

    def _charge(self, roll_ms: int) -> list[SwapCharged]:
        weekday, charged = weekday_before(roll_ms), []
        for position in list(self._book.positions.values()):
            cents = self._swap_cents(position, weekday) if position.opened_ms < roll_ms else None
            if cents is not None:
                position = replace(position, swap_cents=position.swap_cents + cents, updated_ms=roll_ms)
                self._book.put_position(position)
                charged.append(SwapCharged(roll_ms, position))
        return charged

    def _swap_cents(self, position: Position, weekday: int) -> int | None:
        swap = self._terms.charges_of(position.symbol).swap
        if swap is None:
            return None
        contract = self._terms.contracts[position.symbol]
        rate = swap.long if position.side is Side.BUY else swap.short
        return swap_cents(
            contract,
            swap,
            position.side,
            closing_price(position.side, self._book.quotes[position.symbol]),
            position.volume_cents,
            TRIPLE if weekday == swap.triple_weekday else 1,
            self._valuer.rate(contract.quote_asset, high=rate < 0),
        )
