"""Which quotes change nothing: most do not, and to know so quickly makes a year of them playable. Pure.

A look at what stands gives, for each symbol, the prices between which no level is reached and no order
fills, and the equity below which the margin has to be counted. It holds until the books change.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from venue.money import Quote
from venue.open_book import OpenBook
from venue.records import Order, OrderKind, Position, Side
from venue.terms import Terms
from venue.triggers import is_of_opposite, worst_price
from venue.valuation import Valuer

NEAR = 1.02  # the margin level is counted to the cent when a quick look finds it so near
_POINT_CENTS = 1e5  # points times cents of a unit, in cents of the quote currency


@dataclass(slots=True)
class _Band:
    """The prices between which a symbol is calm; the ends are not."""

    bid_low: float = -math.inf
    bid_high: float = math.inf
    ask_low: float = -math.inf
    ask_high: float = math.inf

    def keep(self, side: Side, level: int, *, above: bool) -> None:
        """Keep the price at which this side trades above or below a level."""
        if side is Side.BUY:
            if above:
                self.ask_low = max(self.ask_low, level)
            else:
                self.ask_high = min(self.ask_high, level)
        elif above:
            self.bid_low = max(self.bid_low, level)
        else:
            self.bid_high = min(self.bid_high, level)


class _Holding(NamedTuple):
    sign: int
    entry_points: float
    volume_cents: int
    costs_cents: int
    quote_asset: str


class Calm:
    """What was seen at the last look."""

    def __init__(self, terms: Terms, book: OpenBook, valuer: Valuer) -> None:
        self._terms = terms
        self._book = book
        self._converter = valuer.converter
        self._valuer = valuer
        self._version = -1
        self._due_ms: float = 0
        self._bands: dict[str, _Band] = {}
        self._holdings: dict[str, list[_Holding]] = {}
        self._floating: dict[str, float] = {}  # the unrealised net result of each symbol, in cents
        self._equity_min = 0.0

    def holds(self, symbol: str, quote: Quote) -> bool:
        """Tell whether a quote changes nothing. What is due without one has to be said before: `look`."""
        band = self._bands.get(symbol)
        if band is None:
            return quote.time_ms < self._due_ms
        if not (
            band.bid_low < quote.bid < band.bid_high
            and band.ask_low < quote.ask < band.ask_high
            and quote.time_ms < self._due_ms
        ):
            return False
        if symbol not in self._holdings:
            return True
        self._floating[symbol] = self._result(symbol, quote)
        return self._book.balance_cents + sum(self._floating.values()) > self._equity_min

    def is_old(self) -> bool:
        """Tell whether the books changed since the last look."""
        return self._version != self._book.version

    def look(self, due_ms: int | None) -> None:
        """Look at the books as they stand, with the time at which something is due without a quote."""
        self._version = self._book.version
        self._due_ms = math.inf if due_ms is None else due_ms
        self._bands, self._holdings, self._floating = {}, {}, {}
        for order in self._book.orders.values():
            _keep_order(self._band(order.symbol), order)
        for position in self._book.positions.values():
            self._keep_position(position)
        for symbol in self._holdings:
            self._floating[symbol] = self._result(symbol, self._book.quotes[symbol])
        highest = max(call.threshold_percent for call in self._book.margin_calls.values())
        highest = max(highest, self._terms.stop_out_percent)
        self._equity_min = self._valuer.held_margin_cents() * highest / 100 * NEAR

    def _band(self, symbol: str) -> _Band:
        return self._bands.setdefault(symbol, _Band())

    def _keep_position(self, position: Position) -> None:
        band, closing = self._band(position.symbol), position.side.opposite
        protective = self._book.protective.get(position.position_id)
        is_long = position.side is Side.BUY
        if protective is not None and (protective.is_touched or protective.is_triggered):
            band.bid_low = math.inf
        if position.stop_points is not None:
            watched = position.side if is_of_opposite(position.trigger_method) else closing
            band.keep(watched, position.stop_points, above=is_long)
            if position.trailing and position.trail_points is not None:
                moves = position.stop_points + position.side.sign * (position.trail_points + 1)
                band.keep(closing, moves, above=not is_long)
        if position.target_points is not None:
            band.keep(closing, position.target_points, above=not is_long)
        self._holdings.setdefault(position.symbol, []).append(
            _Holding(
                position.side.sign,
                position.entry_points,
                position.volume_cents,
                position.swap_cents + position.commission_cents,
                self._terms.contracts[position.symbol].quote_asset,
            )
        )

    def _result(self, symbol: str, quote: Quote) -> float:
        """Return the unrealised net result of a symbol's positions, in cents, within one or two of them."""
        result = 0.0
        for sign, entry, volume, costs, asset in self._holdings[symbol]:
            moved = (quote.bid - entry if sign > 0 else entry - quote.ask) * volume
            rate = self._converter.about(asset, self._terms.deposit_asset)
            result += moved / _POINT_CENTS * rate + costs
        return result


def _keep_order(band: _Band, order: Order) -> None:
    """Keep the quotes at which a client's order waits on."""
    buys = order.side is Side.BUY
    if order.trigger_points is not None and not order.is_triggered:
        watched = order.side.opposite if is_of_opposite(order.trigger_method) else order.side
        band.keep(watched, order.trigger_points, above=not buys)
        if not order.is_touched:
            return
    worst = worst_price(order)
    if order.kind is OrderKind.MARKET_RANGE or not order.kind.is_pending or order.must_fill_at_once:
        worst = None
    if worst is None or order.is_touched:
        band.bid_low = math.inf  # any quote may be its own
    else:
        band.keep(order.side, worst, above=buys)
