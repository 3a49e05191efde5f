"""The depth behind a quote: three levels a side, made up from the quote alone. Pure.

It is there so that clients of depth can be tried. Orders do not consume it: how much of one fills is for
`venue.liquidity` to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from shared.contracts import Contract
from venue.money import CENTS, Quote
from venue.playback import Spot
from venue.records import Side
from venue.ticks import tick_points

LOTS = (1, 3, 8)  # of the best price, of one tick behind it, of two; assumed


class Level(NamedTuple):
    """One price with what is to be had there. It is never changed: it goes, and another comes."""

    number: int
    side: Side  # BUY: of who wants to buy, at the bid
    price: int  # points
    size_cents: int


class Change(NamedTuple):
    """What came and what went."""

    came: tuple[Level, ...]
    went: tuple[int, ...]  # by number


class Depth:
    """The depth of the symbols for which it was asked."""

    def __init__(self, contracts: Mapping[str, Contract]) -> None:
        self._contracts = contracts
        self._sides: dict[str, dict[Side, tuple[Level, ...]]] = {}

    def whole(self, symbol: str, quote: Quote) -> tuple[Level, ...]:
        """Return all levels of a symbol, given its last quote; from now on its quotes are followed."""
        if symbol not in self._sides:
            self._sides[symbol] = {
                Side.BUY: self._levels(symbol, Side.BUY, quote.time_ms, quote.bid),
                Side.SELL: self._levels(symbol, Side.SELL, quote.time_ms, quote.ask),
            }
        return tuple(level for levels in self._sides[symbol].values() for level in levels)

    def on_spot(self, spot: Spot) -> Change | None:
        """Return what a quote changes, None if its symbol is not followed."""
        sides = self._sides.get(spot.symbol)
        if sides is None:
            return None
        came: list[Level] = []
        went: list[int] = []
        for side, moved, price in (
            (Side.BUY, spot.bid_moved, spot.bid),
            (Side.SELL, spot.ask_moved, spot.ask),
        ):
            if moved:
                went += (level.number for level in sides[side])
                sides[side] = self._levels(spot.symbol, side, spot.time_ms, price)
                came += sides[side]
        return Change(tuple(came), tuple(went))

    def _levels(self, symbol: str, side: Side, time_ms: int, best: int) -> tuple[Level, ...]:
        contract = self._contracts[symbol]
        tick, lot_cents = tick_points(contract), int(contract.lot_units * CENTS)
        first = (time_ms * 2 + (side is Side.SELL)) * len(LOTS)
        return tuple(
            Level(first + rank, side, best - side.sign * rank * tick, lots * lot_cents)
            for rank, lots in enumerate(LOTS)
        )
