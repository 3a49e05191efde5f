"""The quote path rebuilds its bar exactly, and is the same whoever asks for it."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import InputError
from venue.bar_files import load_bars
from venue.book import CONTRACTS, SYMBOLS
from venue.calendar import M5_MS
from venue.ticks import (
    FIRST_QUOTE_MS_MAX,
    FIRST_QUOTE_MS_MIN,
    QUOTES_MAX,
    QUOTES_MIN,
    QuotePath,
    Touch,
    TouchReason,
    first_touch,
    path_seed,
    path_volume,
    quote_path,
    spread_points,
    tick_points,
)

MONDAY_NOON_MS = 1_520_251_200_000  # 2018-03-05 12:00 UTC
Bar = tuple[str, int, int, int, int, int]  # symbol, open, high, low, close, open time


ANY_RANGE = st.one_of(st.integers(0, 3), st.integers(0, 300), st.integers(0, 50_000))


@st.composite
def a_bar(draw: st.DrawFn, *, range_ticks: st.SearchStrategy[int] = ANY_RANGE) -> Bar:
    """Any bar of any symbol, on its grid."""
    symbol = draw(st.sampled_from(SYMBOLS))
    tick = tick_points(CONTRACTS[symbol])
    low = draw(st.integers(min_value=1, max_value=2_000_000))
    width = draw(range_ticks)
    inside = st.integers(low, low + width)
    open_, high, low, close = (tick * price for price in (draw(inside), low + width, low, draw(inside)))
    return symbol, open_, high, low, close, draw(st.integers(0, 10_000_000)) * M5_MS


def path_of(bar: Bar, data_set: str = "tests") -> QuotePath:
    symbol, open_, high, low, close, time_ms = bar
    return quote_path(
        CONTRACTS[symbol],
        open_,
        high,
        low,
        close,
        time_ms,
        seed=path_seed(data_set, symbol),
        spread_points=spread_points(symbol, time_ms),
    )


@given(bar=a_bar())
def test_path_rebuilds_its_bar_exactly(bar: Bar) -> None:
    """A bar built from the venue's quotes is the bar that was put in."""
    bids = path_of(bar).bid
    assert (bids[0], max(bids), min(bids), bids[-1]) == bar[1:5]


@given(bar=a_bar())
def test_path_stays_inside_its_bar_and_moves_with_every_quote(bar: Bar) -> None:
    """Tick volume counts changes, so a quote that changes nothing would not be one."""
    symbol, open_time_ms = bar[0], bar[5]
    path = path_of(bar)
    quotes = list(zip(*path, strict=True))
    first_ms = path.time_ms[0] - open_time_ms
    assert QUOTES_MIN <= len(quotes) <= QUOTES_MAX
    assert FIRST_QUOTE_MS_MIN <= first_ms <= FIRST_QUOTE_MS_MAX
    assert path.time_ms[-1] < open_time_ms + M5_MS
    for before, after in pairwise(quotes):
        assert before[0] < after[0]
        assert before[1:] != after[1:]
    tick = tick_points(CONTRACTS[symbol])
    for _, bid, ask in quotes:
        assert bid % tick == ask % tick == 0
        assert abs(ask - bid - spread_points(symbol, open_time_ms)) <= tick
        assert ask - bid >= tick


@given(bar=a_bar(range_ticks=st.just(0)))
def test_bar_without_range_still_has_quotes(bar: Bar) -> None:
    """Its asks move alone: a bar that had ticks has a volume."""
    path = path_of(bar)
    assert set(path.bid) == {bar[1]}
    assert path_volume(path) == len(path.ask) + 1


@given(bars=st.lists(a_bar(), min_size=2, max_size=5))
def test_path_does_not_depend_on_what_was_asked_before(bars: list[Bar]) -> None:
    """Any part of a history gives the same quotes: backtests of a week and of a year agree."""
    forward = [path_of(bar) for bar in bars]
    backward = [path_of(bar) for bar in reversed(bars)]
    assert forward == backward[::-1]


