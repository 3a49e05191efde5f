"""The account's columns: each one moves, and by what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.features.portfolio import Held, PortfolioView, fill_portfolio, flat_view, view_of
from services.features.schema import alpha_schema, guard_schema
from shared.errors import InputError
from shared.messages import Direction
from shared.streams import milliseconds
from tests.builders import MONDAY
from tests.features.builders import a_position, an_account
from tests.features.conftest import SYMBOLS

ALPHA, GUARD = alpha_schema(SYMBOLS).names, guard_schema(SYMBOLS).names
CLOSE = [1.1, 1.27, 150.0, 0.88, 2900.0]
ATR = [0.0005, 0.0006, 0.05, 0.0004, 1.5]
TICK = [1e-5, 1e-5, 1e-3, 1e-5, 1e-2]
PER_SYMBOL = ("has_position", "position_size", "unrealized_pnl", "position_age", "entry_price", "current_sl")
PER_SYMBOL += ("current_tp",)
ACCOUNT = ("equity", "margin_usage", "drawdown", "num_open_positions")


def columns_of(view: PortfolioView, atr: Sequence[float] = ATR) -> dict[str, float]:
    """Return the columns that the account writes; all others must stay as they are."""
    alpha, guard = np.full(140, 77, np.float32), np.full(105, 77, np.float32)
    fill_portfolio(alpha, guard, view, CLOSE, atr, TICK)
    written = {name: float(value) for name, value in zip(ALPHA, alpha, strict=True) if value != 77}
    written |= {
        f"guard.{name}": float(value) for name, value in zip(GUARD, guard, strict=True) if value != 77
    }
    return written


def columns_of_account(**changes: Any) -> dict[str, float]:
    return columns_of(view_of(an_account(**changes), SYMBOLS, milliseconds(MONDAY)))


def test_account_writes_its_own_columns_and_no_other() -> None:
    """The market's columns are next to them."""
    names = {f"{symbol}.{name}" for symbol in SYMBOLS for name in PER_SYMBOL} | set(ACCOUNT)
    assert set(columns_of(flat_view())) == names | {"guard.drawdown", "guard.exposure"}


def test_flat_account_is_all_zero_but_its_equity() -> None:
    """No position is 0 everywhere, not a distance to nothing."""
    columns = columns_of(flat_view())
    assert columns.pop("equity") == 1
    assert set(columns.values()) == {0.0}


@pytest.mark.parametrize("symbol", SYMBOLS)
def test_every_column_of_a_symbol_moves_with_its_position(symbol: str) -> None:
    """A column that stays at 0 in training and live teaches nothing and warns nobody."""
    k = SYMBOLS.index(symbol)
    price = Decimal(str(CLOSE[k]))
    held = a_position(
        symbol,
        direction=Direction.SHORT,
        entry_price=price + Decimal("0.001"),
        stop_loss_price=price + Decimal("0.002"),
        take_profit_price=price - Decimal("0.003"),
        used_margin=Decimal(500),
        unrealized_pnl=Decimal(-40),
        entry_time=MONDAY - timedelta(hours=6),
    )
    columns = columns_of_account(positions=(held,))
    expected = [-1, 0.05, -0.004, 72 / 288, *(d / ATR[k] for d in (0.001, 0.002, -0.003))]
    np.testing.assert_allclose([columns[f"{symbol}.{name}"] for name in PER_SYMBOL], expected, rtol=1e-4)
    others = [columns[f"{other}.{name}"] for other in SYMBOLS if other != symbol for name in PER_SYMBOL]
    assert set(others) == {0.0}


def test_every_column_of_the_account_moves() -> None:
    """Equity against its start and its peak, margin, and how many positions there are."""
    columns = columns_of_account(
        equity=Decimal(9000),
        initial_equity=Decimal(8000),
        peak_equity=Decimal(12_000),
        used_margin=Decimal(4500),
        positions=(a_position("EURUSD"), a_position("GBPUSD")),
    )
    np.testing.assert_allclose([columns[name] for name in ACCOUNT], [1.125, 0.5, 0.25, 2])
    np.testing.assert_allclose([columns["guard.drawdown"], columns["guard.exposure"]], [0.25, 0.1])


