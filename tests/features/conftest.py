"""Golden bars and histories to compute features from."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.features.engine import FeatureEngine, MarketRows

GOLDEN = Path(__file__).parents[1] / "golden"
SYMBOLS = ("EURUSD", "GBPUSD", "USDJPY", "USDCHF", "XAUUSD")
STEP_MS = 300_000
MARKET_FIELDS = ("alpha", "guard_raw", "guard", "close", "atr", "atr_guard", "real_bars", "slices_seen")


@dataclass(frozen=True)
class Slices:
    """Slices as the engine takes them."""

    times: Any
    bars: Any
    synthetic: Any

    def __getitem__(self, part: slice) -> Slices:
        return Slices(self.times[part], self.bars[part], self.synthetic[part])

    def through(self, engine: FeatureEngine) -> MarketRows:
        return engine.advance(self.times, self.bars, self.synthetic)


def a_market(rows: int, seed: int = 7, flat: float = 0.05) -> Slices:
    """A random walk in five symbols, with runs of synthetic bars in each."""
    rng = np.random.default_rng(seed)
    close = np.array([1.08, 1.27, 150.0, 0.88, 2900.0]) * np.exp(
        rng.normal(0, 3e-4, (rows, 5)).cumsum(axis=0)
    )
    open_ = np.vstack([close[:1], close[:-1]])
    synthetic = np.zeros((rows, 5), bool)
    for row, k in zip(*np.nonzero(rng.random((rows, 5)) < flat), strict=True):
        synthetic[row : row + rng.integers(1, 6), k] = True
    synthetic[0] = False
    for row in range(1, rows):  # a flat bar stands at the close before, and the next one opens there
        close[row] = np.where(synthetic[row], close[row - 1], close[row])
        open_[row] = close[row - 1]
    high = np.maximum(open_, close) * np.where(synthetic, 1.0, 1 + rng.random((rows, 5)) * 1e-4)
    low = np.minimum(open_, close) * np.where(synthetic, 1.0, 1 - rng.random((rows, 5)) * 1e-4)
    volume = np.where(synthetic, 0, rng.integers(1, 2000, (rows, 5)))
    times = 1_740_960_000_000 + STEP_MS * np.arange(rows, dtype=np.int64)
    return Slices(times, np.stack([open_, high, low, close, volume], axis=-1).astype(float), synthetic)


def assert_same_bits(got: MarketRows, want: MarketRows, part: slice = slice(None)) -> None:
    for name in MARKET_FIELDS:
        expected = getattr(want, name)[part]
        actual = getattr(got, name)
        assert actual.dtype == expected.dtype
        assert actual.tobytes() == np.ascontiguousarray(expected).tobytes(), name


@pytest.fixture(scope="session")
def golden() -> dict[str, Any]:
    with np.load(GOLDEN / "features.npz") as file:
        return dict(file)


@pytest.fixture(scope="session")
def golden_slices(golden: dict[str, Any]) -> Slices:
    times = golden["bar_open_time"].astype("datetime64[ms]").astype(np.int64)
    place = {time: row for row, time in enumerate(times.tolist())}
    bars = np.full((len(times), len(SYMBOLS), 5), np.nan)
    with (GOLDEN / "bars.csv").open() as file:
        for row in csv.DictReader(file):
            at = place[int(np.datetime64(row["time"], "ms").astype(np.int64))]
            values = [float(row[name]) for name in ("open", "high", "low", "close", "volume")]
            bars[at, SYMBOLS.index(row["symbol"])] = values
    return Slices(times, bars, np.zeros(bars.shape[:2], bool))


@pytest.fixture(scope="session")
def golden_rows(golden_slices: Slices) -> MarketRows:
    return golden_slices.through(FeatureEngine(SYMBOLS))
