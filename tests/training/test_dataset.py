from __future__ import annotations

import numpy as np

from services.features.schema import alpha_schema
from training.dataset import (
    GAP_SLICES,
    Dataset,
    constant_columns,
    leaking_columns,
    split_of,
    synthetic_dataset,
)


def test_the_parts_follow_each_other_with_gaps() -> None:
    """A window or a trade that reached over an edge would carry the answer across it."""
    split = split_of(100_000)
    assert split.train.stop + GAP_SLICES <= split.validation.start
    assert split.validation.stop + GAP_SLICES <= split.test.start
    assert split.test.stop == 100_000
    assert split.train.start >= 300


def test_the_same_seed_gives_the_same_data() -> None:
    """The hash in a manifest names the data for good."""
    first, again, other = (synthetic_dataset(seed, slices=2_100) for seed in (5, 5, 6))
    assert first.sha256 == again.sha256 != other.sha256
    assert first.rows.alpha.tobytes() == again.rows.alpha.tobytes()


def test_truncating_the_future_changes_no_row(dataset: Dataset) -> None:
    """A feature that saw what came after would shine in training and fail live."""
    shorter = synthetic_dataset(5, slices=2_100)
    kept = len(shorter.open_time_ms)
    np.testing.assert_array_equal(shorter.rows.alpha, dataset.rows.alpha[:kept])
    np.testing.assert_array_equal(shorter.rows.guard, dataset.rows.guard[:kept])


def test_constant_columns_are_reported(dataset: Dataset) -> None:
    """A column that never moves is a bug or a waste, and someone should know."""
    names = alpha_schema(dataset.symbols).names
    columns = dataset.rows.alpha[300:].copy()
    columns[:, 1] = 0.5
    found = constant_columns(columns, names)
    assert "EURUSD.return_1" in found
    assert "GBPUSD.return_1" not in found


def test_leaking_columns_are_reported(dataset: Dataset) -> None:
    """A column that knows the next return is the commonest way to fool oneself."""
    names = alpha_schema(dataset.symbols).names
    columns, close = dataset.rows.alpha[300:-1].copy(), dataset.rows.close[300:]
    returns = close[1:] / close[:-1] - 1
    assert leaking_columns(columns, returns, names) == []
    columns[:, 26] = (
        returns[:, 1] + np.random.default_rng(2).normal(size=len(returns)) * returns.std()
    ) * 1e3
    assert leaking_columns(columns, returns, names) == ["GBPUSD.return_1"]
