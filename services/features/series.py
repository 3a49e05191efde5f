"""The series that both observations rest on: windows and recursions, and the state they carry on."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from services.features import indicators as ind
from services.features.indicators import Array

NO_FLAT_RUN = 10_000  # real bars since the last flat run, where there was none
SCALED_PER_SYMBOL = 10
SCALED_GLOBALS = 3
REACH = {"moves": 14, "close": 199, "volume": 49, "atr": 19, "atr_guard": 49, "unscaled": 49}

# What `smooth` runs over, each with its weight: four EMAs of the close, gain, loss, and the two
# bias-adjusted EMAs with the ones that adjust them.
_EMA9, _EMA21, _EMA12, _EMA26, _GAIN, _LOSS, _BIASED9, _BIASED21, _ONES9, _ONES21 = range(10)
_WEIGHTS = np.array([2 / 10, 2 / 22, 2 / 13, 2 / 27, 1 / 14, 1 / 14, 2 / 10, 2 / 22, 2 / 10, 2 / 22])
_SIGNAL_WEIGHT = np.array(2 / 10)
_SIGNAL_FROM = 25  # first row of MACD: the slow EMA of 26 is defined


@dataclass(frozen=True, slots=True)
class State:
    """All that later rows need of earlier ones; never changed in place."""

    high: Array
    low: Array
    close: Array
    volume: Array
    atr: Array
    atr_guard: Array
    unscaled: Array
    smoothed: Array
    signal: Array
    wilder: Array
    filled: Array
    flat_run: Array
    real_bars: Array
    slices_seen: Array
    last_time_ms: Array


def empty_state(symbols: int, columns: int) -> State:
    """Return the state before the first slice: windows undefined, those of shorter means zero."""

    def undefined(rows: int, width: int = symbols) -> Array:
        return np.full((rows, width), np.nan)

    return State(
        high=undefined(REACH["moves"]),
        low=undefined(REACH["moves"]),
        close=undefined(REACH["close"]),
        volume=undefined(REACH["volume"]),
        atr=undefined(REACH["atr"]),
        atr_guard=np.zeros((REACH["atr_guard"], symbols)),
        unscaled=undefined(REACH["unscaled"], SCALED_PER_SYMBOL * symbols + SCALED_GLOBALS),
        smoothed=np.zeros((len(_WEIGHTS), symbols)),
        signal=np.zeros(symbols),
        wilder=np.zeros(symbols),
        filled=np.zeros(columns),
        flat_run=np.zeros(symbols),
        real_bars=np.full(symbols, float(NO_FLAT_RUN)),
        slices_seen=np.zeros(1),
        last_time_ms=np.full(1, -1.0),
    )


class Block:
    """The series that both observations rest on, for one block of rows and what they reach back to.

    Those named like a price (`close`, `high` ...) begin with the state's rows; the others have the
    block's rows only. Shapes are (rows, symbols).
    """

    def __init__(self, state: State, bars: Array) -> None:
        self.state, self.bars, self.rows = state, bars, len(bars)
        self.first = int(state.slices_seen[0])
        self.seen = np.arange(self.first + 1, self.first + self.rows + 1)[:, None]
        self.high = np.concatenate([state.high, bars[:, :, 1]])
        self.low = np.concatenate([state.low, bars[:, :, 2]])
        self.close = np.concatenate([state.close, bars[:, :, 3]])
        self.volume = np.concatenate([state.volume, bars[:, :, 4]])
        self.now = self.close[-self.rows :]
        self._ranges()
        self._recursions()
        self.mean_from_close, self.squares = ind.mean_and_squares(
            ind.trailing(self.close[-self.rows - 19 :], 20)
        )
        self.deviation = np.sqrt(self.squares / 20)

    def moves(self, prices: Array) -> Array:
        """Return the change from row to row; the first bar of a history has none, which counts as 0."""
        change = prices[1:] - prices[:-1]
        if self.first < REACH["moves"]:
            change[-self.rows - self.first] = 0.0
        return change

    def _ranges(self) -> None:
        reach = self.rows + 13
        ranges = ind.true_range(self.high[-reach:], self.low[-reach:], self.close[-reach - 1 : -1])
        # the first bar has no close before it: its range is h-l for Wilder and 0 for the simple mean
        wilder = np.where(np.isnan(ranges), self.high[-reach:] - self.low[-reach:], ranges)[-self.rows :]
        self.atr, self.wilder_state = ind.average_true_range(wilder, self.state.wilder, self.first)
        self.atrs = np.concatenate([self.state.atr, self.atr])
        simple = ind.trailing(ind.zero_undefined(ranges), 14).sum(axis=-1) / np.minimum(self.seen, 14)
        self.atr_guard = np.concatenate([self.state.atr_guard, simple])

    def _recursions(self) -> None:
        change = ind.zero_undefined(self.now - self.close[-self.rows - 1 : -1])  # the first bar has none: 0
        inputs = np.empty((self.rows, len(_WEIGHTS), self.now.shape[1]))
        inputs[:, _EMA9 : _EMA26 + 1] = self.now[:, None]
        inputs[:, _GAIN], inputs[:, _LOSS] = np.maximum(change, 0.0), np.maximum(-change, 0.0)
        inputs[:, _BIASED9 : _BIASED21 + 1] = self.now[:, None]
        inputs[:, _ONES9:] = 1.0
        previous = self.state.smoothed
        if self.first == 0:
            previous = previous.copy()
            previous[_EMA9 : _EMA26 + 1] = self.now[0]
        self.smoothed = ind.smooth(inputs, _WEIGHTS[:, None], previous)
        ema9, ema21, fast, slow, gain, loss, biased9, biased21, ones9, ones21 = self.smoothed.transpose(
            1, 0, 2
        )
        self.biased9, self.biased21 = biased9 / ones9, biased21 / ones21
        macd = fast - slow
        start = min(max(_SIGNAL_FROM - self.first, 0), self.rows)
        before = macd[start] if self.first <= _SIGNAL_FROM and start < self.rows else self.state.signal
        signal = ind.smooth(macd[start:], _SIGNAL_WEIGHT, before)
        self.signal_state = signal[-1].copy() if len(signal) else self.state.signal
        macd[start:] -= signal
        self.ema9, self.ema21 = self._defined(ema9, 8), self._defined(ema21, 20)
        self.rsi = self._defined(ind.relative_strength(gain, loss), 13)
        self.macd_hist = self._defined(macd, _SIGNAL_FROM + 8)

    def _defined(self, values: Array, first_row: int) -> Array:
        """Make the rows of the history before `first_row` undefined."""
        if self.first < first_row:
            values = values.copy()
            values[: first_row - self.first] = np.nan
        return values


def parts_of(state: State) -> list[Array]:
    """Return the arrays of a state, in the order of its fields."""
    return [getattr(state, field.name) for field in fields(state)]