def test_path_is_the_same_on_every_machine_and_in_every_version() -> None:
    """A recorded session is replayed years later, so a path may never change unnoticed."""
    path = path_of(("EURUSD", 123_178, 123_230, 123_160, 123_200, MONDAY_NOON_MS))
    assert list(zip(*path, strict=True))[:3] == [
        (1_520_251_200_117, 123_178, 123_186),
        (1_520_251_213_692, 123_160, 123_169),
        (1_520_251_223_354, 123_192, 123_200),
    ]
    assert (len(path.bid), path_volume(path)) == (22, 39)


def test_paths_differ_between_data_sets_symbols_and_times() -> None:
    """The seed has three parts, and each of them counts."""
    bar = ("EURUSD", 123_178, 123_230, 123_160, 123_200, MONDAY_NOON_MS)
    moved = (*bar[:5], MONDAY_NOON_MS + M5_MS)
    paths = [path_of(bar), path_of(bar, "another"), path_of(moved), path_of(("GBPUSD", *bar[1:]))]
    offsets = [tuple(time_ms - path.time_ms[0] for time_ms in path.time_ms) for path in paths]
    assert len(set(offsets)) == len(paths)


def test_extreme_nearer_to_the_open_comes_first_in_two_cases_of_three() -> None:
    """The order decides which of stop and target is met first: 0.65 is the tick model's promise."""
    nearer_first = 0
    for index in range(4_000):
        path = path_of(("EURUSD", 110_010, 110_050, 110_000, 110_030, MONDAY_NOON_MS + index * M5_MS))
        nearer_first += path.bid.index(110_000) < path.bid.index(110_050)
    assert nearer_first / 4_000 == pytest.approx(0.65, abs=0.025)


def test_wide_bars_have_more_quotes_than_narrow_ones() -> None:
    """Modelled volume has to mean something: it grows with the range."""

    def volume(width: int) -> int:
        times = range(MONDAY_NOON_MS, MONDAY_NOON_MS + 100 * M5_MS, M5_MS)
        return sum(
            path_volume(path_of(("EURUSD", 110_000, 110_000 + width, 110_000, 110_000, t))) for t in times
        )

    assert volume(5) < volume(50) < volume(500)


@pytest.mark.parametrize(
    "prices",
    [
        (110_000, 109_990, 109_980, 109_985),
        (110_000, 110_010, 109_990, 110_020),
        (110_000, 110_010, 0, 110_000),
    ],
)
def test_prices_that_are_no_bar_are_refused(prices: tuple[int, int, int, int]) -> None:
    """A path of an impossible bar would be an invention."""
    with pytest.raises(InputError, match="EURUSD at 0: not open, high, low, close"):
        path_of(("EURUSD", *prices, 0))


def test_prices_off_the_grid_are_refused() -> None:
    """Two digits mean two digits, at the venue too."""
    with pytest.raises(InputError, match="XAUUSD at 0: prices are not multiples of 1000 points"):
        path_of(("XAUUSD", 130_000_500, 130_001_000, 130_000_000, 130_000_000, 0))


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        ("2018-03-05T07:00", 8),  # day begins
        ("2018-03-05T19:59", 8),
        ("2018-03-05T20:00", 11),  # night: 0.8 pip x 1.4, on the grid
        ("2018-03-05T06:59", 11),
        ("2018-03-05T21:54", 11),  # New York is five hours behind ...
        ("2018-03-05T21:55", 32),
        ("2018-03-05T23:04", 32),
        ("2018-03-05T23:05", 11),
        ("2018-03-12T20:54", 11),  # ... and four from 11 March 2018 on
        ("2018-03-12T20:55", 32),
        ("2018-03-12T22:04", 32),
        ("2018-03-12T22:05", 11),
        ("2018-11-02T20:55", 32),  # summer time in New York ends two days later
        ("2018-11-05T20:55", 11),
        ("2018-11-05T21:55", 32),
    ],
)
def test_spread_widens_at_night_and_at_the_new_york_roll(time: str, expected: int) -> None:
    """The roll follows New York's clock, which changes on other days than Europe's."""
    moment = datetime.fromisoformat(time).replace(tzinfo=UTC)
    assert spread_points("EURUSD", int(moment.timestamp()) * 1_000) == expected


