"""The same market gives the same signals and decisions, to the last digit; another market does not."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from shared.contracts import POINTS_PER_UNIT
from tests.mesh.conftest import StartDemo
from venue.book import CONTRACTS
from venue.market import BarSeries, synthetic_market
from venue.ticks import tick_points

pytestmark = [pytest.mark.process, pytest.mark.slow]

SLICES = 25
FIRST_LIVE = 1_000  # the venue's history comes before
SEED = 7


def write_bars(folder: Path, market: dict[str, BarSeries]) -> Path:
    """Write a market as a folder of CSV files."""
    folder.mkdir()
    for symbol, series in market.items():
        columns = zip(series.open_time_ms, series.open, series.high, series.low, series.close, strict=True)
        rows = [
            ",".join(
                [
                    f"{datetime.fromtimestamp(at / 1000, UTC):%Y-%m-%d %H:%M:%S}",
                    *(f"{p / POINTS_PER_UNIT:.5f}" for p in prices),
                ]
            )
            for at, *prices in columns
        ]
        (folder / f"{symbol}.csv").write_text("\n".join(["time,open,high,low,close", *rows]) + "\n")
    return folder


def one_tick_higher(series: BarSeries, row: int) -> BarSeries:
    """Return the series with one bar's high a tick higher."""
    high = series.high.copy()
    high[row] += tick_points(CONTRACTS[series.symbol])
    return BarSeries(
        series.symbol, series.open_time_ms, series.open, high, series.low, series.close, series.volume
    )


async def hashes(start_demo: StartDemo, data: Path, name: str) -> tuple[str, str]:
    async with start_demo(SLICES, data=data, name=name) as demo:
        await demo.play()
        result, findings = await demo.result()
    assert findings.clean
    assert result["requests"] > 0
    return result["signal_sha256"], result["decision_sha256"]


async def test_two_runs_agree_and_one_tick_in_one_bar_is_seen(start_demo: StartDemo, tmp_path: Path) -> None:
    """Determinism through real sockets and processes; and hashes that cannot miss a difference."""
    market = synthetic_market(SEED, datetime(2025, 1, 5, 22, tzinfo=UTC), slices=FIRST_LIVE + 200)
    bars = write_bars(tmp_path / "bars", market)
    first = await hashes(start_demo, bars, "first")
    assert await hashes(start_demo, bars, "second") == first
    row = FIRST_LIVE + 3
    (tmp_path / "other").mkdir()
    altered = write_bars(
        tmp_path / "other" / "bars", {**market, "EURUSD": one_tick_higher(market["EURUSD"], row)}
    )
    signal_sha256, _ = await hashes(start_demo, altered, "altered")
    assert signal_sha256 != first[0]
