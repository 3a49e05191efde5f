"""The market columns of the two observations, from the series of a block of slices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from services.features import indicators as ind
from services.features import squeeze
from services.features.indicators import Array, Ints
from services.features.schema import (
    ALPHA_GLOBALS,
    ALPHA_PER_SYMBOL,
    GUARD_GLOBALS,
    GUARD_MARKET,
    GUARD_PER_SYMBOL,
)
from services.features.series import SCALED_GLOBALS, SCALED_PER_SYMBOL, Block

_SCALED_COLUMNS = np.array([0, 1, 2, 3, 4, 6, 7, 10, 11, 12])  # of a symbol's 25, in the order of `unscaled`
_CORRELATIONS = np.array([20, 22, 23])  # with the basket, gold and the euro
_SESSIONS = ((0, 9), (8, 17), (13, 22), (13, 17))  # Asia, London, New York, the last two together


def alpha_columns(b: Block, symbols: Sequence[str], open_time_ms: Ints) -> tuple[Array, Array]:
    """Return the Alpha columns, undefined as NaN, and what the robust scaling runs over."""
    count = len(symbols)
    euro, pound, gold = (symbols.index(name) for name in ("EURUSD", "GBPUSD", "XAUUSD"))
    all_returns = b.close[-b.rows - 49 :] / b.close[-b.rows - 50 : -1] - 1.0
    basket = ind.row_sum(all_returns) / count
    return_1, return_12 = all_returns[-b.rows :], b.now / b.close[-b.rows - 12 : -12] - 1.0
    atr_ratio = b.atr / (ind.trailing(b.atrs, 20).sum(axis=-1) / 20)
    volume_mean = ind.trailing(b.volume[-b.rows - 19 :], 20).sum(axis=-1) / 20
    volume_ratio = np.where(volume_mean == 0.0, 0.0, b.volume[-b.rows :] / volume_mean)
    spread = return_1 - (ind.row_sum(return_1) / count)[:, None]

    raw = np.empty((b.rows, SCALED_PER_SYMBOL * count + SCALED_GLOBALS))
    per_symbol = raw[:, :-SCALED_GLOBALS].reshape(b.rows, SCALED_PER_SYMBOL, count)
    series = (
        b.now,
        return_1,
        return_12,
        b.atr,
        atr_ratio,
        b.ema9,
        b.ema21,
        b.rsi,
        b.macd_hist,
        volume_ratio,
    )
    for place, values in enumerate(series):
        per_symbol[:, place] = values
    raw[:, -3] = (return_1[:, pound] + return_1[:, gold]) / 2
    raw[:, -2] = np.sqrt(ind.row_sum(spread * spread) / (count - 1))
    raw[:, -1] = ind.row_sum(atr_ratio) / count
    unscaled = np.concatenate([b.state.unscaled, raw])
    scaled = ind.robust_scale(ind.trailing(unscaled, ind.ROBUST_ROWS))

    alpha = np.zeros((b.rows, ALPHA_PER_SYMBOL * count + len(ALPHA_GLOBALS)))
    columns = alpha[:, : ALPHA_PER_SYMBOL * count].reshape(b.rows, count, ALPHA_PER_SYMBOL)
    market = scaled[:, :-SCALED_GLOBALS].reshape(b.rows, SCALED_PER_SYMBOL, count)
    columns[:, :, _SCALED_COLUMNS] = market.transpose(0, 2, 1)
    columns[:, :, 5] = (2.0 * b.deviation - b.mean_from_close) / (4.0 * b.deviation)
    columns[:, :, 8] = (b.now - b.ema9) / b.ema9
    columns[:, :, 9] = (b.ema9 - b.ema21) / b.ema21
    together = ind.trailing(np.column_stack([all_returns, basket]), 50)
    columns[:, :, _CORRELATIONS] = ind.correlations(together, (count, gold, euro))[:, :count]
    columns[:, :, 21] = return_1 - basket[-b.rows :, None]
    columns[:, :, 24] = ind.average_rank(return_12)
    columns = alpha[:, ALPHA_PER_SYMBOL * count :]
    columns[:, 4:7] = scaled[:, -SCALED_GLOBALS:]
    columns[:, 7:9], columns[:, 9:11] = ind.hour_circle(open_time_ms), ind.day_circle(open_time_ms)
    hour = ind.hours_of(open_time_ms)
    for place, (first, last) in enumerate(_SESSIONS, start=11):
        columns[:, place] = (hour >= first) & (hour < last)
    return alpha, unscaled


def guard_columns(b: Block, symbols: Sequence[str], open_time_ms: Ints) -> tuple[Array, Array]:
    """Return the Guard columns raw and squeezed; the candidate's and the account's are zero."""
    count = len(symbols)
    open_, high, low, close, _ = b.bars.transpose(2, 0, 1)
    atr_guard = b.atr_guard[-b.rows :]
    eps = squeeze.EPSILON
    volume_mean = ind.trailing(b.volume, 50).sum(axis=-1) / 50
    up, down = (
        100.0 * (ind.trailing(np.maximum(moves, 0.0), 14).sum(axis=-1) / 14) / (atr_guard + eps)
        for moves in (b.moves(b.high), b.moves(-b.low))
    )
    path = ind.trailing(np.abs(b.close[-b.rows - 19 :] - b.close[-b.rows - 20 : -1]), 20).sum(axis=-1)
    long_mean = ind.trailing(ind.zero_undefined(b.close), 200).sum(axis=-1) / np.minimum(b.seen, 200)
    body = np.abs(close - open_)
    mean = close + b.mean_from_close

    raw = np.zeros((b.rows, GUARD_PER_SYMBOL * count + len(GUARD_GLOBALS)))
    market = raw[:, : GUARD_PER_SYMBOL * count].reshape(b.rows, count, GUARD_PER_SYMBOL)
    market = market[:, :, :GUARD_MARKET]
    market[:, :, 0] = b.volume[-b.rows :] / (volume_mean + eps)
    market[:, :, 1] = atr_guard / (ind.trailing(b.atr_guard, 50).sum(axis=-1) / np.minimum(b.seen, 50) + eps)
    market[:, :, 2] = 100.0 * np.abs(up - down) / (up + down + eps)
    market[:, :, 3] = np.abs(close - b.close[-b.rows - 20 : -20]) / (path + eps)
    market[:, :, 4] = (close - long_mean) / (long_mean + eps)
    market[:, :, 5] = 4.0 * np.sqrt(b.squares / 19) / (mean + eps)
    market[:, :, 6] = b.rsi
    market[:, :, 7] = (2.0 * b.deviation - b.mean_from_close) / (4.0 * b.deviation + eps)
    market[:, :, 8] = b.macd_hist
    market[:, :, 9] = (b.biased9 - b.biased21) / (b.biased21 + eps)
    market[:, :, 10] = body / (high - low + eps)
    market[:, :, 11] = (high - np.maximum(open_, close)) / (body + eps)
    market[:, :, 12] = (np.minimum(open_, close) - low) / (body + eps)
    market[:, :, 13] = (close - b.close[-b.rows - 5 : -5]) / (atr_guard + eps)
    market[:, :, 14] = (high - low) / (close + eps)
    market[np.isnan(market)] = 0.0
    hour = ind.hours_of(open_time_ms)
    columns = raw[:, GUARD_PER_SYMBOL * count :]
    columns[:, :2] = ind.hour_circle(open_time_ms)
    columns[:, 2] = (hour >= 13) & (hour < 18)
    squeezed = raw.copy()
    tight = squeezed[:, : GUARD_PER_SYMBOL * count].reshape(b.rows, count, GUARD_PER_SYMBOL)
    tight[:, :, :GUARD_MARKET] = squeeze.squeeze_market(market, atr_guard)
    return raw, squeezed
