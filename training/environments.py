"""What PPO learns in: Alpha's and Risk's environments, on the live functions and real quote paths.

Both are close to bandits: a trade's whole result is paid at its decision, because what follows from it
is the market's doing. The account goes on all the same, so that its columns look as they will live.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import gymnasium
import numpy as np
from numpy.typing import NDArray

from services.inference.actors import Normaliser
from services.inference.bundle import ALPHA_INPUTS, RISK_INPUTS, RISK_OUTPUTS, Decoding
from services.inference.chain import (
    DRAWDOWN,
    EQUITY,
    alpha_direction,
    decode_risk,
    risk_observation,
    stop_distance,
    target_distance,
)
from training.ledger import Ledger
from training.simulation import distance_points, eligible, symbol_row
from training.trades import Market

Reward = Literal["profit", "momentum"]
Floats32 = NDArray[np.float32]

EPISODE_SLICES = 1_024
EPISODE_CANDIDATES = 128
REFERENCE_SL, REFERENCE_TP = 2.0, 3.0  # ATR: the levels by which Alpha's signals are judged
REFERENCE_RISK = 0.0025
_RESULT_MAX = 4.0  # R, either way: one wild trade is no lesson
_MOMENTUM = 2  # return_12 of a symbol's 25 columns, robustly scaled
_VOLATILITY = 131  # market_volatility, robustly scaled

# The portfolio columns have no spread of their own before a model trades; these are plain scales.
_PORTFOLIO_SCALE = (1.0, 0.1, 0.01, 0.25, 2.0, 2.0, 3.0)
_ACCOUNT = ((1.0, 0.1), (0.0, 0.2), (0.0, 0.1), (0.0, 2.0))  # mean and scale of 125..128
_CANDIDATE = (
    (1.0, 0.1), (0.0, 0.1), (0.0, 1.0), (1.0, 0.2), (0.5, 0.35),
    *((0.0, 0.005),) * 5,
    *((1.0, 1.0), (2.0, 1.5), (0.0, 0.0025)) * 5,
)  # fmt: skip


def alpha_normaliser(alpha: Floats32) -> Normaliser:
    """Return the normaliser of the Alpha observation: the market's from training rows, plain scales else."""
    mean, variance = alpha.mean(axis=0, dtype=np.float64), alpha.var(axis=0, dtype=np.float64)
    for k in range(5):
        columns = slice(25 * k + 13, 25 * k + 20)
        mean[columns], variance[columns] = 0.0, np.square(_PORTFOLIO_SCALE)
    for place, (centre, scale) in enumerate(_ACCOUNT, start=EQUITY):
        mean[place], variance[place] = centre, scale**2
    return Normaliser(mean, np.maximum(variance, 1e-12), 1e-12, 10.0)


def risk_normaliser(alpha: Normaliser) -> Normaliser:
    """Return the normaliser of the Risk observation: Alpha's, then plain scales of the candidate's."""
    mean, scale = np.array(_CANDIDATE).T
    return Normaliser(
        np.concatenate([alpha.mean, mean]), np.concatenate([alpha.variance, np.square(scale)]), 1e-12, 10.0
    )


class AlphaEnv(gymnasium.Env):  # type: ignore[misc]  # gymnasium carries no usable types
    """140 columns in, five numbers out; each signal is judged as if it were traded."""

    def __init__(
        self, market: Market, normaliser: Normaliser, rows: range, *, reward: Reward, decoding: Decoding
    ) -> None:
        self.observation_space = gymnasium.spaces.Box(-10.0, 10.0, (ALPHA_INPUTS,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (len(market.contracts),), np.float32)
        self._market, self._normaliser, self._rows = market, normaliser, rows
        self._reward = reward
        self._decoding = decoding
        self._ledger = Ledger(market)
        self._row = self._end = rows.start
        self._observation = np.empty(0)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Floats32, dict[str, Any]]:
        """Begin at a slice drawn from the training range, with a fresh book."""
        super().reset(seed=seed)
        self._ledger.reset()
        last = max(self._rows.stop - EPISODE_SLICES - 1, self._rows.start + 1)
        self._row = int(self.np_random.integers(self._rows.start, last))
        self._end = min(self._row + EPISODE_SLICES, self._rows.stop - 1)
        self._ledger.advance(self._row)
        return self._observe(), {}

    def step(self, action: Floats32) -> tuple[Floats32, float, bool, bool, dict[str, Any]]:
        """Judge the signals of this slice, enter what is free, and go to the next."""
        if self._reward == "momentum":
            reward = self._follow(action)
        else:
            reward = sum(self._judge(k, float(a)) for k, a in enumerate(action))
        self._row += 1
        self._ledger.advance(self._row)
        return self._observe(), reward, False, self._row >= self._end, {}

    def _observe(self) -> Floats32:
        rows = self._market.dataset.rows
        alpha, guard = rows.alpha[self._row].copy(), rows.guard[self._row].copy()
        self._ledger.fill(self._row, alpha, guard)
        self._observation = alpha.astype(np.float64)
        return self._normaliser.apply(self._observation).astype(np.float32)

    def _judge(self, k: int, action: float) -> float:
        direction = alpha_direction(action, self._decoding)
        if direction == 0 or not eligible(self._market.dataset, self._row, k):
            return 0.0
        result = self._enter(k, direction)
        return 0.0 if result is None else result

    def _enter(self, k: int, direction: int) -> float | None:
        row = symbol_row(self._market, self._ledger, self._row, k)
        if row.atr <= 0:
            return None
        stop = distance_points(stop_distance(row, REFERENCE_SL, self._decoding))
        target = distance_points(target_distance(row, REFERENCE_TP))
        outcome = self._market.trade(self._row, k, direction, stop, target)
        if outcome is None:
            return None
        action = (REFERENCE_SL, REFERENCE_TP, REFERENCE_RISK)
        self._ledger.enter(self._row, k, direction, stop, target, action)
        return float(np.clip(outcome.result_r, -_RESULT_MAX, _RESULT_MAX))

    def _follow(self, action: Floats32) -> float:
        """Return minus the distance to the sign of the last hour's move: no profit is looked for."""
        moves = self._observation[[25 * k + _MOMENTUM for k in range(len(action))]]
        wanted = np.tanh(moves)
        for k, a in enumerate(action):
            wished = abs(float(a)) > self._decoding.alpha_threshold and k not in self._ledger.open
            if wished and eligible(self._market.dataset, self._row, k):
                self._enter(k, 1 if a > 0 else -1)
        return -float(np.square(action - wanted).mean())


