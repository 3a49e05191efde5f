"""What the market columns are, and that no way of feeding changes them."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.features.engine import FeatureEngine, MarketRows
from services.features.schema import alpha_schema, guard_schema
from shared.errors import InputError
from tests.features.conftest import SYMBOLS, a_market, assert_same_bits

ROWS = 560  # more than two blocks
MARKET = a_market(ROWS)
WHOLE = MARKET.through(FeatureEngine(SYMBOLS))
ALPHA = {name: column for column, name in enumerate(alpha_schema(SYMBOLS).names)}
GUARD = {name: column for column, name in enumerate(guard_schema(SYMBOLS).names)}


def test_alpha_columns_equal_an_independent_implementation(
    golden: dict[str, Any], golden_rows: MarketRows
) -> None:
    """A model trained elsewhere on these formulas sees the numbers it was trained on."""
    mine = golden_rows.alpha[100:, golden["alpha_columns"]]
    np.testing.assert_allclose(mine, golden["alpha_market"][100:], rtol=0, atol=1e-5)


def test_guard_columns_equal_an_independent_implementation(
    golden: dict[str, Any], golden_rows: MarketRows
) -> None:
    """Before the squeeze, where a difference would still be seen."""
    mine = golden_rows.guard_raw[200:, golden["guard_columns"]]
    np.testing.assert_allclose(mine, golden["guard_market_raw"][200:], rtol=1e-5, atol=1e-9)


def test_golden_columns_carry_the_names_of_the_schema(golden: dict[str, Any]) -> None:
    """An order that differs would pass unseen wherever two columns are alike."""
    names = alpha_schema(SYMBOLS).names
    golden_names = [
        name.replace("_", ".", 1) if name[:6] in SYMBOLS else name for name in golden["alpha_names"]
    ]
    assert golden_names == [names[column] for column in golden["alpha_columns"]]


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(min_value=1, max_value=ROWS - 1), max_size=8, unique=True))
def test_any_partition_of_a_history_gives_the_same_bits(cuts: list[int]) -> None:
    """Live feeds one slice, training all of them: they must not differ in a single bit."""
    engine = FeatureEngine(SYMBOLS)
    edges = [0, *sorted(cuts), ROWS]
    for start, end in pairwise(edges):
        assert_same_bits(MARKET[start:end].through(engine), WHOLE, slice(start, end))


def test_one_slice_at_a_time_gives_the_same_bits_from_the_first_on() -> None:
    """Warm-up is where windows are short and recursions are seeded."""
    engine = FeatureEngine(SYMBOLS)
    for row in range(300):
        assert_same_bits(MARKET[row : row + 1].through(engine), WHOLE, slice(row, row + 1))


@settings(max_examples=10, deadline=None)
@given(cut=st.integers(min_value=1, max_value=ROWS - 1))
def test_rows_do_not_change_when_the_future_is_cut_off(cut: int) -> None:
    """A feature that looks ahead makes a backtest that lies."""
    assert_same_bits(MARKET[:cut].through(FeatureEngine(SYMBOLS)), WHOLE, slice(0, cut))


@settings(max_examples=20, deadline=None)
@given(cut=st.integers(min_value=1, max_value=ROWS - 1))
def test_restored_engine_goes_on_with_the_same_bits(cut: int) -> None:
    """A restart is no event in the market."""
    before, after = FeatureEngine(SYMBOLS), FeatureEngine(SYMBOLS)
    MARKET[:cut].through(before)
    after.restore(before.snapshot())
    assert after.snapshot() == before.snapshot()
    assert_same_bits(MARKET[cut:].through(after), WHOLE, slice(cut, ROWS))


def test_snapshot_is_small() -> None:
    """It is written with every commit."""
    assert len(FeatureEngine(SYMBOLS).snapshot()) < 40_000


@pytest.mark.parametrize(
    "damage", [lambda s: s[:-8], lambda s: b"X" + s[1:], lambda s: s[:8] + b"\0" + s[9:], lambda s: b""]
)
def test_foreign_snapshot_is_refused(damage: Any) -> None:
    """State of other columns would give numbers that look right."""
    engine = FeatureEngine(SYMBOLS)
    with pytest.raises(InputError, match="feature state"):
        engine.restore(damage(engine.snapshot()))


def test_restoring_nothing_begins_a_new_history() -> None:
    """A fresh book has no snapshot."""
    engine = FeatureEngine(SYMBOLS)
    MARKET[:30].through(engine)
    engine.restore(None)
    assert engine.slices_seen == 0
    assert_same_bits(MARKET[:30].through(engine), WHOLE, slice(0, 30))


def test_atr_is_zero_until_fourteen_bars_stand() -> None:
    """0.0 means not yet warm; row 13 is the mean of the first 14 ranges, the first being high - low."""
    assert not WHOLE.atr[:13].any()
    _, high, low, close, _ = np.moveaxis(MARKET.bars[:14], -1, 0)
    ranges = high - low
    ranges[1:] = np.maximum(high[1:], close[:-1]) - np.minimum(low[1:], close[:-1])
    np.testing.assert_allclose(WHOLE.atr[13], ranges.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(WHOLE.atr_guard[13], (ranges.sum(axis=0) - ranges[0]) / 14, rtol=1e-12)


def test_all_is_defined_from_row_82_on() -> None:
    """The last column to be defined is macd_hist after its scaling; 0 stands before it."""
    column = ALPHA["EURUSD.macd_hist"]
    assert not WHOLE.alpha[:82, column].any()
    assert WHOLE.alpha[82, column] != 0


def test_undefined_value_keeps_the_one_before() -> None:
    """A correlation with a symbol that stood still for 50 bars does not exist; no number is invented."""
    market = a_market(200, flat=0)
    market.bars[100:, 4, :4] = market.bars[99, 4, 3]
    market.bars[100:, 4, 4] = 0
    rows = market.through(FeatureEngine(SYMBOLS))
    corr = rows.alpha[:, ALPHA["GBPUSD.corr_xauusd"]]
    assert corr[147] != corr[148]  # bar 99 still moved in row 148's window, the last one
    assert (corr[148:] == corr[148]).all()
    assert np.isfinite(rows.alpha).all()
    assert np.isfinite(rows.guard).all()
    assert (rows.alpha[150:, ALPHA["XAUUSD.volume_ratio"]] == 0).all()
    assert (
        rows.alpha[130:, ALPHA["XAUUSD.bb_position"]] == rows.alpha[130, ALPHA["XAUUSD.bb_position"]]
    ).all()


def test_flat_market_gives_finite_columns() -> None:
    """A holiday of one symbol, or a price of a dead market, is a case and not an error."""
    market = a_market(400, flat=0)
    market.bars[:, :, :4] = market.bars[:1, :, :1]
    rows = market.through(FeatureEngine(SYMBOLS))
    assert np.isfinite(rows.alpha).all()
    assert (rows.alpha[:, [ALPHA["EURUSD.close"], ALPHA["EURUSD.macd_hist"]]] == 0).all()


def test_portfolio_and_candidate_columns_are_left_at_zero() -> None:
    """They are not the market's to say."""
    for symbol in SYMBOLS:
        for name in (
            "has_position",
            "position_size",
            "unrealized_pnl",
            "position_age",
            "entry_price",
            "current_sl",
        ):
            assert not WHOLE.alpha[:, ALPHA[f"{symbol}.{name}"]].any()
        for name in ("action", "signal_persistence", "signal_reversal", "sl_size", "rr"):
            assert not WHOLE.guard[:, GUARD[f"{symbol}.{name}"]].any()
    for name in ("equity", "margin_usage", "drawdown", "num_open_positions"):
        assert not WHOLE.alpha[:, ALPHA[name]].any()
    assert not WHOLE.guard[:, [GUARD["drawdown"], GUARD["exposure"]]].any()


