from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from shared.contracts import POINTS_PER_UNIT
from training.dataset import Dataset
from training.trades import REQUEST_MS, Market
from venue.ticks import TouchReason

EURUSD = 0
FIRST = 400  # a slice well inside a week


def with_prices(dataset: Dataset, bars: list[tuple[int, int, int, int]]) -> Market:
    """Return the data set with EURUSD's bars from FIRST + 1 on replaced, in points."""
    points, history = dataset.points.copy(), dataset.history
    points[FIRST + 1 : FIRST + 1 + len(bars), EURUSD] = bars
    synthetic = history.synthetic.copy()
    synthetic[FIRST + 1 : FIRST + 1 + len(bars), EURUSD] = False
    return Market(replace(dataset, points=points, history=replace(history, synthetic=synthetic)))


def flat(*prices: int) -> list[tuple[int, int, int, int]]:
    return [(price,) * 4 for price in prices]


def spread_of(market: Market, row: int = FIRST + 1) -> int:
    return int(market.dataset.spread[row, EURUSD])


@pytest.mark.parametrize("moves", [(0, 40, 80, 120, 160), (0, -40, -80, -120, -160), (0, 30, -30, 60, -200)])
def test_a_short_scores_as_a_long_on_the_mirrored_series(dataset: Dataset, moves: tuple[int, ...]) -> None:
    """A sign lost on one side would teach the models that one direction always pays."""
    padding = (*moves, *(moves[-1],) * 5)
    rising = with_prices(dataset, flat(*(110_000 + move for move in padding)))
    falling = with_prices(dataset, flat(*(110_000 - move for move in padding)))
    long = rising.trade(FIRST, EURUSD, 1, 100, 100)
    short = falling.trade(FIRST, EURUSD, -1, 100, 100)
    assert long is not None
    assert short is not None
    assert (long.reason, long.exit_row) == (short.reason, short.exit_row)
    spread = spread_of(rising) / POINTS_PER_UNIT
    assert long.gross == pytest.approx(short.gross, abs=spread / 4)  # paths differ by single ticks
    assert long.commission == short.commission


def test_an_entry_pays_the_next_quote_on_its_side(market: Market) -> None:
    """The close is history when the order arrives."""
    for row in range(FIRST, FIRST + 40):
        path = market.path(row + 1, EURUSD)
        arrival = int(market.dataset.open_time_ms[row + 1]) + REQUEST_MS
        place = next(i for i, time_ms in enumerate(path.time_ms) if time_ms >= arrival)
        assert market.entry(row, EURUSD, 1) == (path.time_ms[place], path.ask[place])
        assert market.entry(row, EURUSD, -1) == (path.time_ms[place], path.bid[place])


def test_before_a_gap_in_time_there_is_no_entry(market: Market) -> None:
    """An order on Friday's last close would be filled on Sunday, at another price."""
    gaps = np.flatnonzero(np.diff(market.dataset.open_time_ms) > 300_000)
    assert gaps.size
    assert market.entry(int(gaps[0]), EURUSD, 1) is None
    assert market.trade(int(gaps[0]), EURUSD, 1, 100, 100) is None


def test_a_gap_fills_at_the_first_quote(dataset: Dataset) -> None:
    """A stop is no promise of a price."""
    market = with_prices(dataset, flat(110_000, 110_000, 109_500, 109_500))
    trade = market.trade(FIRST, EURUSD, 1, 100, 100)
    assert trade is not None
    assert trade.reason == TouchReason.STOP
    assert trade.exit_price == 109_500
    assert trade.result_r < -3


def test_the_path_decides_where_a_bar_touches_both_levels(dataset: Dataset) -> None:
    """Taking the stop first, or the target, would bias every result one way."""
    wide = [(110_000, 110_300, 109_700, 110_000)] * 200
    market = with_prices(dataset, wide)
    reasons = set()
    for row in range(FIRST, FIRST + 60):
        trade = market.trade(row, EURUSD, 1, 150, 150)
        if trade is None:
            continue
        bids = market.path(trade.exit_row, EURUSD).bid
        assert trade.exit_price in bids
        reasons.add(trade.reason)
    assert reasons == {TouchReason.STOP, TouchReason.TARGET}


def test_costs_never_raise_a_result(market: Market) -> None:
    """Net is gross less both commissions; nothing is ever given back."""
    rng = np.random.default_rng(1)
    for _ in range(200):
        row, k, direction = int(rng.integers(300, 2_000)), int(rng.integers(5)), int(rng.choice((-1, 1)))
        step = max(int(2e5 * market.dataset.rows.atr[row, k]) // market.ticks[k], 5) * market.ticks[k]
        trade = market.trade(row, k, direction, step, step)
        if trade is not None:
            assert trade.commission > 0
            assert trade.result_r < trade.gross / trade.risked


@pytest.mark.parametrize("direction", [1, -1])
def test_a_wider_spread_earns_less(dataset: Dataset, direction: int) -> None:
    """The spread is paid by every trade, whichever way it goes."""
    near, far = Market(dataset), Market(replace(dataset, spread=dataset.spread * 3))
    means = []
    for market in (near, far):
        trades = [market.trade(row, EURUSD, direction, 300, 300) for row in range(300, 1_500, 6)]
        means.append(np.mean([trade.result_r for trade in trades if trade is not None]))
    assert means[1] < means[0] - 0.02


def test_yen_and_francs_are_turned_into_dollars(market: Market) -> None:
    """A result in yen would count a hundredfold."""
    row, conversion = 500, market.conversion[500]
    close = market.dataset.rows.close[row]
    assert conversion[0] == conversion[1] == conversion[4] == 1.0
    assert conversion[2] == pytest.approx(1 / close[2], rel=1e-3)
    assert conversion[3] == pytest.approx(1 / close[3], rel=1e-3)
    assert conversion[2] < 1 / close[2]  # the worse side
