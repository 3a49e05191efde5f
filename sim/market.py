"""Small random markets for simulations: few quotes a bar, so that a slice costs little.

A market is fixed by its seed. The symbols that are traded have two quotes a bar (open and close),
the others one: they are there because the columns need all five.
"""

from __future__ import annotations

from functools import lru_cache
from typing import cast

import numpy as np
from numpy.typing import NDArray

from venue.bars import Bar, BarStore
from venue.book import CONTRACTS
from venue.calendar import M5_MS
from venue.market import BarSeries
from venue.playback import Playback, Spot
from venue.ticks import QuotePath, tick_points

Integers = NDArray[np.int64]

FIRST_OPEN_MS = 1_736_150_400_000  # Monday, 6 January 2025, 08:00 UTC
_START_POINTS = {
    "EURUSD": 110_000,
    "GBPUSD": 127_000,
    "USDJPY": 15_000_000,
    "USDCHF": 88_000,
    "XAUUSD": 290_000_000,
}
_STEP_TICKS = 9  # standard deviation of a bar's move
_SPREAD_TICKS = {"EURUSD": 8, "GBPUSD": 12, "USDJPY": 10, "USDCHF": 13, "XAUUSD": 30}
_QUOTE_MS = (0, 294_000)  # after the first quote of a bar


class SparseStore(BarStore):
    """Bars with one or two quotes each."""

    def __init__(self, series: dict[str, BarSeries], *, data_set: str, quoted_often: frozenset[str]) -> None:
        super().__init__(CONTRACTS, series, data_set=data_set)
        self._often = quoted_often
        self.played: dict[int, list[Spot]] = {}  # the quotes of those that were played
        self._spread = {s: ticks * tick_points(CONTRACTS[s]) for s, ticks in _SPREAD_TICKS.items()}
        self._by_open: dict[tuple[str, int], Bar | None] = {}  # those that were asked for one by one
        self._first_ms = {symbol: 40 + 70 * rank for rank, symbol in enumerate(CONTRACTS)}

    def _path(self, series: BarSeries, index: int) -> QuotePath:
        open_, close = int(series.open[index]), int(series.close[index])
        first_ms = int(series.open_time_ms[index]) + self._first_ms[series.symbol]
        if series.symbol not in self._often:
            return QuotePath([first_ms], [open_], [open_ + self._spread[series.symbol]])
        bids = [open_, close]
        spread = self._spread[series.symbol]
        return QuotePath([first_ms + ms for ms in _QUOTE_MS], bids, [bid + spread for bid in bids])

    def bar(self, symbol: str, open_ms: int) -> Bar | None:
        """Return one bar by its open; it is made once for all who ask."""
        place = symbol, open_ms
        if place not in self._by_open:
            found = self.bars(symbol, open_ms, open_ms + 1)
            self._by_open[place] = found[0] if found else None
        return self._by_open[place]


class SparsePlayback(Playback):
    """Plays a market; its quotes are made once for all who play it."""

    def _spots_of_slice(self, open_ms: int) -> list[Spot]:
        slices = cast(SparseStore, self.store).played
        if open_ms not in slices:
            slices[open_ms] = super()._spots_of_slice(open_ms)
        return slices[open_ms]


@lru_cache(maxsize=16)
def sparse_market(seed: int, slices: int, quoted_often: frozenset[str]) -> SparseStore:
    """Return a random market of so many slices without a gap."""
    rng = np.random.default_rng([seed, slices])
    opens = FIRST_OPEN_MS + M5_MS * np.arange(slices, dtype=np.int64)
    series = {s: _series(s, opens, rng, often=s in quoted_often) for s in CONTRACTS}
    return SparseStore(series, data_set=f"sparse-{seed}", quoted_often=quoted_often)


def _series(symbol: str, opens: Integers, rng: np.random.Generator, *, often: bool) -> BarSeries:
    tick = tick_points(CONTRACTS[symbol])
    walk = rng.normal(0, _STEP_TICKS, opens.size).round().astype(np.int64).cumsum()
    close = _START_POINTS[symbol] // tick + walk
    if not often:
        flat = close * tick
        return BarSeries(symbol, opens, flat, flat, flat, flat, np.ones_like(opens))
    open_ = np.concatenate([close[:1], close[:-1]])
    high, low = np.maximum(open_, close), np.minimum(open_, close)
    volume = np.full_like(opens, 2 * len(_QUOTE_MS))
    return BarSeries(symbol, opens, open_ * tick, high * tick, low * tick, close * tick, volume)
