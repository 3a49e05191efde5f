"""Indicators over trailing windows and running states: the same bits for one row as for a thousand.

A value depends on its own window alone: windows are copied, contiguous and reduced over their last axis,
so the order of the additions is the same however many rows are asked for at once. Recursions go row by
row. Undefined is NaN, and stays NaN through what is computed from it.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

ROBUST_ROWS = 50
ROBUST_CLIP = 5.0
ROBUST_MIN_IQR = 1e-6
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
EPOCH_WEEKDAY = 3  # 1970-01-01 was a Thursday; Monday is 0

# Looked up, not computed: a vectorised sine may differ in its last bit with the length of the vector.
_HOUR = np.array([(math.sin(a), math.cos(a)) for a in (2 * math.pi * h / 24 for h in range(24))])
_DAY = np.array([(math.sin(a), math.cos(a)) for a in (2 * math.pi * d / 7 for d in range(7))])


def trailing(values: Array, width: int) -> Array:
    """Return each row's window, itself last: (rows + width - 1, k) in, (rows, k, width) out, a copy."""
    values = np.ascontiguousarray(values)
    rows, columns = values.shape[0] - width + 1, values.shape[1]
    step, item = values.strides
    view: Array = np.ndarray((rows, columns, width), np.float64, values, 0, (step, item, step))
    return view.copy()


def smooth(inputs: Array, weight: Array, previous: Array) -> Array:
    """Return y = y₋₁ + weight·(x - y₋₁) for every row, starting from `previous`.

    Seeded with the first value (`previous` = first row) this is the EMA that is not bias-adjusted;
    from zero, divided by the same recursion over ones, it is the bias-adjusted one.
    """
    out = np.empty_like(inputs)
    for row, y in zip(inputs, out, strict=True):
        np.subtract(row, previous, y)
        np.multiply(y, weight, y)
        np.add(y, previous, y)
        previous = y
    return out


def true_range(high: Array, low: Array, previous_close: Array) -> Array:
    """Return max(h-l, |h-c₋₁|, |l-c₋₁|); NaN where there is no close before."""
    return np.asarray(np.maximum(high, previous_close) - np.minimum(low, previous_close))


def average_true_range(
    ranges: Array, previous: Array, first_row: int, *, period: int = 14
) -> tuple[Array, Array]:
    """Return Wilder's ATR of every row, and the state to go on from.

    Args:
        ranges: true ranges of consecutive rows, shape (rows, symbols).
        previous: the state before them: the ATR, or before row `period - 1` the sum of the ranges so far.
        first_row: how many rows of the history came before; 0.0 is returned before row `period - 1`.
        period: bars in the average.

    Source: J. W. Wilder (1978), New Concepts in Technical Trading Systems.
    """
    out = np.zeros_like(ranges)
    state = previous
    for row, current in enumerate(ranges, start=first_row):
        if row < period:
            state = state + current
            if row < period - 1:
                continue
        else:
            state = state * (period - 1) + current
        state = state / period
        out[row - first_row] = state
    return out, state


def relative_strength(gain: Array, loss: Array) -> Array:
    """Return the RSI of smoothed gains and losses, 0 to 100; 100 where the smoothed loss is 0."""
    flat = loss == 0.0
    return np.asarray(np.where(flat, 100.0, 100.0 - 100.0 / (1.0 + gain / np.where(flat, 1.0, loss))))


def mean_and_squares(window: Array) -> tuple[Array, Array]:
    """Return (mean - last value, sum of squared deviations) of each window.

    Measured from the last value, so that a window of one price has a deviation of exactly zero.
    """
    shifted = window - window[..., -1:]
    mean = shifted.sum(axis=-1) / window.shape[-1]
    shifted -= mean[..., None]
    np.multiply(shifted, shifted, shifted)
    return mean, np.asarray(shifted.sum(axis=-1))


def robust_scale(window: Array) -> Array:
    """Return (last value - median)/(q75 - q25) of each window, clipped to ±5; NaN if one value is.

    Quantiles are linear between the sorted values. An interquartile range of exactly 0 counts as 1e-6.
    """
    ordered = np.sort(window, axis=-1)
    size = window.shape[-1]
    low, middle, high = (_quantile(ordered, q * (size - 1)) for q in (0.25, 0.5, 0.75))
    iqr = high - low
    iqr[iqr == 0.0] = ROBUST_MIN_IQR
    scaled = np.minimum(np.maximum((window[..., -1] - middle) / iqr, -ROBUST_CLIP), ROBUST_CLIP)
    scaled[np.isnan(ordered[..., -1])] = np.nan  # NaN sorts last
    return np.asarray(scaled)


