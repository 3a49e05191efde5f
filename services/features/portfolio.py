"""The account's columns of the observations: one function for live, backtest and training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from math import isfinite, isnan

import numpy as np
from numpy.typing import NDArray

from services.features.schema import ALPHA_PER_SYMBOL, GUARD_PER_SYMBOL
from services.features.squeeze import squeeze_account
from shared.errors import InputError
from shared.messages import BAR_LENGTH, AccountReported
from shared.streams import milliseconds

Floats32 = NDArray[np.float32]

BARS_A_DAY = 288
DISTANCE_CLIP = 20.0
_BAR_MS = BAR_LENGTH // timedelta(milliseconds=1)
_POSITION = slice(13, 20)  # of a symbol's 25 columns: has_position to current_tp


@dataclass(slots=True)
class Held:
    """What is held of one symbol, as plain numbers."""

    direction: int  # -1 or +1
    used_margin: float
    unrealized_pnl: float
    age_bars: int  # whole bars of clock time since the entry
    levels: tuple[float | None, float | None, float | None]  # entry, stop, target; None: there is no such


@dataclass(frozen=True, slots=True)
class PortfolioView:
    """The account at a slice's close, as plain numbers. Positions of any owner count."""

    held: Mapping[int, Held]  # by place in symbol order; what is not held is not in it
    equity: float
    initial_equity: float
    peak_equity: float
    total_used_margin: float
    open_positions: int


def flat_view(equity: float = 1.0) -> PortfolioView:
    """Return the account that has no position and has never lost."""
    return PortfolioView({}, equity, equity, equity, 0.0, 0)


def fill_portfolio(
    alpha: Floats32,
    guard: Floats32,
    view: PortfolioView,
    close: Sequence[float],
    atr: Sequence[float],
    tick: Sequence[float],
) -> None:
    """Write the account's columns of one slice into its two rows. It has few positions: no array pays.

    Args:
        alpha: one row of the Alpha observation; columns 25k+13..19 and the first four global are written.
        guard: one row of the Guard observation, squeezed; drawdown and exposure are written.
        view: the account at the slice's close.
        close: closes of the slice, price units, one a symbol.
        atr: Wilder's ATR of 14 bars, price units; distances are measured in it, in a tick at least.
        tick: smallest price step, price units.

    Raises:
        InputError: an equity is not above zero, or a number is not finite.
    """
    equity, symbols = view.equity, len(close)
    if not (equity > 0 and view.initial_equity > 0 and view.peak_equity > 0):
        raise InputError(
            f"equity {equity}, initial {view.initial_equity}, peak {view.peak_equity}: not above zero"
        )
    drawdown = 1.0 - equity / view.peak_equity
    usage = view.total_used_margin / equity
    account = (equity / view.initial_equity, usage, drawdown, float(view.open_positions))
    columns = {k: _columns(held, equity, close[k], max(atr[k], tick[k])) for k, held in view.held.items()}
    if not all(all(map(isfinite, numbers)) for numbers in (account, *columns.values())):
        raise InputError(f"the account has a number that is not finite: {view}")
    first = ALPHA_PER_SYMBOL * symbols
    per_symbol = alpha[:first].reshape(symbols, ALPHA_PER_SYMBOL)[:, _POSITION]
    per_symbol[:] = 0.0
    for k, numbers in columns.items():
        per_symbol[k] = numbers
    alpha[first : first + len(account)] = account
    guard[GUARD_PER_SYMBOL * symbols + 3 :] = squeeze_account(drawdown, usage)


def _columns(held: Held, equity: float, close: float, unit: float) -> tuple[float, ...]:
    """Return the seven columns of a symbol that is held; distances are in `unit`."""
    distances = (0.0 if level is None else _clipped((level - close) / unit) for level in held.levels)
    return (
        held.direction,
        held.used_margin / equity,
        held.unrealized_pnl / equity,
        held.age_bars / BARS_A_DAY,
        *distances,
    )


def _clipped(distance: float) -> float:
    return 0.0 if isnan(distance) else min(max(distance, -DISTANCE_CLIP), DISTANCE_CLIP)


def view_of(account: AccountReported, symbols: Sequence[str], close_time_ms: int) -> PortfolioView:
    """Return an account entry as plain numbers.

    Where a symbol has several positions, as a hedging account may, margins and results add up;
    direction, age and prices are those of the one with the most margin, of two equals the older.
    Positions in symbols that are not the book's count in the account's columns only.
    """
    found: dict[int, Held] = {}
    for position in sorted(account.positions, key=lambda p: (-p.used_margin, p.entry_time, p.position_id)):
        if position.symbol not in symbols:
            continue
        k = symbols.index(position.symbol)
        if k in found:
            found[k].used_margin += float(position.used_margin)
            found[k].unrealized_pnl += float(position.unrealized_pnl)
            continue
        levels = (position.entry_price, position.stop_loss_price, position.take_profit_price)
        entry, stop, target = [None if level is None else float(level) for level in levels]
        found[k] = Held(
            direction=position.direction.sign,
            used_margin=float(position.used_margin),
            unrealized_pnl=float(position.unrealized_pnl),
            age_bars=max(0, (close_time_ms - milliseconds(position.entry_time)) // _BAR_MS),
            levels=(entry, stop, target),
        )
    return PortfolioView(
        held=found,
        equity=float(account.equity),
        initial_equity=float(account.initial_equity),
        peak_equity=float(account.peak_equity),
        total_used_margin=float(account.used_margin),
        open_positions=len(account.positions),
    )
