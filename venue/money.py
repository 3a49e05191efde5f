"""What a trade is worth in the account's currency, from the venue's own quotes. Pure.

Rates are exact fractions; money is rounded once, to the cent: half to even for a result, so that a
long and its mirrored short come out the same, and up for a cost.
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


def deposit_rate(
    asset: str,
    deposit_asset: str,
    contracts: Mapping[str, Contract],
    quotes: Mapping[str, Quote],
    *,
    high: bool,
) -> Fraction:
    """Return the units of deposit currency for one unit of `asset`, at the higher or the lower side.

    Raises:
        UnavailableError: no symbol converts the two, or it has no quote yet.
    """
    if asset == deposit_asset:
        return Fraction(1)
    for symbol, contract in contracts.items():
        quote = quotes.get(symbol)
        if quote is None:
            continue
        if (contract.base_asset, contract.quote_asset) == (asset, deposit_asset):
            return Fraction(quote.ask if high else quote.bid, POINTS_PER_UNIT)
        if (contract.base_asset, contract.quote_asset) == (deposit_asset, asset):
            return Fraction(POINTS_PER_UNIT, quote.bid if high else quote.ask)
    raise UnavailableError(f"no quote converts {asset} to {deposit_asset}")


def result_in_quote(side: Side, entry_points: int, exit_points: int, volume_cents: int) -> Fraction:
    """Return what a position made, in quote currency, before costs."""
    return Fraction(side.sign * (exit_points - entry_points) * volume_cents, POINTS_PER_UNIT * CENTS)


def rounded_cents(amount: Fraction) -> int:
    """Return an amount of money in cents, half to even."""
    return round(amount * CENTS)


def cost_cents(amount: Fraction) -> int:
    """Return a cost in cents, rounded up."""
    return math.ceil(amount * CENTS)
