"""The Guard observation's squeeze: raw columns made dimensionless, for the market and for a candidate."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from services.features.schema import GUARD_MARKET, GUARD_PER_SYMBOL

Array = NDArray[np.float64]

EPSILON = 1e-6
ACTION, PERSISTENCE, REVERSAL, SL_SIZE, RR = range(GUARD_MARKET, GUARD_PER_SYMBOL)
_MACD = 8
_INF = np.inf

# clip((x - offset) / scale, low, high) / divisor, one row a column of a symbol, in the schema's order
_OFFSET, _SCALE, _LOW, _HIGH, _DIVISOR = np.array(
    [
        (0.0, 1.0, 0.0, 5.0, 5.0),  # rel_volume
        (0.2, 2.8, 0.0, 1.0, 1.0),  # vol_ratio
        (0.0, 100.0, -_INF, _INF, 1.0),  # directional_strength
        (0.0, 1.0, 0.0, 1.0, 1.0),  # efficiency
        (0.0, 0.2, -1.0, 1.0, 1.0),  # dist_ma200
        (0.0, 0.1, 0.0, 1.0, 1.0),  # bb_width
        (50.0, 50.0, -_INF, _INF, 1.0),  # rsi
        (0.0, 1.0, 0.0, 1.0, 1.0),  # bb_position
        (0.0, 1.0, -3.0, 3.0, 3.0),  # macd_diff, in ATRg
        (0.0, 0.05, -1.0, 1.0, 1.0),  # ema_align
        (0.0, 1.0, 0.0, 1.0, 1.0),  # body_ratio
        (0.0, 1.0, 0.0, 5.0, 5.0),  # upper_wick
        (0.0, 1.0, 0.0, 5.0, 5.0),  # lower_wick
        (0.0, 1.0, -5.0, 5.0, 5.0),  # velocity
        (0.0, 0.02, 0.0, 1.0, 1.0),  # range_pct
        (0.0, 1.0, -_INF, _INF, 1.0),  # action
        (0.0, 10.0, 0.0, 1.0, 1.0),  # signal_persistence
        (0.0, 1.0, -_INF, _INF, 1.0),  # signal_reversal
        (0.0, 2.0, 0.0, 1.0, 1.0),  # sl_size
        (0.0, 4.0, 0.0, 1.0, 1.0),  # rr
    ]
).T.copy()


def _squeeze(raw: Array, columns: slice) -> Array:
    scaled = np.maximum((raw - _OFFSET[columns]) / _SCALE[columns], _LOW[columns])
    return np.asarray(np.minimum(scaled, _HIGH[columns]) / _DIVISOR[columns])


def squeeze_market(raw: Array, atr_guard: Array) -> Array:
    """Return the 15 market columns of each symbol, squeezed.

    Args:
        raw: shape (..., symbols, 15).
        atr_guard: shape (..., symbols); MACD is measured in it. Where it is 0 (no bar moved for 14
            bars) MACD counts as its limit, and as 0 when it is 0 too.
    """
    scaled = raw.copy()
    with np.errstate(divide="ignore", invalid="ignore"):
        macd = raw[..., _MACD] / atr_guard
    scaled[..., _MACD] = np.where(np.isnan(macd), 0.0, macd)
    return _squeeze(scaled, slice(0, GUARD_MARKET))


def squeeze_candidate(
    action: ArrayLike, persistence: ArrayLike, reversal: ArrayLike, sl_size: ArrayLike, rr: ArrayLike
) -> Array:
    """Return the five columns that a candidate trade adds to a symbol, squeezed, shape (..., 5).

    Args:
        action: direction of the candidate, -1 or +1, in its own symbol; 0 in the others.
        persistence: consecutive previous bars with the same non-zero direction.
        reversal: 1 if the previous bar's direction was the opposite non-zero one, else 0.
        sl_size: stop distance in percent of the price, in the candidate's own symbol; 0 in the others.
        rr: target distance over stop distance, likewise; see `reward_to_risk`.
    """
    columns = np.broadcast_arrays(
        *(np.asarray(c, np.float64) for c in (action, persistence, reversal, sl_size, rr))
    )
    return _squeeze(np.stack(columns, axis=-1), slice(GUARD_MARKET, GUARD_PER_SYMBOL))


def stop_percent(stop_distance: float, price: float) -> float:
    """Return the raw sl_size: the stop distance in percent of the price."""
    return 100.0 * stop_distance / price


def reward_to_risk(target_distance: float, stop_distance: float) -> float:
    """Return the raw rr: target distance over stop distance."""
    return target_distance / (stop_distance + EPSILON)


def squeeze_account(drawdown: float, exposure: float) -> tuple[float, float]:
    """Return the two account columns: drawdown, and used margin over equity in fifths."""
    return min(max(drawdown, 0.0), 1.0), min(max(exposure / 5.0, 0.0), 1.0)
