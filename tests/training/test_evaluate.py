from __future__ import annotations

import numpy as np
import pytest

from training.evaluate import TRADES_MIN, choose_threshold, random_directions, result_of
from training.simulation import Candidate
from training.trades import Market


def test_the_interval_holds_the_mean_and_narrows_with_trades() -> None:
    """A mean without its uncertainty is a boast."""
    rng = np.random.default_rng(1)
    few, many = (result_of(rng.normal(0.1, 1.0, size=n).tolist(), (), seed=2) for n in (50, 5_000))
    for result in (few, many):
        assert result.low_r < result.mean_r < result.high_r
    assert many.high_r - many.low_r < (few.high_r - few.low_r) / 3
    assert many.low_r > 0


def test_no_trades_are_said_to_be_none() -> None:
    """Zero trades is a result, and not a division by zero."""
    result = result_of([], [10_000.0, 10_000.0], seed=1)
    assert (result.trades, result.net_return, result.max_drawdown) == (0, 0.0, 0.0)
    assert "no trades" in result.sentence()


def test_drawdown_is_from_the_peak() -> None:
    """As everywhere else in the project."""
    result = result_of([1.0], [100.0, 120.0, 90.0, 110.0], seed=1)
    assert result.max_drawdown == pytest.approx(0.25)
    assert result.net_return == pytest.approx(0.10)


def test_the_threshold_with_the_best_total_is_chosen() -> None:
    """Few good trades lose against many that are almost as good."""
    probabilities = np.linspace(0, 1, 1_000)
    results = np.where(probabilities > 0.6, 0.2, -0.3)
    assert choose_threshold(probabilities, results) == pytest.approx(0.6, abs=0.01)


def test_a_threshold_that_leaves_too_few_trades_is_not_chosen() -> None:
    """A lucky handful is no evidence."""
    probabilities = np.linspace(0, 1, TRADES_MIN * 4)
    results = np.full(probabilities.size, -0.1)
    results[-5:] = 3.0
    results[-1] = np.nan  # never ended: it counts for nothing
    chosen = choose_threshold(probabilities, results)
    assert (probabilities >= chosen).sum() >= TRADES_MIN


def test_chance_has_no_edge(market: Market) -> None:
    """The baseline pays the same costs at the same moments, so it must lose about the spread."""
    candidates = [Candidate(row, 0, 1, "ALLOWED", 0.0, 2.0, 2.0, 1) for row in range(300, 1_500, 4)]
    result = random_directions(market, candidates, 250, seed=3)
    assert 200 <= result.trades <= 250
    assert result.mean_r < 0.1
    assert result.net_return is None
