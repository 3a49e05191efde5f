"""Worked examples of the indicators, small enough to check by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from services.features import indicators as ind

PRICES = st.floats(min_value=0.5, max_value=5000, allow_nan=False)


def a_column(*values: float) -> ind.Array:
    return np.array(values, dtype=float)[:, None]


def test_window_ends_at_its_own_row() -> None:
    """One row further would be the future."""
    assert ind.trailing(a_column(1, 2, 3, 4), 3)[:, 0].tolist() == [[1, 2, 3], [2, 3, 4]]


def test_ema_is_seeded_with_the_first_value() -> None:
    """Three bars with weight 1/2: 8, then 8 + (4-8)/2, then 6 + (10-6)/2."""
    out = ind.smooth(a_column(8, 4, 10), np.array(0.5), np.array([8.0]))
    assert out[:, 0].tolist() == [8, 6, 8]


def test_bias_adjusted_ema_is_a_weighted_mean_of_what_there_is() -> None:
    """From zero, over the same recursion of ones: (8·1/4 + 4·1/2)/(3/4) after two bars."""
    half = np.array(0.5)
    out = ind.smooth(a_column(8, 4), half, np.zeros(1)) / ind.smooth(a_column(1, 1), half, np.zeros(1))
    assert out[:, 0].tolist() == [8, pytest.approx(16 / 3)]


def test_true_range_spans_a_gap() -> None:
    """Bar 10 to 12 after a close at 7: the move from the close counts."""
    assert ind.true_range(a_column(12), a_column(10), a_column(7)).item() == 5
    assert ind.true_range(a_column(12), a_column(10), a_column(14)).item() == 4
    assert np.isnan(ind.true_range(a_column(12), a_column(10), a_column(np.nan))).all()


def test_atr_is_a_mean_first_and_wilder_after() -> None:
    """Period 2: 0, then (2+4)/2, then (3·1 + 5)/2; and the state carries over."""
    out, state = ind.average_true_range(a_column(2, 4, 5), np.zeros(1), 0, period=2)
    assert out[:, 0].tolist() == [0, 3, 4]
    out, _ = ind.average_true_range(a_column(6), state, 3, period=2)
    assert out.item() == 5


def test_rsi_is_100_without_losses() -> None:
    """Also where nothing moved at all: the smoothed loss is 0."""
    out = ind.relative_strength(np.array([3.0, 1.0, 0.0]), np.array([1.0, 0.0, 0.0]))
    assert out.tolist() == [75, 100, 100]


def test_deviation_of_one_price_is_exactly_zero() -> None:
    """A rounding error there would be divided by and become a number."""
    mean, squares = ind.mean_and_squares(np.full((1, 1, 20), 1.1))
    assert (mean.item(), squares.item()) == (0, 0)


def test_robust_scale_uses_linear_quartiles() -> None:
    """Of 1, 2, 3, 4, 10: median 3, quartiles 2 and 4; the last value stands (10-3)/2 = 3.5 out."""
    assert ind.robust_scale(np.array([[1.0, 2, 3, 4, 10]])).item() == 3.5


def test_robust_scale_of_a_window_without_spread_is_clipped() -> None:
    """An interquartile range of exactly 0 counts as 1e-6."""
    assert ind.robust_scale(
        np.array([[1.0, 1, 1, 1, 2], [1.0, 1, 1, 1, 1], [1.0, 1, 1, 1, 1 - 2e-6]])
    ).tolist() == [
        5,
        0,
        pytest.approx(-2),
    ]


def test_robust_scale_needs_a_full_window() -> None:
    """One undefined value makes the row undefined."""
    assert np.isnan(ind.robust_scale(np.array([[np.nan, 1.0, 2, 3, 4]]))).all()


def test_ranks_count_from_the_highest_and_share_ties() -> None:
    """1 is the highest; two at places 2 and 3 are 2.5 each."""
    assert ind.average_rank(np.array([[5.0, 9, 5, 1, -1]])).tolist() == [[2.5, 1, 2.5, 4, 5]]


def test_correlation_is_one_with_itself_and_minus_one_with_its_mirror() -> None:
    """And undefined with what does not move."""
    x = np.array([1.0, 3, 2, 5])
    out = ind.correlations(np.stack([x, -x, 0 * x])[None], (0, 2))
    np.testing.assert_allclose(out[0, :, 0], [1, -1, np.nan], rtol=1e-12)
    assert np.isnan(out[0, :, 1]).all()


def test_undefined_takes_the_value_above_and_at_the_top_the_last_one() -> None:
    """Forward only: the row below is the future."""
    values = np.array([[np.nan, 1.0], [2.0, np.nan], [np.nan, np.nan]])
    assert ind.forward_fill(values, np.array([7.0, 0.0])).tolist() == [[7, 1], [2, 1], [2, 1]]


def test_calendar_is_that_of_the_open_time_in_utc() -> None:
    """Thursday 1970-01-01 is day 3; 23:55 is hour 23, not 24."""
    times = np.array([0, 86_400_000 - 300_000, 4 * 86_400_000], dtype=np.int64)
    assert ind.hours_of(times).tolist() == [0, 23, 0]
    assert ind.hour_circle(times)[0].tolist() == [0, 1]
    np.testing.assert_allclose(ind.day_circle(times)[0], [np.sin(6 * np.pi / 7), np.cos(6 * np.pi / 7)])
    assert ind.day_circle(times)[2].tolist() == [0, 1]  # a Monday


@given(arrays(float, (60, 2), elements=PRICES), st.integers(min_value=1, max_value=59))
def test_recursions_go_on_where_they_stopped(values: ind.Array, cut: int) -> None:
    """A state handed over is no different from one kept."""
    weight, seed = np.array([0.2, 0.1]), values[0]
    whole = ind.smooth(values, weight, seed)
    head = ind.smooth(values[:cut], weight, seed)
    tail = ind.smooth(values[cut:], weight, head[-1])
    assert np.concatenate([head, tail]).tobytes() == whole.tobytes()
    whole, _ = ind.average_true_range(values, np.zeros(2), 0)
    head, state = ind.average_true_range(values[:cut], np.zeros(2), 0)
    tail, _ = ind.average_true_range(values[cut:], state, cut)
    assert np.concatenate([head, tail]).tobytes() == whole.tobytes()


@given(arrays(float, (20, 3), elements=PRICES))
def test_reductions_of_one_row_are_those_of_many(values: ind.Array) -> None:
    """The order of additions must not depend on how many rows are asked for."""
    windows = ind.trailing(values, 14)
    for row in range(len(windows)):
        one = ind.trailing(values[row : row + 14], 14)
        assert one.sum(axis=-1).tobytes() == windows.sum(axis=-1)[row].tobytes()
        assert ind.robust_scale(one).tobytes() == ind.robust_scale(windows)[row].tobytes()


@given(arrays(bool, (40, 2)))
def test_flat_runs_are_counted_as_a_walk_along_the_bars_counts_them(synthetic: ind.Bools) -> None:
    """The quick way for blocks without synthetic bars included."""
    run, real, expected = np.zeros(2, int), np.full(2, 100), []
    for flat in synthetic:
        for k in range(2):
            run[k] = run[k] + 1 if flat[k] else 0
            real[k] = 0 if run[k] >= 3 else min(100, real[k] + (not flat[k]))
        expected.append(real.tolist())
    out, last = ind.bars_since_flat_run(synthetic, np.zeros(2, np.int64), np.full(2, 100), cap=100)
    assert out.tolist() == expected
    assert last.tolist() == run.tolist()
