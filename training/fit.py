"""Fits the three models: PPO for Alpha and Risk, gradient boosting for the guard. Seeds fix all of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final

import lightgbm
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv

from services.features.schema import guard_schema
from services.inference.actors import Normaliser
from services.inference.bundle import Decoding
from shared.errors import InputError
from training.environments import AlphaEnv, Reward, RiskEnv
from training.simulation import Candidate
from training.trades import Market

ENVIRONMENTS: Final = 8
GUARD_CANDIDATES_MIN: Final = 60


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is learned, and from what."""

    name: str
    reward: Reward
    slices: int = 152_000  # more than two years
    seed: int = 20_240_607
    alpha_steps: int = 300_000
    risk_steps: int = 100_000
    hidden: tuple[int, ...] = (64, 64)
    rollout: int = 256  # steps of each environment between updates
    guard_slices: int = 60_000
    guard_trees: int = 60
    max_risk_fraction: float = 0.005  # of equity, one trade

    @property
    def decoding(self) -> Decoding:
        """How the actors' numbers are read."""
        return Decoding(max_risk_fraction=self.max_risk_fraction)


DEFAULT = Plan("default", "profit")
PLUMBING = (
    Plan(  # it trades all day and loses its costs: a fifth of the risk keeps it clear of the day's limit
        "plumbing",
        "momentum",
        seed=20_240_608,
        alpha_steps=200_000,
        guard_slices=20_000,
        max_risk_fraction=0.001,
    )
)


PLANS: Final = {plan.name: plan for plan in (DEFAULT, PLUMBING)}


def quick_plan(plan: Plan) -> Plan:
    """Return a plan of seconds, which shows that everything fits together and nothing more."""
    return Plan(
        plan.name, plan.reward, slices=3_000, seed=plan.seed, alpha_steps=256, risk_steps=128, hidden=(16,),
        rollout=16, guard_slices=600, guard_trees=4, max_risk_fraction=plan.max_risk_fraction,
    )  # fmt: skip


def fit_alpha(market: Market, normaliser: Normaliser, rows: range, plan: Plan) -> bytes:
    """Return Alpha as an SB3 zip."""
    return _fit(
        lambda: AlphaEnv(market, normaliser, rows, reward=plan.reward, decoding=plan.decoding),
        plan.alpha_steps,
        plan.seed,
        plan,
    )


def fit_risk(
    market: Market, normaliser: Normaliser, candidates: Sequence[tuple[int, int, int]], plan: Plan
) -> bytes:
    """Return Risk as an SB3 zip, learned on what Alpha wants to trade.

    Raises:
        InputError: Alpha wants too little to learn from.
    """
    if len(candidates) < GUARD_CANDIDATES_MIN:
        raise InputError(f"Alpha wants only {len(candidates)} trades: too few to learn Risk from")
    return _fit(
        lambda: RiskEnv(market, normaliser, candidates, reward=plan.reward, decoding=plan.decoding),
        plan.risk_steps,
        plan.seed + 1,
        plan,
    )


def _fit(make: Callable[[], Any], steps: int, seed: int, plan: Plan) -> bytes:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    environments = DummyVecEnv([make] * ENVIRONMENTS)
    model = PPO(
        "MlpPolicy",
        environments,
        n_steps=plan.rollout,
        batch_size=max(plan.rollout * ENVIRONMENTS // 4, 32),
        n_epochs=6,
        gamma=0.0,  # a trade's result is paid at once
        gae_lambda=1.0,
        learning_rate=lambda left: 5e-4 * max(left, 0.1),
        ent_coef=0.0,
        policy_kwargs={"net_arch": list(plan.hidden), "log_std_init": -0.7},
        seed=seed,
        device="cpu",
    )
    model.learn(steps)
    # a fresh optimizer: the learned one is twice the model's size and of no use to a trader
    model.policy.optimizer = torch.optim.Adam(model.policy.parameters())
    buffer = BytesIO()
    model.save(buffer)
    return buffer.getvalue()


def fit_guard(columns: NDArray[np.float64], candidates: Sequence[Candidate], plan: Plan) -> str:
    """Return the guard as LightGBM text: does this trade end in profit after costs?

    Raises:
        InputError: there are too few trades, or all ended alike.
    """
    results = np.array([candidate.result_r for candidate in candidates])
    known = np.isfinite(results)
    labels = (results[known] > 0).astype(float)
    if known.sum() < GUARD_CANDIDATES_MIN or labels.min() == labels.max():
        raise InputError(f"{int(known.sum())} finished trades are too few to learn the guard from")
    settings = {
        "objective": "binary",
        "num_leaves": 7,
        "learning_rate": 0.05,
        "min_data_in_leaf": max(20, int(known.sum()) // 200),
        "feature_fraction": 0.5,
        "lambda_l2": 10.0,
        "num_threads": 1,
        "deterministic": True,
        "force_row_wise": True,
        "seed": plan.seed,
        "verbose": -1,
    }
    names = list(guard_schema(("EURUSD", "GBPUSD", "USDJPY", "USDCHF", "XAUUSD")).names)
    names = [name.replace(".", "_") for name in names]
    data = lightgbm.Dataset(columns[known], labels, feature_name=names)
    booster = lightgbm.train(settings, data, num_boost_round=plan.guard_trees)
    return str(booster.model_to_string())
