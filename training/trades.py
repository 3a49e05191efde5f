"""What became of a trade: entered at the next quote, closed by whichever level the quote path met first."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from shared.contracts import POINTS_PER_UNIT
from training.dataset import Dataset
from venue.calendar import M5_MS
from venue.ticks import QuotePath, TouchReason, first_touch, path_seed, quote_path, tick_points

REQUEST_MS = 300  # from the close to the request's arrival at the venue
BARS_MAX = 2_016  # a week and a half of session; a trade still open then has no result
_CHUNK = 48


@dataclass(frozen=True, slots=True)
class Outcome:
    """A trade from its entry to its end. Prices in points; money per unit, in US dollars."""

    entry_price: int
    exit_price: int
    exit_row: int  # slice in whose bar it closed
    reason: TouchReason
    gross: float
    commission: float  # both sides
    risked: float  # lost at the stop, commissions included

    @property
    def result_r(self) -> float:
        """Net result as a multiple of what was risked."""
        return (self.gross - self.commission) / self.risked


class Market:
    """The prices of a data set as a venue would show them: paths, spreads, conversions."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.contracts = tuple(dataset.contracts[symbol] for symbol in dataset.symbols)
        self.ticks = tuple(tick_points(contract) for contract in self.contracts)
        self.tick_prices = np.array([float(contract.tick) for contract in self.contracts])
        self.conversion = _conversions(dataset)
        self._seeds = tuple(path_seed(dataset.name, symbol) for symbol in dataset.symbols)
        self._fixed = [c.commission_per_unit(Decimal(1), usd_rate=Decimal(1)) for c in self.contracts]
        self._path = lru_cache(maxsize=50_000)(self._make_path)

    def path(self, row: int, k: int) -> QuotePath:
        """Return the quotes of one symbol's bar."""
        return self._path(row, k)

    def _make_path(self, row: int, k: int) -> QuotePath:
        open_, high, low, close = self.dataset.points[row, k].tolist()
        at = int(self.dataset.open_time_ms[row])
        spread = int(self.dataset.spread[row, k])
        return quote_path(
            self.contracts[k], open_, high, low, close, at, seed=self._seeds[k], spread_points=spread
        )

    def entry(self, row: int, k: int, direction: int) -> tuple[int, int] | None:
        """Return time and price of the first quote after a request made at a slice's close.

        None where no quote comes in time: the next bar is absent, as before a weekend.
        """
        times = self.dataset.open_time_ms
        if row + 1 >= len(times) or times[row + 1] != times[row] + M5_MS:
            return None
        if self.dataset.history.synthetic[row + 1, k]:
            return None
        path = self.path(row + 1, k)
        arrival = int(times[row + 1]) + REQUEST_MS
        for time_ms, bid, ask in zip(*path, strict=True):
            if time_ms >= arrival:
                return time_ms, ask if direction > 0 else bid
        return None

    def trade(self, row: int, k: int, direction: int, stop: int, target: int) -> Outcome | None:
        """Return what became of a trade decided at a slice's close, or None if it never had an end.

        Args:
            row: the slice.
            k: the symbol's place.
            direction: +1 or -1.
            stop: distance in points, a multiple of the tick.
            target: likewise.
        """
        entered = self.entry(row, k, direction)
        if entered is None:
            return None
        time_ms, price = entered
        levels = (price - direction * stop, price + direction * target)
        ended = self._walk(row + 1, k, direction, levels, time_ms)
        if ended is None:
            return None
        exit_row, exit_price, reason = ended
        conversion = float(self.conversion[exit_row, k])
        commission = self._commission(price, row, k) + self._commission(exit_price, exit_row, k)
        gross = direction * (exit_price - price) / POINTS_PER_UNIT * conversion
        risked = stop / POINTS_PER_UNIT * float(self.conversion[row, k]) + 2 * self._commission(price, row, k)
        return Outcome(price, exit_price, exit_row, reason, gross, commission, risked)

    def _walk(
        self, first: int, k: int, direction: int, levels: tuple[int, int], entry_ms: int
    ) -> tuple[int, int, TouchReason] | None:
        stop, target = levels
        side: Literal["LONG", "SHORT"] = "LONG" if direction > 0 else "SHORT"
        end = min(first + BARS_MAX, len(self.dataset.points))
        for start in range(first, end, _CHUNK):
            part = slice(start, min(start + _CHUNK, end))
            high, low = self.dataset.points[part, k, 1], self.dataset.points[part, k, 2]
            if direction > 0:
                near = (low <= stop) | (high >= target)
            else:  # a short closes on the ask, which is the bid and the spread, give or take a tick
                spread = self.dataset.spread[part, k]
                near = (high + spread + self.ticks[k] >= stop) | (low + spread - 2 * self.ticks[k] <= target)
            near &= ~self.dataset.history.synthetic[part, k]
            for offset in np.flatnonzero(near).tolist():
                row = start + offset
                touch = first_touch(self.path(row, k), side, stop, target, after_ms=entry_ms)
                if touch is not None:
                    return row, touch.price, touch.reason
        return None

    def _commission(self, price: int, row: int, k: int) -> float:
        """Return one side's commission for one unit, in US dollars."""
        contract = self.contracts[k]
        if contract.commission_kind.value == "USD_PER_LOT":
            return float(self._fixed[k])
        per_dollar = float(self._fixed[k])  # of a unit that is worth one dollar
        return price / POINTS_PER_UNIT * float(self.conversion[row, k]) * per_dollar


def _conversions(dataset: Dataset) -> NDArray[np.float64]:
    """Return US dollars for one unit of each symbol's quote currency at each close, at the worse side."""
    rates = np.ones(dataset.spread.shape)
    for k, symbol in enumerate(dataset.symbols):
        quote = dataset.contracts[symbol].quote_asset
        if quote != "USD":
            through = dataset.symbols.index(f"USD{quote}")
            ask = dataset.points[:, through, 3] + dataset.spread[:, through]
            rates[:, k] = POINTS_PER_UNIT / ask
    return rates
