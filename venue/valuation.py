"""What an account is worth and what it binds, at the last quotes. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction

from shared.errors import UnavailableError
from venue.costs import USD, HigherRate, commission_cents, margin_usd
from venue.money import CENTS, Converter, cost_cents, exact, result_in_quote, rounded_cents
from venue.open_book import OpenBook
from venue.records import Position, Side
from venue.terms import MarginSum, Terms
from venue.triggers import closing_price


@dataclass(frozen=True, slots=True)
class Valuation:
    """A position at the last quotes, in cents; net leaves out what closing will cost."""

    position_id: int
    gross_cents: int
    net_cents: int


class Valuer:
    """Values and margins of the open book under the account's terms."""

    def __init__(self, terms: Terms, book: OpenBook) -> None:
        self.terms = terms
        self._book = book
        self.converter = Converter(terms.contracts, book.quotes)
        self._higher: HigherRate = lambda asset, other: self.converter.rate(asset, other, high=True)

    # -- rates ---------------------------------------------------------------------------------

    def rate(self, asset: str, *, high: bool) -> Fraction:
        """Return deposit currency for one unit of an asset."""
        return self.converter.rate(asset, self.terms.deposit_asset, high=high)

    def base_rate(self, symbol: str) -> Fraction:
        """Return deposit currency for one unit of the symbol's base, at the dearer side."""
        return self.rate(self.terms.contracts[symbol].base_asset, high=True)

    def usd_rate(self, symbol: str) -> Fraction:
        """Return US dollars for one unit of the symbol's base, at the dearer side."""
        return self._higher(self.terms.contracts[symbol].base_asset, USD)

    def result(self, position: Position, exit_points: int, volume_cents: int) -> tuple[int, Fraction]:
        """Return the gross result in cents, and the rate: a gain at the lower side, a loss at the higher."""
        amount = result_in_quote(position.side, position.entry_points, exit_points, volume_cents)
        rate = self.rate(self.terms.contracts[position.symbol].quote_asset, high=amount < 0)
        return rounded_cents(amount * rate), rate

    def commission_cents(self, symbol: str, price_points: int, volume_cents: int) -> int:
        """Return one side's commission, a negative number."""
        if not self.terms.commission:
            return 0
        return commission_cents(
            self.terms.contracts[symbol],
            self.terms.charges_of(symbol),
            price_points,
            volume_cents,
            self.terms.deposit_asset,
            self._higher,
        )

    # -- equity --------------------------------------------------------------------------------

    def valuations(self) -> list[Valuation]:
        """Return every open position at the side that would close it now."""
        return [self.value(position) for position in self._book.positions.values()]

    def value(self, position: Position) -> Valuation:
        """Return one position at the side that would close it now."""
        price = closing_price(position.side, self._book.quotes[position.symbol])
        gross, _ = self.result(position, price, position.volume_cents)
        net = gross + position.swap_cents + position.commission_cents
        return Valuation(position.position_id, gross, net)

    def equity_cents(self) -> int:
        """Return the balance with the unrealised net result of every position."""
        return self._book.balance_cents + sum(value.net_cents for value in self.valuations())

    # -- margin --------------------------------------------------------------------------------

    def used_margin_cents(self) -> int:
        """Return the margin of the open positions and of the orders that wait for the next quote."""
        waiting = sum(
            self.margin_cents(order.symbol, order.left_cents, order.side)
            for order in self._book.orders.values()
            if not order.closing and not order.kind.is_pending
        )
        return self.held_margin_cents() + waiting

    def held_margin_cents(self) -> int:
        """Return the margin of the open positions."""
        if self.terms.margin_sum is MarginSum.SUM:
            return sum(position.used_margin_cents for position in self._book.positions.values())
        sides: dict[str, dict[Side, int]] = {}
        for position in self._book.positions.values():
            held = sides.setdefault(position.symbol, {Side.BUY: 0, Side.SELL: 0})
            held[position.side] += position.used_margin_cents
        if self.terms.margin_sum is MarginSum.MAX:
            return sum(max(held.values()) for held in sides.values())
        return sum(abs(held[Side.BUY] - held[Side.SELL]) for held in sides.values())

    def margin_cents(self, symbol: str, volume_cents: int, side: Side = Side.BUY) -> int:
        """Return the margin that this volume more would bind now, on top of what is open on its side."""
        usd_rate = self.usd_rate(symbol)
        open_usd = _usd_volume(each for each in self._book.of_symbol(symbol) if each.side is side)
        return self._margin(symbol, volume_cents, self.base_rate(symbol), usd_rate, open_usd)

    def margins_moved(self, symbol: str, side: Side) -> list[Position]:
        """Return the positions of one side of a symbol whose margin is no longer what they have, mended."""
        moved, open_usd = [], Fraction(0)
        for position in self._book.of_symbol(symbol):
            if position.side is not side:
                continue
            usd_rate = exact(position.usd_rate)
            margin = self._margin(
                symbol, position.volume_cents, exact(position.margin_rate), usd_rate, open_usd
            )
            if margin != position.used_margin_cents:
                moved.append(replace(position, used_margin_cents=margin))
            open_usd += Fraction(position.volume_cents, CENTS) * usd_rate
        return moved

    def _margin(
        self, symbol: str, volume_cents: int, base_rate: Fraction, usd_rate: Fraction, open_usd: Fraction
    ) -> int:
        usd = Fraction(volume_cents, CENTS) * usd_rate
        tiers = self.terms.charges_of(symbol).tiers
        bound = margin_usd(tiers, self.terms.leverage, open_usd, open_usd + usd)
        return cost_cents(bound * base_rate / usd_rate)

    def margin_level_percent(self) -> float | None:
        """Return equity over used margin, None where nothing is bound."""
        used = self.held_margin_cents()
        return None if used == 0 else self.equity_cents() / used * 100

    def can_value(self, symbol: str) -> bool:
        """Tell whether there are quotes enough to trade a symbol and count its result."""
        contract = self.terms.contracts[symbol]
        try:
            for asset in (contract.base_asset, contract.quote_asset):
                self.rate(asset, high=True)
            self.usd_rate(symbol)
        except UnavailableError:
            return False
        return True


def _usd_volume(positions: Iterable[Position]) -> Fraction:
    return sum((Fraction(each.volume_cents, CENTS) * exact(each.usd_rate) for each in positions), Fraction(0))
