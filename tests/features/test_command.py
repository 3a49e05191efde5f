"""`tradeguard features`: the columns of a file, as the service computes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from cli.features import run
from services.features.engine import MarketRows
from tests.features.conftest import GOLDEN, SYMBOLS


def test_columns_of_a_file_are_those_of_an_independent_implementation(
    golden: dict[str, Any], golden_rows: MarketRows, tmp_path: Path
) -> None:
    """Read, rounded to the venue's digits, sliced and computed: nothing on the way changes a column."""
    out = tmp_path / "columns.npz"
    report = run(GOLDEN / "bars.csv", out)
    assert (report["slices"], report["synthetic_bars"]) == (900, 0)
    with np.load(out) as file:
        written = dict(file)
    assert sorted(written) == ["alpha", "bar_open_time", "guard", "guard_raw", "symbols"]
    assert written["symbols"].tolist() == list(SYMBOLS)
    assert written["bar_open_time"].dtype == "datetime64[s]"
    assert (written["bar_open_time"] == golden["bar_open_time"]).all()
    market = golden["alpha_columns"]
    assert written["alpha"][:, market].tobytes() == golden_rows.alpha[:, market].tobytes()
    assert written["guard_raw"].tobytes() == golden_rows.guard_raw.tobytes()
    assert written["guard"].tobytes() == golden_rows.guard.tobytes()
    assert (written["alpha"][:, 125] == 1).all()  # equity of a flat account


def test_source_without_volume_takes_that_of_its_quote_path(tmp_path: Path) -> None:
    """As the venue would play it; the same for any part of a history."""
    header, *lines = (line.rsplit(",", 1)[0] for line in (GOLDEN / "bars.csv").read_text().splitlines())
    for rows in (90, 120):
        kept = [line for symbol in SYMBOLS for line in [each for each in lines if symbol in each][:rows]]
        bare = tmp_path / "bare.csv"
        bare.write_text("\n".join([header, *kept]))
        run(bare, tmp_path / f"{rows}.npz")
    with np.load(tmp_path / "90.npz") as part, np.load(tmp_path / "120.npz") as whole:
        assert part["alpha"].tobytes() == whole["alpha"][:90].tobytes()
        assert (np.ptp(part["alpha"][70:, 12]) > 0).all()
