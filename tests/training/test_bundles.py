"""The bundles that come with the repository."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from cli.bundle import verify
from services.inference.adapters import load_bundle
from training.card import TRADES_TO_TELL
from training.dataset import make_dataset
from training.simulation import simulate
from training.trades import Market
from venue.market import synthetic_market

BUNDLES = Path(__file__).parents[2] / "bundles"
SIZE_MAX = 5_000_000
SLICES = 600


@pytest.mark.parametrize("name", ["default", "plumbing"])
def test_a_committed_bundle_is_whole(name: str) -> None:
    """What a fresh clone starts with is what was trained, and runs with this version's columns."""
    assert verify(BUNDLES / name) == {"ok": True, "problems": []}
    manifest = load_bundle(BUNDLES / name).manifest
    assert manifest.name == name
    assert manifest.training.data.startswith("synthetic")  # made from a seed: nobody's data inside
    assert manifest.training.alpha_steps >= 200_000
    assert manifest.training.risk_steps >= 100_000


@pytest.mark.parametrize("name", ["default", "plumbing"])
def test_a_card_says_what_the_test_gave(name: str) -> None:
    """The numbers a reader sees are those of the manifest, and few trades are called few."""
    card = (BUNDLES / name / "card.md").read_text()
    metrics = load_bundle(BUNDLES / name).manifest.metrics
    assert f"{metrics['test_trades']:.0f} trades, mean {metrics['test_mean_r']:+.3f} R after costs" in card
    assert ("too few to say more" in card) == (metrics["test_trades"] < TRADES_TO_TELL)


def test_the_bundles_stay_small() -> None:
    """Weights are kept, the optimizer is not."""
    assert sum(file.stat().st_size for file in BUNDLES.rglob("*") if file.is_file()) < SIZE_MAX


def test_the_plumbing_says_that_it_is_not_for_money() -> None:
    """Nobody should trade with it by accident."""
    assert load_bundle(BUNDLES / "plumbing").manifest.purpose == "plumbing"
    assert "Not for money" in (BUNDLES / "plumbing" / "card.md").read_text()
    assert load_bundle(BUNDLES / "default").manifest.purpose == "trading"


@pytest.mark.parametrize("seed", [1, 42])
def test_the_plumbing_exercises_the_whole_mesh(seed: int) -> None:
    """Both ways in every symbol, and blocks by both later layers, on a market it has not seen."""
    start = datetime(2025, 1, 5, 22, tzinfo=UTC)
    market = Market(make_dataset(synthetic_market(seed, start, slices=2_100), name="unseen", seed=seed))
    run = simulate(market, load_bundle(BUNDLES / "plumbing"), range(300, 300 + SLICES))
    assert all(
        run.allowed.get((symbol, way), 0) >= 10 for symbol in market.dataset.symbols for way in (1, -1)
    )
    assert run.both_sides > SLICES * 0.4
    assert run.reasons["RISK_BLOCKED"] > 0
    assert run.reasons["GUARD_BLOCKED"] > 0
    assert len(run.trades) > 100
    assert {result > 0 for result in run.trades_r} == {True, False}
