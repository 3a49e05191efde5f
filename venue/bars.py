"""The bars that the venue plays, and the quotes and tick volumes that follow from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from shared.contracts import Contract
from shared.errors import InputError
from venue.calendar import M5_MS
from venue.market import BarSeries
from venue.ticks import QuotePath, path_seed, path_volume, quote_path, spread_points


class Bar(NamedTuple):
    """A bid bar in points; `volume` is its tick volume."""

    open_ms: int
    open: int
    high: int
    low: int
    close: int
    volume: int


class BarStore:
    """The whole market, by symbol in the venue's order; the series may be mapped from files."""

    def __init__(
        self, contracts: Mapping[str, Contract], series: Mapping[str, BarSeries], *, data_set: str
    ) -> None:
        self.contracts = contracts
        self.data_set = data_set
        self._series = {symbol: series[symbol] for symbol in contracts}
        self._opens = np.unique(np.concatenate([each.open_time_ms for each in self._series.values()]))
        if self._opens.size == 0:
            raise InputError(f"the data set {data_set} has no bars")

    @property
    def slices(self) -> int:
        """How many slices there are."""
        return int(self._opens.size)

    def slice_open(self, number: int) -> int:
        """Return the open of a slice by its number, from 0."""
        return int(self._opens[number])

    def next_open(self, from_ms: int) -> int | None:
        """Return the open of the first slice at or after a time, None after the last one."""
        index = int(np.searchsorted(self._opens, from_ms))
        return int(self._opens[index]) if index < self._opens.size else None

    def path(self, symbol: str, open_ms: int) -> tuple[QuotePath, Bar] | None:
        """Return the quotes of one bar, and the bar; None where there is none."""
        series = self._series[symbol]
        index = int(np.searchsorted(series.open_time_ms, open_ms))
        if index == series.open_time_ms.size or series.open_time_ms[index] != open_ms:
            return None
        path = self._path(series, index)
        return path, _bar(series, index, path)

    def bars(self, symbol: str, from_ms: int, until_ms: int, count: int | None = None) -> list[Bar]:
        """Return the bars that open in [from_ms, until_ms), ascending; the last `count` of them."""
        series = self._series[symbol]
        first, end = series.open_time_ms.searchsorted((from_ms, until_ms)).tolist()
        if count is not None:
            first = max(first, end - count)
        modelled = series.volume is None
        return [
            _bar(series, index, self._path(series, index) if modelled else None)
            for index in range(first, end)
        ]

    def last_path_before(self, symbol: str, time_ms: int) -> QuotePath | None:
        """Return the path of the last bar that was over by then, None if there is none."""
        series = self._series[symbol]
        index = int(np.searchsorted(series.open_time_ms, time_ms - M5_MS, side="right")) - 1
        return self._path(series, index) if index >= 0 else None

    def next_bar_open(self, symbol: str, from_ms: int) -> int | None:
        """Return the open of the symbol's first bar at or after a time, None after the last one."""
        opens = self._series[symbol].open_time_ms
        index = int(np.searchsorted(opens, from_ms))
        return int(opens[index]) if index < opens.size else None

    def opens(self, symbol: str, from_ms: int, to_ms: int) -> list[int]:
        """Return when the bars open that do so in [from_ms, to_ms], ascending."""
        opens = self._series[symbol].open_time_ms
        first, end = np.searchsorted(opens, (from_ms, to_ms + 1)).tolist()
        found: list[int] = opens[first:end].tolist()
        return found

    def _path(self, series: BarSeries, index: int) -> QuotePath:
        open_ms = int(series.open_time_ms[index])
        return quote_path(
            self.contracts[series.symbol],
            int(series.open[index]),
            int(series.high[index]),
            int(series.low[index]),
            int(series.close[index]),
            open_ms,
            seed=path_seed(self.data_set, series.symbol),
            spread_points=spread_points(series.symbol, open_ms),
        )


def _bar(series: BarSeries, index: int, path: QuotePath | None) -> Bar:
    """Return a bar with the source's tick volume, or the path's where the source has none."""
    if series.volume is not None:
        volume = int(series.volume[index])
    else:
        volume = path_volume(path) if path is not None else 0
    return Bar(
        int(series.open_time_ms[index]),
        int(series.open[index]),
        int(series.high[index]),
        int(series.low[index]),
        int(series.close[index]),
        volume,
    )