def test_foreign_position_counts_like_ours() -> None:
    """It uses the same margin and may be hit by the same move."""
    ours = columns_of_account(positions=(a_position("EURUSD", client_order_id="TG-main-x"),))
    assert columns_of_account(positions=(a_position("EURUSD", client_order_id=None),)) == ours


def test_position_outside_the_book_counts_in_the_account_only() -> None:
    """It has no column of its own."""
    columns = columns_of_account(positions=(a_position("USDCAD"),))
    assert columns["num_open_positions"] == 1
    assert columns["EURUSD.has_position"] == 0


def test_two_positions_of_a_symbol_add_up_and_the_larger_one_leads() -> None:
    """A hedging account may hold both ways at once, opened by two owners."""
    small = a_position("EURUSD", used_margin=Decimal(100), unrealized_pnl=Decimal(10))
    large = a_position(
        "EURUSD",
        direction=Direction.SHORT,
        used_margin=Decimal(300),
        unrealized_pnl=Decimal(-50),
        position_id=2,
    )
    columns = columns_of_account(positions=(small, large))
    np.testing.assert_allclose(
        [columns[f"EURUSD.{name}"] for name in PER_SYMBOL[:3]], [-1, 0.04, -0.004], rtol=1e-6
    )
    assert columns_of_account(positions=(large, small)) == columns


def test_missing_level_is_zero() -> None:
    """A foreign position often has no stop."""
    columns = columns_of_account(
        positions=(a_position("EURUSD", stop_loss_price=None, take_profit_price=None),)
    )
    assert (columns["EURUSD.current_sl"], columns["EURUSD.current_tp"]) == (0, 0)


def test_distance_is_measured_in_a_tick_where_nothing_moves_and_clipped() -> None:
    """An ATR of 0 must not make an infinite column."""
    held = a_position("EURUSD", entry_price=Decimal("1.10003"), stop_loss_price=Decimal("1.00000"))
    columns = columns_of(view_of(an_account(positions=(held,)), SYMBOLS, milliseconds(MONDAY)), atr=[0.0] * 5)
    assert columns["EURUSD.entry_price"] == pytest.approx(3, rel=1e-6)
    assert columns["EURUSD.current_sl"] == -20


@pytest.mark.parametrize(("seconds", "bars"), [(0, 0), (299, 0), (300, 1), (3599, 11), (-5, 0)])
def test_age_counts_whole_bars_of_clock_time(seconds: int, bars: int) -> None:
    """Bars, not slices: a weekend makes a position old."""
    held = a_position("EURUSD", entry_time=MONDAY - timedelta(seconds=seconds))
    assert columns_of_account(positions=(held,))["EURUSD.position_age"] == pytest.approx(bars / 288)


@pytest.mark.parametrize("name", ["equity", "initial_equity", "peak_equity"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_equity_that_is_not_above_zero_is_an_error(name: str, value: float) -> None:
    """All is measured in it."""
    with pytest.raises(InputError, match="not above zero"):
        columns_of(replace(flat_view(), **{name: value}))


def test_number_that_is_not_finite_is_an_error() -> None:
    """It would reach three models."""
    with pytest.raises(InputError, match="not finite"):
        columns_of(replace(flat_view(), held={1: Held(1, 100.0, float("nan"), 0, (1.1, None, None))}))


@given(
    equity=st.floats(min_value=1, max_value=1e6),
    direction=st.sampled_from([-1, 1]),
    price=st.sampled_from([None, float("nan"), float("inf")]) | st.floats(min_value=1e-3, max_value=1e4),
)
def test_columns_are_finite_for_any_position(equity: float, direction: int, price: float | None) -> None:
    """Whatever the venue reports, no model sees a NaN."""
    held = Held(direction, 0.0, 0.0, 0, (price, price, price))
    view = replace(flat_view(equity), held=dict.fromkeys(range(5), held))
    values = np.array(list(columns_of(view).values()))
    assert np.isfinite(values).all()
    assert np.abs(values).max() <= 20
