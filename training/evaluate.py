"""What a bundle would have earned: thresholds from validation, results on validation and test, baselines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.inference.bundle import Bundle
from training.simulation import Candidate, Run, simulate
from training.trades import Market

BOOTSTRAP_DRAWS: Final = 2_000
CONFIDENCE: Final = 0.95
TRADES_MIN: Final = 30  # fewer say nothing: a threshold that leaves fewer is not chosen
_QUANTILES: Final = (0.0, 0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95)


@dataclass(frozen=True, slots=True)
class Result:
    """Trades after costs, in multiples of what each risked; the interval is of the mean."""

    trades: int
    mean_r: float
    low_r: float
    high_r: float
    win_rate: float
    net_return: float | None  # of initial equity; None where the trades had no account
    max_drawdown: float | None

    def sentence(self) -> str:
        """Return the result in words."""
        if not self.trades:
            return "no trades: net 0"
        account = ""
        if self.net_return is not None and self.max_drawdown is not None:
            account = f", net {self.net_return:+.2%} of equity, largest drawdown {self.max_drawdown:.2%}"
        return (
            f"{self.trades} trades, mean {self.mean_r:+.3f} R after costs "
            f"(95 % interval {self.low_r:+.3f} to {self.high_r:+.3f}), {self.win_rate:.0%} won{account}"
        )


def result_of(results_r: Sequence[float], equity: Sequence[float], *, seed: int) -> Result:
    """Return what trades amounted to, with a bootstrap interval of their mean.

    Args:
        results_r: net results in multiples of what was risked.
        equity: at each slice; empty where there is no account.
        seed: of the bootstrap.
    """
    results = np.asarray([value for value in results_r if np.isfinite(value)], np.float64)
    curve = np.asarray(equity, np.float64)
    net = float(curve[-1] / curve[0] - 1) if curve.size else None
    drawdown = float((1 - curve / np.maximum.accumulate(curve)).max()) if curve.size else None
    if not results.size:
        return Result(0, 0.0, 0.0, 0.0, 0.0, net, drawdown)
    rng = np.random.default_rng(seed)
    draws = np.array([rng.choice(results, results.size).mean() for _ in range(BOOTSTRAP_DRAWS)])
    low, high = np.quantile(draws, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Result(
        trades=int(results.size),
        mean_r=float(results.mean()),
        low_r=float(low),
        high_r=float(high),
        win_rate=float((results > 0).mean()),
        net_return=net,
        max_drawdown=drawdown,
    )


def choose_threshold(probabilities: NDArray[np.float64], results_r: NDArray[np.float64]) -> float:
    """Return the guard's threshold with the best total result, among quantiles that leave enough trades.

    The caller gives candidates of validation, never of the test. If every choice loses, the one that
    loses least a trade is returned: a guard that blocks all would look like a success.

    Args:
        probabilities: the guard's, one a candidate.
        results_r: of the same candidates, net; NaN where a trade never ended.
    """
    known = np.isfinite(results_r)
    probabilities, results_r = probabilities[known], results_r[known]
    best, best_score = 0.5, -np.inf
    for quantile in _QUANTILES:
        if not probabilities.size:
            break
        threshold = float(np.quantile(probabilities, quantile))
        taken = results_r[probabilities >= threshold]
        if taken.size < TRADES_MIN:
            break
        score = float(taken.sum() if taken.sum() > 0 else taken.mean() - 1e6)
        if score > best_score:
            best, best_score = threshold, score
    return best


def random_directions(market: Market, candidates: Sequence[Candidate], count: int, *, seed: int) -> Result:
    """Return what as many trades at the same moments, in directions drawn by chance, would have given."""
    rng = np.random.default_rng(seed)
    results = []
    if candidates and count:
        places = np.sort(rng.choice(len(candidates), size=min(count, len(candidates)), replace=False))
        for place in places.tolist():
            chosen = candidates[place]
            atr = float(market.dataset.rows.atr[chosen.row, chosen.k])
            tick = market.ticks[chosen.k]
            spread = int(market.dataset.spread[chosen.row, chosen.k])
            stop = max(int(max(chosen.sl_mult, 1.0) * atr * 1e5) // tick + 1, 3 * spread // tick) * tick
            target = max(int(chosen.tp_mult * atr * 1e5) // tick, 1) * tick
            direction = int(rng.choice((-1, 1)))
            outcome = market.trade(chosen.row, chosen.k, direction, stop, target)
            if outcome is not None:
                results.append(outcome.result_r)
    return result_of(results, (), seed=seed)


def evaluate(market: Market, bundle: Bundle, rows: range, *, seed: int) -> tuple[Result, Run, Result]:
    """Return the chain's result over a range, what it did, and the random baseline beside it."""
    run = simulate(market, bundle, rows, judge_all=True)
    traded = [c for c in run.candidates if c.reason == "ALLOWED"]
    result = result_of(run.trades_r, run.equity, seed=seed)
    return result, run, random_directions(market, traded, len(run.trades_r), seed=seed)


def metrics_of(name: str, result: Result, chance: Result) -> dict[str, float]:
    """Return a result as the numbers of a manifest."""
    return {
        f"{name}_trades": float(result.trades),
        f"{name}_mean_r": round(result.mean_r, 6),
        f"{name}_mean_r_low": round(result.low_r, 6),
        f"{name}_mean_r_high": round(result.high_r, 6),
        f"{name}_net_return": round(result.net_return or 0.0, 6),
        f"{name}_max_drawdown": round(result.max_drawdown or 0.0, 6),
        f"{name}_win_rate": round(result.win_rate, 6),
        f"{name}_random_trades": float(chance.trades),
        f"{name}_random_mean_r": round(chance.mean_r, 6),
        f"{name}_flat_net_return": 0.0,
    }
