"""The random market is the same for the same seed, and plausible enough to test on."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import pytest

from shared.errors import InputError
from venue.book import CONTRACTS, SYMBOLS
from venue.calendar import M5_MS, is_open, new_york_ms
from venue.market import START_PRICE, BarSeries, Floats, synthetic_market
from venue.ticks import tick_points

START = datetime(2018, 1, 8, tzinfo=UTC)
YEAR = 75_000  # slices


@pytest.fixture(scope="module")
def market() -> dict[str, BarSeries]:
    return synthetic_market(7, START, slices=YEAR)


def columns_of(series: BarSeries) -> list[list[int]]:
    assert series.volume is not None
    columns = (series.open_time_ms, series.open, series.high, series.low, series.close, series.volume)
    return [column.tolist() for column in columns]


def new_york_hours(series: BarSeries) -> list[int]:
    return [new_york_ms(t) // 3_600_000 % 24 for t in series.open_time_ms.tolist()]


def log_returns(series: BarSeries) -> Floats:
    returns: Floats = np.diff(np.log(series.close), prepend=np.log(series.open[0]))
    return returns


def test_same_seed_gives_the_same_market() -> None:
    """A run can be repeated from its seed alone; another seed is another market."""
    one, again, other = (synthetic_market(seed, START, slices=2_000) for seed in (3, 3, 4))
    for symbol in SYMBOLS:
        assert columns_of(one[symbol]) == columns_of(again[symbol])
        assert columns_of(one[symbol]) != columns_of(other[symbol])


def test_longer_market_begins_with_the_shorter_one() -> None:
    """A demo that is given more time shows the same beginning, cut wherever."""
    long = synthetic_market(3, START, slices=5_000)
    for slices in (1, 700, 2_001):
        for symbol, series in synthetic_market(3, START, slices=slices).items():
            size = series.open.size
            assert columns_of(series) == [column[:size] for column in columns_of(long[symbol])]


def test_symbol_does_not_depend_on_its_company() -> None:
    """Asking for fewer symbols takes some away and changes none."""
    end = START + timedelta(days=9)
    alone = synthetic_market(3, START, end=end, symbols=["XAUUSD"])["XAUUSD"]
    assert columns_of(alone) == columns_of(synthetic_market(3, START, end=end)["XAUUSD"])


def test_slices_and_end_both_bound_the_market() -> None:
    """So many stamps of session, or all up to a time: neither one more."""
    stamps: set[int] = set()
    for series in synthetic_market(3, START, slices=1_500).values():
        stamps |= set(series.open_time_ms.tolist())
    assert len(stamps) == 1_500
    end = START + timedelta(days=3)
    ends = [series.open_time_ms[-1] for series in synthetic_market(3, START, end=end).values()]
    assert max(ends) == end.timestamp() * 1_000 - M5_MS


def test_every_bar_is_a_bar_on_the_grid(market: dict[str, BarSeries]) -> None:
    """What the market makes, the quote path and the file reader must accept."""
    for symbol, series in market.items():
        tick = tick_points(CONTRACTS[symbol])
        assert (series.high >= np.maximum(series.open, series.close)).all()
        assert (series.low <= np.minimum(series.open, series.close)).all()
        assert (np.diff(series.open_time_ms) > 0).all()
        for prices in (series.open, series.high, series.low, series.close):
            assert (prices % tick == 0).all()
        assert series.volume is not None
        assert series.volume.dtype == np.int64
        assert series.volume.min() > 0


def test_bars_lie_inside_their_sessions(market: dict[str, BarSeries]) -> None:
    """Weekends and gold's break are empty, under both of New York's offsets."""
    for symbol, series in market.items():
        assert all(is_open(symbol, t) for t in series.open_time_ms.tolist())


def test_only_bars_of_the_thin_hour_are_missing(market: dict[str, BarSeries]) -> None:
    """Some slices must need a synthetic bar, or nobody would notice that they are handled wrong."""
    series = market["EURUSD"]
    missing = [
        stamp
        for before, after in pairwise(series.open_time_ms.tolist())
        for stamp in range(before + M5_MS, after, M5_MS)
        if is_open("EURUSD", stamp)
    ]
    assert missing
    assert {new_york_ms(stamp) // 3_600_000 % 24 for stamp in missing} == {17}


def test_prices_stay_plausible(market: dict[str, BarSeries]) -> None:
    """Features and contracts are tested where they will be used, not at a hundred dollars a euro."""
    for symbol, series in market.items():
        relative = series.close / 100_000 / START_PRICE[symbol]
        assert 0.7 < relative.min() < relative.max() < 1.4


@pytest.mark.parametrize(("symbol", "low", "high"), [("EURUSD", 0.00035, 0.00055), ("XAUUSD", 0.5, 1.1)])
def test_bars_have_real_sizes_in_london_hours(
    market: dict[str, BarSeries], symbol: str, low: float, high: float
) -> None:
    """Stops are multiples of the ATR and costs are not: their ratio has to be a real one."""
    series = market[symbol]
    hours = np.array(new_york_hours(series))
    ranges = (series.high - series.low)[(hours >= 3) & (hours < 12)] / 100_000
    assert low < ranges.mean() < high


def test_volatility_clusters_and_tails_are_fat(market: dict[str, BarSeries]) -> None:
    """Both are what risk limits are for."""
    returns = log_returns(market["EURUSD"])
    size = np.abs(returns)
    assert np.corrcoef(size[:-12], size[12:])[0, 1] > 0.1
    assert np.mean((returns / returns.std()) ** 4) > 8


def test_symbols_move_together_as_they_do(market: dict[str, BarSeries]) -> None:
    """Exposure in two symbols can be one exposure."""
    returns = {
        symbol: dict(zip(series.open_time_ms.tolist(), log_returns(series), strict=True))
        for symbol, series in market.items()
    }
    common = sorted(set.intersection(*(set(by_time) for by_time in returns.values())))

    def correlation(first: str, second: str) -> float:
        one, other = ([returns[symbol][t] for t in common] for symbol in (first, second))
        return float(np.corrcoef(one, other)[0, 1])

    assert correlation("EURUSD", "GBPUSD") > 0.3
    assert correlation("EURUSD", "USDCHF") < -0.4
    assert 0.1 < correlation("XAUUSD", "EURUSD") < 0.6


def pattern_correlation(series: BarSeries, first_hour: int, last_hour: int) -> float:
    """Correlate each bar's return with the sum of the twelve before, in some New York hours."""
    hours = np.array(new_york_hours(series))
    returns = log_returns(series)
    scale = np.array([returns[hours == hour].std() if (hours == hour).any() else 1.0 for hour in range(24)])
    scaled = np.clip(returns / scale[hours], -4, 4)
    before = np.convolve(scaled, np.ones(12))[: scaled.size - 1]
    inside = ((hours >= first_hour) & (hours < last_hour))[1:]
    return float(np.corrcoef(before[inside], scaled[1:][inside])[0, 1])