def test_every_market_column_moves() -> None:
    """A column that never moves is a bug that no test of its formula found."""
    portfolio = {
        "has_position",
        "position_size",
        "unrealized_pnl",
        "position_age",
        "entry_price",
        "current_sl",
    }
    portfolio |= {"current_tp", "equity", "margin_usage", "drawdown", "num_open_positions"}
    still = np.ptp(WHOLE.alpha[100:], axis=0) == 0
    constant = {
        name for name, column in ALPHA.items() if still[column] and name.split(".")[-1] not in portfolio
    }
    assert constant <= {"XAUUSD.corr_xauusd", "EURUSD.corr_eurusd"}  # 1, but for the last digit
    market = [column for name, column in GUARD.items() if column < 100 and column % 20 < 15]
    assert (np.ptp(WHOLE.guard[200:, market], axis=0) > 0).all()


def test_squeezed_columns_stay_inside_their_limits() -> None:
    """The Guard was trained on dimensionless columns."""
    assert np.abs(WHOLE.guard).max() <= 1.0


def test_real_bars_count_from_the_end_of_a_flat_run() -> None:
    """A run of three shrinks the ATR, one of two does not; synthetic bars do not count."""
    market = a_market(12, flat=0)
    market.synthetic[2:4, 0] = True
    market.synthetic[5:8, 1] = True
    market.synthetic[9, 1] = True
    rows = market.through(FeatureEngine(SYMBOLS))
    assert (rows.real_bars[:, 0] == 10_000).all()
    assert rows.real_bars[:, 1].tolist() == [*[10_000] * 7, 0, 1, 1, 2, 3]