def _quantile(ordered: Array, position: float) -> Array:
    below = int(position)
    low, high = ordered[..., below], ordered[..., below + 1]
    return np.asarray(low + (high - low) * (position - below))


def correlations(window: Array, against: tuple[int, ...]) -> Array:
    """Return the correlation of each series with those of `against`, shape (rows, series, against).

    Args:
        window: (rows, series, width).
        against: indices of series. NaN where one of the two does not move.
    """
    deviation = window - (window.sum(axis=-1) / window.shape[-1])[..., None]
    size = np.sqrt((deviation * deviation).sum(axis=-1))
    out = np.empty((*window.shape[:2], len(against)))
    with np.errstate(invalid="ignore"):
        for k, other in enumerate(against):
            together = (deviation * deviation[:, other : other + 1]).sum(axis=-1)
            out[..., k] = together / (size * size[:, other : other + 1])
    return np.asarray(np.minimum(np.maximum(out, -1.0), 1.0))


def average_rank(values: Array) -> Array:
    """Return the rank of each value in its row, 1 the highest, ties averaged; NaN if one value is."""
    mine, others = values[:, :, None], values[:, None, :]
    higher = np.count_nonzero(others > mine, axis=-1)
    tied = np.count_nonzero(others == mine, axis=-1)  # itself too
    undefined = np.isnan(values).any(axis=-1, keepdims=True)
    return np.asarray(np.where(undefined, np.nan, higher + 0.5 * (tied + 1)))


def row_sum(values: Array) -> Array:
    """Return the sum over the last axis, added from left to right."""
    total = values[..., 0].copy()
    for k in range(1, values.shape[-1]):
        total += values[..., k]
    return total


def zero_undefined(values: Array) -> Array:
    """Return the values with 0 in place of NaN."""
    return np.asarray(np.where(np.isnan(values), 0.0, values))


def forward_fill(values: Array, last: Array) -> Array:
    """Return the rows with NaN replaced by the value above it; `last` stands above the first row."""
    undefined = np.isnan(values)
    if not undefined.any():
        return values
    stacked = np.concatenate([last[None], values])
    source = np.where(undefined, 0, np.arange(1, len(stacked))[:, None])
    np.maximum.accumulate(source, axis=0, out=source)
    return np.asarray(np.take_along_axis(stacked, source, axis=0))


def bars_since_flat_run(
    synthetic: Bools, run: Ints, real: Ints, *, run_length: int = 3, cap: int = 10_000
) -> tuple[Ints, Ints]:
    """Return the real bars since each symbol's last run of synthetic ones, and the run at the last row.

    Args:
        synthetic: (rows, symbols).
        run: synthetic bars in a row before the first row, shape (symbols,).
        real: the count before the first row, shape (symbols,).
        run_length: synthetic bars in a row from which a run counts.
        cap: the largest count, and the count where there was no run.
    """
    out = np.empty(synthetic.shape, np.int64)
    if not synthetic.any():
        out[:] = np.minimum(real + np.arange(1, len(out) + 1)[:, None], cap)
        return out, np.zeros_like(run)
    for row, flat in enumerate(synthetic):
        run = np.where(flat, run + 1, 0)
        real = np.where(run >= run_length, 0, np.minimum(real + ~flat, cap))
        out[row] = real
    return out, run


def hours_of(open_time_ms: Ints) -> Ints:
    """Return the whole hour, UTC, of each time."""
    return open_time_ms // HOUR_MS % 24


def hour_circle(open_time_ms: Ints) -> Array:
    """Return sine and cosine of the whole hour as an angle, shape (rows, 2)."""
    return np.asarray(_HOUR[hours_of(open_time_ms)])


def day_circle(open_time_ms: Ints) -> Array:
    """Return sine and cosine of the weekday as an angle, Monday 0, shape (rows, 2)."""
    return np.asarray(_DAY[(open_time_ms // DAY_MS + EPOCH_WEEKDAY) % 7])