@given(symbol=st.sampled_from(SYMBOLS), bar=st.integers(0, 10_000_000), offset_ms=st.integers(0, M5_MS - 1))
def test_spread_is_one_for_a_whole_bar(symbol: str, bar: int, offset_ms: int) -> None:
    """So a path needs one spread, and a bar split anywhere has the same."""
    spread = spread_points(symbol, bar * M5_MS)
    assert spread == spread_points(symbol, bar * M5_MS + offset_ms)
    assert spread % tick_points(CONTRACTS[symbol]) == 0


def test_spread_of_an_unknown_symbol_is_an_error() -> None:
    """A guessed spread would be a guessed cost."""
    with pytest.raises(InputError, match="no base spread is known for EURJPY"):
        spread_points("EURJPY", 0)


PATH = QuotePath([10, 20, 30, 40], [100, 90, 120, 105], [102, 92, 122, 107])


def test_stop_of_a_long_fills_on_the_bid_at_the_first_quote_beyond() -> None:
    """A gap fills where the market is, not at the level."""
    assert first_touch(PATH, "LONG", 95, 130) == Touch(1, 20, 90, TouchReason.STOP)


def test_stop_of_a_short_fills_on_the_ask() -> None:
    """A short is bought back, and one buys at the ask."""
    assert first_touch(PATH, "SHORT", 121, 80) == Touch(2, 30, 122, TouchReason.STOP)


def test_target_fills_at_the_quote_that_reaches_it() -> None:
    """A gap in one's favour is kept."""
    assert first_touch(PATH, "LONG", 80, 110) == Touch(2, 30, 120, TouchReason.TARGET)
    assert first_touch(PATH, "SHORT", 130, 92) == Touch(1, 20, 92, TouchReason.TARGET)


def test_quotes_up_to_the_entry_do_not_count() -> None:
    """A stop that was not there yet cannot be met."""
    assert first_touch(PATH, "LONG", 95, 130, after_ms=20) is None
    assert first_touch(PATH, "LONG", None, None) is None


@pytest.mark.parametrize(("side", "stop", "target"), [("LONG", 100, 100), ("SHORT", 90, 95)])
def test_stop_beyond_the_target_is_refused(side: str, stop: int, target: int) -> None:
    """Levels that are swapped are a bug of the caller's, and would close at once."""
    with pytest.raises(InputError, match=f"a {side} cannot have its stop"):
        first_touch(PATH, side, stop, target)  # type: ignore[arg-type]


@given(bar=a_bar(range_ticks=st.integers(1, 200)), stop=st.integers(1, 100), target=st.integers(1, 100))
def test_a_short_closes_where_a_long_does_on_the_mirrored_path(bar: Bar, stop: int, target: int) -> None:
    """A winning short scores as the winning long of the mirrored market."""
    path = path_of(bar)
    tick = tick_points(CONTRACTS[bar[0]])
    entry = path.ask[0]
    mirrored = QuotePath(
        path.time_ms, [2 * entry - ask for ask in path.ask], [2 * entry - bid for bid in path.bid]
    )
    short = first_touch(path, "SHORT", entry + stop * tick, entry - target * tick)
    long = first_touch(mirrored, "LONG", entry - stop * tick, entry + target * tick)
    assert (short is None) == (long is None)
    if short is not None and long is not None:
        assert short == long._replace(price=2 * entry - long.price)


@pytest.mark.skipif("TRADEGUARD_FX_M5" not in os.environ, reason="TRADEGUARD_FX_M5 names no folder of bars")
def test_every_bar_of_a_real_month_is_rebuilt_exactly() -> None:
    """Real bars have gaps, spikes and flat stretches that no generator thinks of."""
    folder = Path(os.environ["TRADEGUARD_FX_M5"])
    start, end = datetime(2018, 3, 1, tzinfo=UTC), datetime(2018, 4, 1, tzinfo=UTC)
    for symbol, series in load_bars(folder, CONTRACTS, start=start, end=end).items():
        columns = (series.open, series.high, series.low, series.close, series.open_time_ms)
        bars = list(zip(*(column.tolist() for column in columns), strict=True))
        assert len(bars) > 5_000
        for bar in bars:
            bids = path_of((symbol, *bar), "fx_m5").bid
            assert (bids[0], max(bids), min(bids), bids[-1]) == bar[:4]
