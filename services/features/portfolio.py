"""The account's columns of the observations: one function for live, backtest and training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from math import isfinite

import numpy as np
from numpy.typing import NDArray

from services.features.indicators import Array
from services.features.schema import ALPHA_PER_SYMBOL, GUARD_PER_SYMBOL
from services.features.squeeze import squeeze_account
from shared.errors import InputError
from shared.messages import BAR_LENGTH, AccountReported, PositionReported
from shared.streams import milliseconds

Floats32 = NDArray[np.float32]

BARS_A_DAY = 288
DISTANCE_CLIP = 20.0
_BAR_MS = BAR_LENGTH // timedelta(milliseconds=1)
_POSITION = slice(13, 20)  # of a symbol's 25 columns: has_position to current_tp


@dataclass(frozen=True, slots=True)
class PortfolioView:
    """The account at a slice's close, as plain numbers; arrays have one value a symbol.

    Positions of any owner count. NaN is a price that there is not: no position, or no such level.
    """

    direction: Array  # -1, 0 or +1
    used_margin: Array
    unrealized_pnl: Array
    age_bars: Array  # whole bars of clock time since the entry
    entry_price: Array
    stop_loss_price: Array
    take_profit_price: Array
    equity: float
    initial_equity: float
    peak_equity: float
    total_used_margin: float
    open_positions: int


def flat_view(symbols: int, equity: float = 1.0) -> PortfolioView:
    """Return the account that has no position and has never lost."""
    zero, none = np.zeros(symbols), np.full(symbols, np.nan)
    return PortfolioView(zero, zero, zero, zero, none, none, none, equity, equity, equity, 0.0, 0)


def fill_portfolio(
    alpha: Floats32, guard: Floats32, view: PortfolioView, close: Array, atr: Array, tick: Array
) -> None:
    """Write the account's columns of one slice into its two rows.

    Args:
        alpha: one row of the Alpha observation; columns 25k+13..19 and the first four global are written.
        guard: one row of the Guard observation, squeezed; drawdown and exposure are written.
        view: the account at the slice's close.
        close: closes of the slice, price units, shape (symbols,).
        atr: Wilder's ATR of 14 bars, price units; distances are measured in it, in a tick at least.
        tick: smallest price step, price units.

    Raises:
        InputError: an equity is not above zero, or a number is not finite.
    """
    if not (view.equity > 0 and view.initial_equity > 0 and view.peak_equity > 0):
        raise InputError(
            f"equity {view.equity}, initial {view.initial_equity}, peak {view.peak_equity}: not above zero"
        )
    symbols = len(close)
    columns = np.empty((symbols, 7))
    columns[:, 0] = view.direction
    columns[:, 1] = view.used_margin / view.equity
    columns[:, 2] = view.unrealized_pnl / view.equity
    columns[:, 3] = view.age_bars / BARS_A_DAY
    columns[:, 4] = view.entry_price
    columns[:, 5] = view.stop_loss_price
    columns[:, 6] = view.take_profit_price
    distances = (columns[:, 4:] - close[:, None]) / np.maximum(atr, tick)[:, None]
    distances[np.isnan(distances) | (columns[:, :1] == 0.0)] = 0.0
    columns[:, 4:] = np.minimum(np.maximum(distances, -DISTANCE_CLIP), DISTANCE_CLIP)
    drawdown = 1.0 - view.equity / view.peak_equity
    usage = view.total_used_margin / view.equity
    account = (view.equity / view.initial_equity, usage, drawdown, float(view.open_positions))
    if not (np.isfinite(columns).all() and all(map(isfinite, account))):
        raise InputError(f"the account has a number that is not finite: {view}")
    alpha[: ALPHA_PER_SYMBOL * symbols].reshape(symbols, ALPHA_PER_SYMBOL)[:, _POSITION] = columns
    first = ALPHA_PER_SYMBOL * symbols
    alpha[first : first + len(account)] = account
    guard[GUARD_PER_SYMBOL * symbols + 3 :] = squeeze_account(drawdown, usage)


def view_of(account: AccountReported, symbols: Sequence[str], close_time_ms: int) -> PortfolioView:
    """Return an account entry as plain numbers.

    Where a symbol has several positions, as a hedging account may, margins and results add up;
    direction, age and prices are those of the one with the most margin, of two equals the older.
    Positions in symbols that are not the book's count in the account's columns only.
    """
    direction, used_margin, unrealized_pnl, age_bars = np.zeros((4, len(symbols)))
    prices = np.full((3, len(symbols)), np.nan)
    leading: dict[int, PositionReported] = {}
    for position in sorted(account.positions, key=lambda p: (-p.used_margin, p.entry_time, p.position_id)):
        if position.symbol not in symbols:
            continue
        k = symbols.index(position.symbol)
        leading.setdefault(k, position)
        used_margin[k] += float(position.used_margin)
        unrealized_pnl[k] += float(position.unrealized_pnl)
    for k, position in leading.items():
        direction[k] = position.direction.sign
        age_bars[k] = max(0, (close_time_ms - milliseconds(position.entry_time)) // _BAR_MS)
        levels = (position.entry_price, position.stop_loss_price, position.take_profit_price)
        prices[:, k] = [np.nan if level is None else float(level) for level in levels]
    return PortfolioView(
        direction=direction,
        used_margin=used_margin,
        unrealized_pnl=unrealized_pnl,
        age_bars=age_bars,
        entry_price=prices[0],
        stop_loss_price=prices[1],
        take_profit_price=prices[2],
        equity=float(account.equity),
        initial_equity=float(account.initial_equity),
        peak_equity=float(account.peak_equity),
        total_used_margin=float(account.used_margin),
        open_positions=len(account.positions),
    )