@pytest.mark.parametrize(
    ("column", "value"), [(0, np.nan), (1, np.inf), (2, 0.0), (2, 1e6), (3, -1.0), (4, -1.0), (4, np.nan)]
)
def test_bar_that_is_none_is_refused_by_name_and_time(column: int, value: float) -> None:
    """Nothing is repaired, and the engine stays as it was."""
    market = a_market(3, flat=0)
    market.bars[2, 2, column] = value
    engine = FeatureEngine(SYMBOLS)
    before = engine.snapshot()
    with pytest.raises(InputError, match=r"USDJPY's bar of 2025-03-03T00:10:00\+00:00"):
        market.through(engine)
    assert engine.snapshot() == before


def test_infinite_column_is_refused_by_name_and_time() -> None:
    """Infinity never leaves: it is an error in the data or a bug."""
    market = a_market(2, flat=0)
    market.bars[0, 0, :4], market.bars[1, 0, :4] = 1e-300, 1e300
    engine = FeatureEngine(SYMBOLS)
    with pytest.raises(InputError, match=r"\w+\.\w+ of 2025-03-03T00:05:00\+00:00 is -?inf"):
        market.through(engine)
    assert engine.slices_seen == 0


def test_slice_out_of_order_is_refused() -> None:
    """A slice taken twice would move every recursion."""
    engine = FeatureEngine(SYMBOLS)
    MARKET[:5].through(engine)
    with pytest.raises(InputError, match="does not come after"):
        MARKET[4:6].through(engine)


def test_symbols_without_those_that_columns_name_are_refused() -> None:
    """corr_xauusd of a book without gold has no meaning."""
    with pytest.raises(InputError, match="XAUUSD is missing"):
        FeatureEngine(SYMBOLS[:4])


def test_slice_takes_a_millisecond_and_a_history_seconds() -> None:
    """Limits ten times what is measured, so that only a change of kind fails."""
    engine = FeatureEngine(SYMBOLS)
    start = time.perf_counter()
    MARKET.through(engine)
    assert (time.perf_counter() - start) / ROWS < 1e-3
    engine = FeatureEngine(SYMBOLS)
    spent = []
    for row in range(60):
        start = time.perf_counter()
        MARKET[row : row + 1].through(engine)
        spent.append(time.perf_counter() - start)
    assert np.median(spent) < 10e-3


def test_random_market_has_flat_bars() -> None:
    """The fixture's own promise, or the tests above test something else."""
    flat = MARKET.bars[MARKET.synthetic]
    assert len(flat) > 100
    assert (flat[:, :4] == flat[:, 3:4]).all()
