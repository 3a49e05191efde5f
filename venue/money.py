"""What a trade is worth in the account's currency, from the venue's own quotes. Pure.

Rates are exact fractions; money is rounded once, to the cent: half to even for a result, so that a
long and its mirrored short come out the same, and against the client for what is charged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import NamedTuple

from shared.contracts import POINTS_PER_UNIT, Contract
from shared.errors import UnavailableError
from venue.records import Side

CENTS = 100  # of a unit in volumes, of the deposit currency in money
MONEY_DIGITS = 2


class Quote(NamedTuple):
    """The last prices of one symbol, in points."""

    time_ms: int
    bid: int
    ask: int


class Step(NamedTuple):
    """One symbol on the way from an asset to another: times its price, or over it."""

    symbol: str
    multiply: bool


def conversion_chain(contracts: Mapping[str, Contract], first: str, last: str) -> tuple[Step, ...] | None:
    """Return the fewest symbols that lead from one asset to another, None if none do."""
    chains: dict[str, tuple[Step, ...]] = {first: ()}
    reached = [first]
    for asset in reached:  # grows while it is walked: the nearest assets come first
        if asset == last:
            return chains[asset]
        for symbol, contract in contracts.items():
            for here, there in (
                (contract.base_asset, contract.quote_asset),
                (contract.quote_asset, contract.base_asset),
            ):
                if here == asset and there not in chains:
                    chains[there] = (*chains[asset], Step(symbol, here == contract.base_asset))
                    reached.append(there)
    return None


class Converter:
    """Rates between assets through the venue's symbols, at the last quotes."""

    def __init__(self, contracts: Mapping[str, Contract], quotes: Mapping[str, Quote]) -> None:
        self._contracts = contracts
        self._quotes = quotes
        self._chains: dict[tuple[str, str], tuple[Step, ...] | None] = {}

    def rate(self, asset: str, other: str, *, high: bool) -> Fraction:
        """Return the units of `other` for one unit of `asset`, at the higher or the lower side.

        Raises:
            UnavailableError: no symbols convert the two, or one of them has no quote yet.
        """
        over, under = 1, 1
        for symbol, multiply in self._chain(asset, other):
            quote = self._quote(symbol, asset, other)
            points = quote.ask if high == multiply else quote.bid
            if multiply:
                over, under = over * points, under * POINTS_PER_UNIT
            else:
                over, under = over * POINTS_PER_UNIT, under * points
        return Fraction(over, under)

    def about(self, asset: str, other: str) -> float:
        """Return roughly the rate, quickly: at the bids.

        Raises:
            UnavailableError: as above.
        """
        rate = 1.0
        for symbol, multiply in self._chain(asset, other):
            price = self._quote(symbol, asset, other).bid / POINTS_PER_UNIT
            rate = rate * price if multiply else rate / price
        return rate

    def _quote(self, symbol: str, asset: str, other: str) -> Quote:
        quote = self._quotes.get(symbol)
        if quote is None:
            raise UnavailableError(f"no quote of {symbol} converts {asset} to {other}")
        return quote

    def _chain(self, asset: str, other: str) -> tuple[Step, ...]:
        key = asset, other
        if key not in self._chains:
            self._chains[key] = conversion_chain(self._contracts, asset, other)
        chain = self._chains[key]
        if chain is None:
            raise UnavailableError(f"no symbols convert {asset} to {other}")
        return chain


def exact(value: float) -> Fraction:
    """Return a price or a rate as the decimal number that it shows."""
    return Fraction(value) if isinstance(value, int) else Fraction(repr(value))


def result_in_quote(side: Side, entry_points: float, exit_points: int, volume_cents: int) -> Fraction:
    """Return what a position made, in quote currency, before costs."""
    moved = exit_points - exact(entry_points)
    made = side.sign * moved.numerator * volume_cents
    return Fraction(made, moved.denominator * POINTS_PER_UNIT * CENTS)


def average_points(first_points: float, first_cents: int, second_points: float, second_cents: int) -> float:
    """Return the price of two fills together: a whole number of points where it is one."""
    if first_cents == 0:
        return second_points
    value = exact(first_points) * first_cents + exact(second_points) * second_cents
    average = value / (first_cents + second_cents)
    return average.numerator if average.denominator == 1 else float(average)


def rounded_cents(amount: Fraction) -> int:
    """Return an amount of money in cents, half to even."""
    return round(amount * CENTS)


def cost_cents(amount: Fraction) -> int:
    """Return a cost in cents, rounded up."""
    return math.ceil(amount * CENTS)


def credit_cents(amount: Fraction) -> int:
    """Return what is credited, or charged if negative, in cents, rounded down: against the client."""
    return math.floor(amount * CENTS)