def test_pattern_is_where_the_docstring_says_and_nowhere_else(market: dict[str, BarSeries]) -> None:
    """A model can find it; a model that finds more has looked ahead."""
    for symbol in SYMBOLS:
        assert 0.03 < pattern_correlation(market[symbol], 3, 12) < 0.09
        assert -0.09 < pattern_correlation(market[symbol], 18, 24) < -0.03
        assert abs(pattern_correlation(market[symbol], 12, 17)) < 0.03


def test_pattern_can_be_switched_off() -> None:
    """The control experiment: with nothing to learn, nothing may be learnt."""
    series = synthetic_market(7, START, slices=YEAR, structure_strength=0.0)["EURUSD"]
    assert abs(pattern_correlation(series, 3, 12)) < 0.025


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "either slices or end"),
        ({"slices": 5, "end": START + timedelta(days=1)}, "either slices or end"),
        ({"slices": 0}, "slices 0: give at least 1"),
        ({"end": START}, "is not after start"),
        ({"end": datetime(2019, 1, 1)}, "need a time zone"),  # noqa: DTZ001 - the mistake
        ({"slices": 5, "seed": -1}, "seed -1"),
        ({"slices": 5, "structure_strength": 0.9}, "structure_strength 0.9"),
        ({"slices": 5, "symbols": ["EURJPY"]}, "EURJPY is not in this market"),
    ],
)
def test_wrong_argument_is_named(arguments: dict[str, object], message: str) -> None:
    """The message says which one, and what would be right."""
    with pytest.raises(InputError, match=message):
        synthetic_market(**{"seed": 1, "start": START, **arguments})  # type: ignore[arg-type]
