"""One command from nothing to a bundle: data, three fits, thresholds, evaluation, card, files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.features.schema import ALPHA_PER_SYMBOL, alpha_schema, guard_schema, risk_schema
from services.inference.actors import Actor
from services.inference.adapters import LightGuard
from services.inference.bundle import CARD_FILE, RISK_OUTPUTS, Bundle, Decoding, Manifest, Policies, Training
from services.inference.chain import EQUITY, risk_observation
from shared.messages import TradeHistory
from training.card import COSTS, card_text
from training.dataset import (
    Dataset,
    Split,
    constant_columns,
    folder_dataset,
    leaking_columns,
    split_of,
    synthetic_dataset,
)
from training.environments import alpha_normaliser, risk_normaliser
from training.evaluate import choose_threshold, evaluate, metrics_of
from training.fit import Plan, fit_alpha, fit_guard, fit_risk
from training.simulation import OpenGuard, candidates_for_guard, flat_actions, wishes_of
from training.trades import Market
from training.wrap import Parts, make_files, plain_actor, policy_tensors, write_folder

ALPHA_THRESHOLDS = (0.33, 0.5, 0.7)
LOWER_THRESHOLDS = (0.33, 0.2, 0.1, 0.05, 0.0)  # for learning only, where Alpha wants too little
WISHES_MIN = 4_000
PLUMBING_BLOCKED = 0.15  # of the candidates, by the guard
SAMPLES = 400

Wish = tuple[int, int, int]  # slice, symbol's place, direction


@dataclass(frozen=True, slots=True)
class Models:
    """What was fitted, and rows to probe it with."""

    parts: Parts
    alpha: Actor
    risk: Actor
    guard: LightGuard
    samples: dict[str, NDArray[np.float32]]


def train_bundle(data: Path | None, out: Path, plan: Plan) -> dict[str, Any]:
    """Train a bundle, write its folder, and return {bundle, metrics, report}.

    Args:
        data: folder of bars; None for the random market of the plan's seed.
        out: the bundle's folder.
        plan: how much to learn.

    Raises:
        InputError: the data are not what is needed, or too few trades came about.
    """
    dataset = synthetic_dataset(plan.seed, slices=plan.slices) if data is None else folder_dataset(data)
    market, split = Market(dataset), split_of(len(dataset.open_time_ms))
    draft = _draft(dataset, split, plan)
    models = _fit_all(market, split, plan, draft)
    manifest = _choose(market, split.validation, plan, models, draft)
    bundle = Bundle(manifest, models.alpha, models.risk, models.guard)
    ranges = {"validation": split.validation, "test": split.test}
    results = {name: evaluate(market, bundle, rows, seed=plan.seed) for name, rows in ranges.items()}
    metrics: dict[str, float] = {}
    for name, (result, _, chance) in results.items():
        metrics |= metrics_of(name, result, chance)
    manifest = manifest.model_copy(update={"metrics": metrics})
    constant, leaking = _suspicious(dataset, split.train)
    card = card_text(manifest, results, constant=constant, leaking=leaking)
    write_folder(make_files(models.parts, manifest, models.samples, card), out)
    return {"bundle": str(out), "metrics": metrics, "report": str(out / CARD_FILE)}


def code_version() -> str:
    """Return the version of this package, as installed; `source` in a checkout that is not."""
    try:
        return version("tradeguard")
    except PackageNotFoundError:
        return "source"


def _fit_all(market: Market, split: Split, plan: Plan, draft: Manifest) -> Models:
    symbols = market.dataset.symbols
    alpha_scale = alpha_normaliser(market.dataset.rows.alpha[split.train.start : split.train.stop])
    risk_scale = risk_normaliser(alpha_scale)
    alpha_zip = fit_alpha(market, alpha_scale, split.train, plan)
    tensors = policy_tensors(alpha_zip, "alpha.zip")
    alpha = plain_actor(tensors, alpha_scale, "tanh", name="alpha", outputs=len(symbols))
    threshold, wishes = _enough_wishes(market, alpha, split.train)
    risk_zip = fit_risk(market, risk_scale, wishes, plan)
    tensors = policy_tensors(risk_zip, "risk.zip")
    risk = plain_actor(tensors, risk_scale, "tanh", name="risk", outputs=RISK_OUTPUTS)
    learner = Bundle(_with(draft, alpha_threshold=max(threshold, 1e-6)), alpha, risk, OpenGuard())
    candidates, columns = candidates_for_guard(market, learner, split.train[-plan.guard_slices :])
    guard_text = fit_guard(columns, candidates, plan)
    samples = _samples(market.dataset, wishes, plan.decoding)
    samples["guard"] = columns[:: max(len(columns) // SAMPLES, 1)].astype(np.float32)
    parts = Parts(alpha_zip, risk_zip, guard_text, alpha_scale, risk_scale)
    return Models(parts, alpha, risk, LightGuard(guard_text), samples)


def _choose(market: Market, rows: range, plan: Plan, models: Models, draft: Manifest) -> Manifest:
    """Return the manifest with thresholds chosen on validation rows, never on the test."""
    best, best_total, best_guard = draft, -np.inf, 0.5
    thresholds = ALPHA_THRESHOLDS if plan.reward == "profit" else ALPHA_THRESHOLDS[:1]
    for threshold in thresholds:
        manifest = _with(draft, alpha_threshold=threshold)
        bundle = Bundle(manifest, models.alpha, models.risk, OpenGuard())
        candidates, columns = candidates_for_guard(market, bundle, rows)
        if not candidates:
            continue
        results = np.array([candidate.result_r for candidate in candidates])
        probabilities = np.array([models.guard.probability(row) for row in columns])
        if plan.reward == "momentum":
            guard = float(np.quantile(probabilities, PLUMBING_BLOCKED))
        else:
            guard = choose_threshold(probabilities, results)
        total = float(np.nansum(results[probabilities >= guard]))
        if total > max(best_total, 0.0) or best_total == -np.inf:  # 0.33 stays unless another one earns
            best, best_total, best_guard = manifest, total, guard
    return best.model_copy(update={"guard_threshold": best_guard})


def _enough_wishes(market: Market, alpha: Actor, rows: range) -> tuple[float, list[Wish]]:
    """Return what Alpha wants to trade, at the highest threshold that gives enough to learn from."""
    actions = flat_actions(market, alpha, rows)
    wishes: list[Wish] = []
    threshold = LOWER_THRESHOLDS[0]
    for threshold in LOWER_THRESHOLDS:
        wishes = wishes_of(market, rows, actions, threshold)
        if len(wishes) >= min(WISHES_MIN, len(rows)):
            break
    return threshold, wishes


def _samples(dataset: Dataset, wishes: Sequence[Wish], decoding: Decoding) -> dict[str, NDArray[np.float32]]:
    alpha, risk = [], []
    for row, k, direction in wishes[:: max(len(wishes) // SAMPLES, 1)]:
        observation = dataset.rows.alpha[row].astype(np.float64)
        observation[EQUITY] = 1.0
        alpha.append(observation)
        risk.append(risk_observation(observation, direction, k, TradeHistory(), decoding))
    return {"alpha": np.array(alpha, np.float32), "risk": np.array(risk, np.float32)}


def _suspicious(dataset: Dataset, rows: range) -> tuple[list[str], list[str]]:
    """Return constant and leaking market columns; the portfolio's are not known before a trade."""
    columns = dataset.rows.alpha[rows.start : rows.stop]
    close = dataset.rows.close[rows.start : rows.stop + 1]
    names = alpha_schema(dataset.symbols).names
    count = ALPHA_PER_SYMBOL * len(dataset.symbols)
    own = {ALPHA_PER_SYMBOL * k + j for k in range(len(dataset.symbols)) for j in range(13, 20)}
    market = [j for j in range(len(names)) if j not in own and not count <= j < count + 4]
    kept = tuple(names[j] for j in market)
    returns = close[1:] / close[:-1] - 1
    return constant_columns(columns[:, market], kept), leaking_columns(columns[:, market], returns, kept)


def _draft(dataset: Dataset, split: Split, plan: Plan) -> Manifest:
    symbols = dataset.symbols
    schemas = {"alpha": alpha_schema(symbols), "risk": risk_schema(symbols), "guard": guard_schema(symbols)}
    return Manifest(
        name=plan.name,
        purpose="trading" if plan.reward == "profit" else "plumbing",
        schemas={layer: schema.tag for layer, schema in schemas.items()},
        symbols=symbols,
        decoding=plan.decoding,
        guard_threshold=0.5,
        policies=Policies(),
        training=Training(
            data=dataset.name,
            data_sha256=dataset.sha256,
            first_bar=dataset.text_time(0),
            last_bar=dataset.text_time(-1),
            seed=plan.seed,
            alpha_steps=plan.alpha_steps,
            risk_steps=plan.risk_steps,
        ),
        costs=COSTS,
        code_version=code_version(),
        metrics={},
        files={},
    )


def _with(manifest: Manifest, *, alpha_threshold: float) -> Manifest:
    decoding = manifest.decoding.model_copy(update={"alpha_threshold": alpha_threshold})
    return manifest.model_copy(update={"decoding": decoding})
