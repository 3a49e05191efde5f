"""History of every period agrees with the five-minute bars and the quotes that were played."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from venue.bars import Bar, BarStore
from venue.book import CONTRACTS
from venue.calendar import DAY_MS, M5_MS, MINUTE_MS, NEW_YORK
from venue.market import synthetic_market
from venue.past import TICKS_MAX, bars, ticks
from venue.periods import Period
from venue.playback import Playback
from venue.records import Side

START = datetime(2025, 2, 23, 22, tzinfo=UTC)
FAR_MS = 2**53


@pytest.fixture(scope="module")
def playback() -> Playback:
    """Three weeks, over the change of New York's clocks, played up to the middle of a bar."""
    store = BarStore(CONTRACTS, synthetic_market(5, START, slices=4_300), data_set="past")
    return Playback(store, store.slice_open(4_200) + 140_000)


def merged(parts: list[Bar]) -> tuple[int, int, int, int]:
    return (
        parts[0].open,
        max(bar.high for bar in parts),
        min(bar.low for bar in parts),
        parts[-1].close,
    )


@pytest.mark.parametrize("period", [each for each in Period if not each.needs_quotes])
def test_long_bar_is_made_of_its_short_ones(playback: Playback, period: Period) -> None:
    """Open, extremes, close and volume of all that lies in it, the forming one included; none is doubled."""
    short = bars(playback, "EURUSD", Period.M5, 0, FAR_MS).bars
    made = bars(playback, "EURUSD", period, 0, FAR_MS).bars
    assert sum(bar.volume for bar in made) == sum(bar.volume for bar in short)
    inside: dict[int, list[Bar]] = defaultdict(list)
    for bar in short:
        inside[period.open_ms(bar.open_ms)].append(bar)
    for bar in made:
        assert (bar.open, bar.high, bar.low, bar.close) == merged(inside[bar.open_ms])
    assert [bar.open_ms for bar in made] == sorted({bar.open_ms for bar in made})


@pytest.mark.parametrize("period", [each for each in Period if each.needs_quotes])
def test_minutes_are_made_of_the_quotes(playback: Playback, period: Period) -> None:
    """Twenty minutes of them are the four bars that they make up, volume included."""
    since_ms = playback.store.slice_open(4_000) // (20 * MINUTE_MS) * 20 * MINUTE_MS
    if period is Period.M3:
        since_ms = since_ms // (60 * MINUTE_MS) * 60 * MINUTE_MS
    until_ms = since_ms + 60 * MINUTE_MS - 1
    minutes = bars(playback, "USDJPY", period, since_ms, until_ms).bars
    short = bars(playback, "USDJPY", Period.M5, since_ms, until_ms).bars
    assert merged(minutes) == merged(short)
    assert sum(bar.volume for bar in minutes) == sum(bar.volume for bar in short)
    assert all(bar.open_ms % period.length_ms == 0 for bar in minutes)


def test_nothing_to_come_is_told(playback: Playback) -> None:
    """The forming bar ends at the last quote played, in every period."""
    for period in Period:
        last = bars(playback, "EURUSD", period, 0, FAR_MS, 3).bars[-1]
        assert last.close == playback.start_quotes["EURUSD"].bid
        assert last.open_ms <= playback.time_ms
    told, _ = ticks(playback, "EURUSD", Side.SELL, playback.time_ms - DAY_MS, FAR_MS)
    assert told[0].time_ms <= playback.time_ms


@settings(max_examples=40, deadline=None)
@given(period=st.sampled_from(Period), count=st.integers(1, 40), back=st.integers(0, 2_000))
def test_count_gives_the_last_bars_up_to_a_time(
    playback: Playback, period: Period, count: int, back: int
) -> None:
    """As the whole history has them, whatever the page: a cut never shows half a bar."""
    to_ms = playback.time_ms - back * M5_MS
    page = bars(playback, "XAUUSD", period, 0, to_ms, count)
    assert len(page.bars) <= count
    if period.needs_quotes:
        again = bars(playback, "XAUUSD", period, page.bars[0].open_ms, to_ms).bars
    else:
        again = [bar for bar in bars(playback, "XAUUSD", period, 0, FAR_MS).bars if bar.open_ms <= to_ms]
        assert page.has_more == (len(again) > count)
    assert page.bars == again[-count:]


@pytest.mark.parametrize(
    ("period", "local_hours"), [(Period.D1, {17}), (Period.H12, {17, 5}), (Period.H4, {17, 21, 1, 5, 9, 13})]
)
def test_long_bars_follow_the_new_york_day(playback: Playback, period: Period, local_hours: set[int]) -> None:
    """Their hours in UTC shift with the clocks; on New York's own clock they do not."""
    opens = [bar.open_ms for bar in bars(playback, "EURUSD", period, 0, FAR_MS).bars]
    hours = {datetime.fromtimestamp(open_ms / 1_000, NEW_YORK).hour for open_ms in opens}
    assert hours == local_hours
    utc_hours = {datetime.fromtimestamp(open_ms / 1_000, UTC).hour for open_ms in opens}
    assert len(utc_hours) == 2 * len(local_hours)


def test_week_opens_on_sunday_and_month_on_its_first_trading_day() -> None:
    """March 2025 begins on a Saturday, so its first trading day opens on Friday evening's Sunday."""
    monday = int(datetime(2025, 3, 10, 12, tzinfo=UTC).timestamp() * 1_000)
    week = datetime.fromtimestamp(Period.W1.open_ms(monday) / 1_000, NEW_YORK)
    assert (week.weekday(), week.hour, week.day) == (6, 17, 9)
    month = datetime.fromtimestamp(Period.MN1.open_ms(monday) / 1_000, NEW_YORK)
    assert (month.month, month.day, month.hour) == (2, 28, 17)


def test_ticks_are_the_changes_of_one_side_newest_first(playback: Playback) -> None:
    """Each differs from the next; a page that is cut says so and goes on where it ended."""
    since_ms = playback.time_ms - 4 * DAY_MS
    for side in Side:
        told, has_more = ticks(playback, "EURUSD", side, since_ms, playback.time_ms)
        assert (len(told), has_more) == (TICKS_MAX, True)
        assert all(newer.time_ms > older.time_ms for newer, older in pairwise(told))
        for newer, older in pairwise(told):  # the first quote of a bar moves both sides, as in the stream
            assert newer.price != older.price or newer.time_ms // M5_MS != older.time_ms // M5_MS
        older_page, _ = ticks(playback, "EURUSD", side, since_ms, told[-1].time_ms - 1)
        whole, _ = ticks(playback, "EURUSD", side, older_page[-1].time_ms, told[-1].time_ms - 1)
        assert older_page == whole
