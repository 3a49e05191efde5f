"""The card of a bundle: what it was trained on, what that cost, what came out, in honest words."""

from __future__ import annotations

from services.inference.bundle import Manifest
from training.evaluate import Result
from training.simulation import Run

TRADES_TO_TELL = 100  # below it a result is not put into words

COSTS = {
    "spread": "of the venue's model: base by day, 1.4 times by night, 4 times at the roll",
    "commission": "of the contract, both sides",
    "entry": "first quote 300 ms after the close, on its side of the spread",
    "exit": "first quote of the path at or beyond a level; gaps fill there",
    "swap": "none: positions over the roll pay nothing here",
}

_PURPOSE = {
    "trading": "Trained for profit after costs. Whether it found any stands below; read it before you trade.",
    "plumbing": (
        "**Not for money.** Alpha follows the last hour's move and Risk sets middling levels, so that the "
        "whole mesh is exercised: entries both ways, blocks by each layer, stops and targets. It is "
        "expected to lose its costs."
    ),
}


def card_text(
    manifest: Manifest,
    results: dict[str, tuple[Result, Run, Result]],
    *,
    constant: list[str],
    leaking: list[str],
) -> str:
    """Return the card in Markdown."""
    training = manifest.training
    lines = [
        f"# Bundle {manifest.name}",
        "",
        _PURPOSE[manifest.purpose],
        "",
        "## Data",
        f"- {training.data}, {training.first_bar} to {training.last_bar}; {training.data_sha256[:12]}.",
        "- 70 % training, 15 % validation, 15 % test, in time order, a day left out between them.",
        f"- Seed {training.seed}; PPO steps: {training.alpha_steps} Alpha, {training.risk_steps} Risk.",
        f"- Columns that never changed in training: {', '.join(constant) or 'none'}.",
        f"- Columns that know too much of the next bar: {', '.join(leaking) or 'none'}.",
        "",
        "## Costs",
        *(f"- {name}: {text}." for name, text in manifest.costs.items()),
        "",
        "## Results",
        f"Thresholds: Alpha {manifest.decoding.alpha_threshold:g}, guard {manifest.guard_threshold:.4f}. "
        "They come from validation; the test chose nothing.",
        "",
    ]
    for name, (result, run, chance) in results.items():
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(run.reasons.items()))
        lines += [
            f"- **{name}**, {run.slices} slices: {result.sentence()}.",
            f"  - the same moments with directions by chance: {chance.sentence()}.",
            "  - always flat: net 0.",
            f"  - signals: {reasons}.",
        ]
    lines += ["", "## In words", _verdict(manifest, results["test"][0]), ""]
    return "\n".join(lines)


def _verdict(manifest: Manifest, test: Result) -> str:
    market = (
        "The market is made from a seed, with one small pattern put in on purpose: a result on it says that "
        "the machinery works and nothing about money."
        if training_is_synthetic(manifest)
        else "A result on one stretch of the past promises nothing about the next."
    )
    if not test.trades:
        return f"On the test it did not trade, which costs nothing and earns nothing. {market}"
    if test.trades < TRADES_TO_TELL:
        return (
            f"On the test it made only {test.trades} trades, at {test.mean_r:+.2f} R each: no edge is shown, "
            f"and they are too few to say more. {market}"
        )
    if test.low_r > 0:
        return f"On the test the interval lies above zero. {market}"
    if test.high_r < 0:
        return f"On the test it loses, and that is no accident: the interval lies below zero. {market}"
    return f"On the test its result cannot be told from zero. {market}"


def training_is_synthetic(manifest: Manifest) -> bool:
    """Tell whether a bundle was trained on the random market."""
    return manifest.training.data.startswith("synthetic")