class RiskEnv(gymnasium.Env):  # type: ignore[misc]  # gymnasium carries no usable types
    """165 columns of a candidate in, three numbers out; paid the trade's result, as large as it was made."""

    def __init__(
        self,
        market: Market,
        normaliser: Normaliser,
        candidates: Sequence[tuple[int, int, int]],
        *,
        reward: Reward,
        decoding: Decoding,
    ) -> None:
        self.observation_space = gymnasium.spaces.Box(-10.0, 10.0, (RISK_INPUTS,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (RISK_OUTPUTS,), np.float32)
        self._market, self._normaliser = market, normaliser
        self._candidates = candidates
        self._reward = reward
        self._decoding = decoding
        self._ledger = Ledger(market)
        self._place = self._end = 0
        self._observation = np.empty(0)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Floats32, dict[str, Any]]:
        """Begin at a candidate drawn from Alpha's, with a fresh book."""
        super().reset(seed=seed)
        self._ledger.reset()
        last = max(len(self._candidates) - EPISODE_CANDIDATES, 1)
        self._place = int(self.np_random.integers(0, last))
        self._end = min(self._place + EPISODE_CANDIDATES, len(self._candidates) - 1)
        return self._observe(), {}

    def step(self, action: Floats32) -> tuple[Floats32, float, bool, bool, dict[str, Any]]:
        """Trade this candidate, or block it, and go to the next."""
        row, k, direction = self._candidates[self._place]
        drawdown = float(self._observation[DRAWDOWN])
        decided = decode_risk(action.astype(np.float64), drawdown, self._decoding)
        reward = self._shape(action) if self._reward == "momentum" else 0.0
        if decided.risk_fraction is not None:
            symbol = symbol_row(self._market, self._ledger, row, k)
            stop = distance_points(stop_distance(symbol, decided.sl_mult, self._decoding))
            target = distance_points(target_distance(symbol, decided.tp_mult))
            if self._reward == "profit":
                outcome = self._market.trade(row, k, direction, stop, target)
                share = decided.risk_fraction / self._decoding.max_risk_fraction
                reward = (
                    0.0
                    if outcome is None
                    else share * float(np.clip(outcome.result_r, -_RESULT_MAX, _RESULT_MAX))
                )
            self._ledger.enter(
                row, k, direction, stop, target, (decided.sl_mult, decided.tp_mult, decided.risk_fraction)
            )
        self._place += 1
        return self._observe(), reward, False, self._place >= self._end, {}

    def _observe(self) -> Floats32:
        row, k, direction = self._candidates[self._place]
        self._ledger.advance(row)
        rows = self._market.dataset.rows
        alpha, guard = rows.alpha[row].copy(), rows.guard[row].copy()
        self._ledger.fill(row, alpha, guard)
        history = self._ledger.history(k)
        self._observation = risk_observation(alpha.astype(np.float64), direction, k, history, self._decoding)
        return self._normaliser.apply(self._observation).astype(np.float32)

    def _shape(self, action: Floats32) -> float:
        """Return minus the distance to middling levels, and to blocking where the market is wild."""
        wild = float(self._observation[_VOLATILITY])
        decoded = decode_risk(action.astype(np.float64), 0.0, self._decoding)
        knob = float(np.clip(0.6 - 0.35 * wild, 0.0, 1.0))
        miss = (decoded.sl_mult - 1.25, decoded.tp_mult - 1.25, 2 * (decoded.knob - knob))
        return -float(np.square(miss).sum())
