from __future__ import annotations

import numpy as np
import pytest

from services.inference.bundle import Decoding
from training.dataset import Dataset
from training.environments import AlphaEnv, RiskEnv, alpha_normaliser, risk_normaliser
from training.ledger import INITIAL_EQUITY, Ledger
from training.simulation import wishes_of
from training.trades import Market

TRAIN = range(300, 2_300)


@pytest.fixture(scope="module")
def wishes(market: Market) -> list[tuple[int, int, int]]:
    rng = np.random.default_rng(1)
    actions = rng.uniform(-1, 1, size=(1_000, 5))
    return wishes_of(market, range(400, 1_400), actions, 0.5)


def test_every_portfolio_column_moves(dataset: Dataset, market: Market) -> None:
    """A column that is dead in training is a surprise live."""
    normaliser = alpha_normaliser(dataset.rows.alpha[300:])
    env = AlphaEnv(market, normaliser, TRAIN, reward="profit", decoding=Decoding())
    rng = np.random.default_rng(2)
    seen = [env.reset(seed=3)[0]]
    seen += [env.step(rng.uniform(-1, 1, size=5).astype(np.float32))[0] for _ in range(300)]
    columns = np.array(seen)
    own = [25 * k + j for k in range(5) for j in range(13, 20)] + [125, 126, 127, 128]
    assert (np.ptp(columns[:, own], axis=0) > 0).all()
    assert np.isfinite(columns).all()


def test_doing_nothing_earns_nothing(dataset: Dataset, market: Market) -> None:
    """Flat is the baseline of everything."""
    env = AlphaEnv(
        market, alpha_normaliser(dataset.rows.alpha[300:]), TRAIN, reward="profit", decoding=Decoding()
    )
    env.reset(seed=4)
    assert sum(env.step(np.zeros(5, np.float32))[1] for _ in range(50)) == 0.0


def test_the_same_seed_walks_the_same_way(dataset: Dataset, market: Market) -> None:
    """A training can be repeated to the last byte only if its world can."""
    runs = []
    for _ in range(2):
        env = AlphaEnv(
            market, alpha_normaliser(dataset.rows.alpha[300:]), TRAIN, reward="profit", decoding=Decoding()
        )
        first, _ = env.reset(seed=5)
        steps = [env.step(np.full(5, 0.9, np.float32)) for _ in range(30)]
        runs.append((first.tobytes(), [step[0].tobytes() for step in steps], [step[1] for step in steps]))
    assert runs[0] == runs[1]


def test_a_blocked_candidate_costs_nothing(
    dataset: Dataset, market: Market, wishes: list[tuple[int, int, int]]
) -> None:
    """Risk may always say no."""
    scale = risk_normaliser(alpha_normaliser(dataset.rows.alpha[300:]))
    env = RiskEnv(market, scale, wishes, reward="profit", decoding=Decoding())
    env.reset(seed=6)
    assert [env.step(np.array([0, 0, -1], np.float32))[1] for _ in range(50)] == [0.0] * 50


def test_half_the_risk_earns_half_the_result(
    dataset: Dataset, market: Market, wishes: list[tuple[int, int, int]]
) -> None:
    """The knob sizes the trade and does not change which level comes first."""
    scale = risk_normaliser(alpha_normaliser(dataset.rows.alpha[300:]))
    rewards = []
    for knob in (1.0, 0.2):  # r of 1 and 0.6: shares of 1 and a half
        env = RiskEnv(market, scale, wishes, reward="profit", decoding=Decoding())
        env.reset(seed=7)
        rewards.append(env.step(np.array([0.5, 0.0, knob], np.float32))[1])
    assert rewards[0] != 0.0
    assert rewards[1] == pytest.approx(rewards[0] / 2, rel=1e-6)


def test_the_ledger_keeps_one_position_a_symbol_and_its_history(market: Market) -> None:
    """The lock, the last results and the last risk actions are what live rows are made of."""
    ledger = Ledger(market)
    row = 500
    ledger.advance(row)
    action = (1.5, 2.0, 0.005)
    first = ledger.enter(row, 0, 1, 150, 150, action)
    assert not isinstance(first, str)
    assert ledger.enter(row, 0, -1, 150, 150, action) == "ASSET_LOCKED"
    assert ledger.history(0).risk_actions[-1] == action
    closed = ledger.advance(first.outcome.exit_row)
    net = (first.outcome.gross - first.outcome.commission) * first.units
    assert closed == [(0, pytest.approx(net))]
    assert ledger.balance == pytest.approx(INITIAL_EQUITY + net)
    assert ledger.history(0).results[-1] == pytest.approx(net / INITIAL_EQUITY, rel=0.02)
    assert ledger.history(1).results[-1] == 0.0


def test_a_loss_at_the_stop_is_what_was_risked(market: Market) -> None:
    """Sizing, stop and commission agree on what a trade may lose; a jump over the stop adds to it."""
    rows = range(400, 1_800, 11)
    results = [market.trade(row, 0, 1, 150, 100_000) for row in rows]
    losses = [trade.result_r for trade in results if trade is not None and trade.result_r < 0]
    assert losses
    assert max(losses) < -0.99
    assert np.median(losses) > -1.3


def test_wishes_are_those_beyond_the_threshold(market: Market) -> None:
    """Equality is flat, in training as live."""
    actions = np.zeros((1, 5))
    actions[0] = (0.33, 0.34, -0.34, -0.33, 0.0)
    assert wishes_of(market, range(500, 501), actions, Decoding().alpha_threshold) == [
        (500, 1, 1),
        (500, 2, -1),
    ]
