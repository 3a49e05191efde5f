"""A past to learn from: bars, their features in one batch, and the parts it is split into by time."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from services.features.engine import FeatureEngine, MarketRows
from services.gateway.slices import History, bars_of, build_history
from services.inference.chain import SLICES_MIN
from shared.contracts import POINTS_PER_UNIT, Contract
from shared.errors import InputError
from shared.streams import from_milliseconds
from venue.bar_files import load_bars
from venue.book import CONTRACTS, SYMBOLS
from venue.market import BarSeries, synthetic_market
from venue.ticks import path_seed, path_volume, quote_path, spread_points

SPLIT = (0.70, 0.15)  # training and validation; the rest is the test
GAP_SLICES = 288  # left out between the parts: no trade or window reaches over it
LEAK_CORRELATION = 0.25  # with the next bar's return; real columns stay far below

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Dataset:
    """Slices, their features, and all that is needed to trade on them. Prices in points."""

    name: str  # of the data set; the quote paths are drawn from it
    seed: int
    sha256: str
    contracts: Mapping[str, Contract]
    history: History
    rows: MarketRows
    points: Ints  # (n, symbols, 4): open, high, low, close
    spread: Ints  # (n, symbols), at the slice's open

    @property
    def symbols(self) -> tuple[str, ...]:
        """The symbols, in their order."""
        return self.history.symbols

    @property
    def open_time_ms(self) -> Ints:
        """Open times of the slices."""
        return self.history.open_time_ms

    def text_time(self, row: int) -> str:
        """Return a slice's open time, ISO 8601 UTC."""
        return from_milliseconds(int(self.open_time_ms[row])).isoformat()


@dataclass(frozen=True, slots=True)
class Split:
    """Three ranges of slices in time order, with gaps between them."""

    train: range
    validation: range
    test: range


def synthetic_dataset(seed: int, *, slices: int) -> Dataset:
    """Return the seeded random market as a data set; the same seed gives the same one."""
    start = datetime(2022, 1, 2, 22, 0, tzinfo=UTC)
    return make_dataset(synthetic_market(seed, start, slices=slices), name=f"synthetic-{seed}", seed=seed)


def folder_dataset(folder: Path) -> Dataset:
    """Return the bars in a folder as a data set, named after the folder."""
    return make_dataset(load_bars(folder, CONTRACTS), name=folder.resolve().name, seed=0)


def make_dataset(series: Mapping[str, BarSeries], *, name: str, seed: int) -> Dataset:
    """Return bars as a data set, with their features computed in one batch by the live engine.

    Raises:
        InputError: a default symbol is missing, or there are too few slices.
    """
    missing = set(SYMBOLS) - set(series)
    if missing:
        raise InputError(f"{name}: no bars of {', '.join(sorted(missing))}: all five symbols are needed")
    bars = {symbol: _with_volume(series[symbol], name) for symbol in SYMBOLS}
    history = build_history(
        {s: bars_of(s, b.open_time_ms, (b.open, b.high, b.low, b.close), _volume(b)) for s, b in bars.items()}
    )
    if len(history.open_time_ms) < 3 * SLICES_MIN + 4 * GAP_SLICES:
        raise InputError(f"{name}: {len(history.open_time_ms)} slices are too few to train on")
    rows = FeatureEngine(SYMBOLS).advance(history.open_time_ms, history.values, history.synthetic)
    points = np.rint(history.values[:, :, :4] * POINTS_PER_UNIT).astype(np.int64)
    spread = np.array([[spread_points(s, int(t)) for s in SYMBOLS] for t in history.open_time_ms], np.int64)
    digest = hashlib.sha256()
    for array in (history.open_time_ms, points, history.values[:, :, 4].copy(), history.synthetic):
        digest.update(np.ascontiguousarray(array).tobytes())
    return Dataset(name, seed, digest.hexdigest(), CONTRACTS, history, rows, points, spread)


def _with_volume(series: BarSeries, name: str) -> BarSeries:
    """Return the series with tick volumes; where the source has none, those of its quote paths."""
    if series.volume is not None:
        return series
    contract, seed = CONTRACTS[series.symbol], path_seed(name, series.symbol)
    columns = (series.open, series.high, series.low, series.close, series.open_time_ms)
    volumes = [
        path_volume(quote_path(contract, *bar, seed=seed, spread_points=spread_points(series.symbol, bar[4])))
        for bar in zip(*(column.tolist() for column in columns), strict=True)
    ]
    return BarSeries(series.symbol, series.open_time_ms, *columns[:4], np.array(volumes, np.int64))


def _volume(series: BarSeries) -> Ints:
    if series.volume is None:
        raise InputError(f"{series.symbol} has no tick volume")
    return series.volume


def split_of(slices: int) -> Split:
    """Return training, validation and test ranges: in time order, warm-up and gaps left out."""
    first, second = int(slices * SPLIT[0]), int(slices * (SPLIT[0] + SPLIT[1]))
    return Split(
        train=range(SLICES_MIN, first - GAP_SLICES),
        validation=range(first, second - GAP_SLICES),
        test=range(second, slices),
    )


def constant_columns(columns: NDArray[np.float32], names: tuple[str, ...]) -> list[str]:
    """Return the names of columns that never change: they teach nothing and hide a bug."""
    return [names[j] for j in np.flatnonzero(np.ptp(columns, axis=0) == 0.0)]


def leaking_columns(
    columns: NDArray[np.float32], next_return: NDArray[np.float64], names: tuple[str, ...]
) -> list[str]:
    """Return the names of columns that know too much of the next bar's return, in any symbol.

    Args:
        columns: one row a slice.
        next_return: of the bar after it, shape (rows, symbols).
        names: of the columns.
    """
    moving = np.flatnonzero(np.ptp(columns, axis=0) > 0.0)
    x = columns[:, moving].astype(np.float64)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    y = (next_return - next_return.mean(axis=0)) / next_return.std(axis=0)
    worst = np.abs(x.T @ y / len(x)).max(axis=1)
    return [names[moving[j]] for j in np.flatnonzero(worst > LEAK_CORRELATION)]
