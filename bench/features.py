"""The feature service's arithmetic: one slice after another, as live, and ten thousand at once."""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from bench.common import figures, show
from services.features.engine import FeatureEngine
from shared.settings import DEFAULT_SYMBOLS

SLICES = 10_000
WARM_UP = 400
ONE_BY_ONE = 2_000
BATCHES = 5
M5_MS = 300_000
START_MS = 1_736_121_600_000
PRICES = np.array([1.1, 1.25, 150.0, 0.9, 2_650.0])

Floats = NDArray[np.float64]


def market(slices: int, seed: int = 1) -> tuple[NDArray[np.int64], Floats, NDArray[np.bool_]]:
    """Return open times, bars (open, high, low, close, volume) and no synthetic bar: a random walk."""
    rng = np.random.default_rng(seed)
    shape = (slices, len(PRICES))
    close = PRICES * np.exp(np.cumsum(rng.normal(0, 3e-4, shape), axis=0))
    open_ = np.vstack([PRICES, close[:-1]])
    reach = np.abs(rng.normal(0, 2e-4, (2, *shape))) * close
    high, low = np.maximum(open_, close) + reach[0], np.minimum(open_, close) - reach[1]
    volume = rng.integers(10, 300, shape).astype(np.float64)
    times = START_MS + M5_MS * np.arange(slices, dtype=np.int64)
    return times, np.stack([open_, high, low, close, volume], axis=2), np.zeros(shape, np.bool_)


def main() -> None:
    """Measure and print."""
    times, bars, synthetic = market(SLICES)
    batches = []
    for _ in range(BATCHES):
        engine = FeatureEngine(DEFAULT_SYMBOLS)
        began_s = time.perf_counter()
        engine.advance(times, bars, synthetic)
        batches.append(time.perf_counter() - began_s)
    engine = FeatureEngine(DEFAULT_SYMBOLS)
    engine.advance(times[:WARM_UP], bars[:WARM_UP], synthetic[:WARM_UP])
    steps, snapshots = [], []
    for row in range(WARM_UP, WARM_UP + ONE_BY_ONE):
        one = slice(row, row + 1)
        began_s = time.perf_counter()
        engine.advance(times[one], bars[one], synthetic[one])
        done_s = time.perf_counter()
        state = engine.snapshot()
        steps.append(done_s - began_s)
        snapshots.append(time.perf_counter() - done_s)
    show(
        "features",
        {
            "one slice of 5 symbols": figures(steps),
            "snapshot of the state": figures(snapshots, "us"),
            "state, bytes": len(state),
            f"{SLICES} slices at once": figures(batches),
        },
    )


if __name__ == "__main__":
    main()
