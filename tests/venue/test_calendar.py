"""The sessions follow New York's clock, whatever clock the process has."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from venue.book import SYMBOLS
from venue.calendar import (
    DAY_MS,
    HOUR_MS,
    MINUTE_MS,
    is_holiday,
    is_open,
    next_open,
    trading_day,
    week_open_ms,
)


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1_000


@pytest.fixture(params=["UTC", "America/New_York", "Asia/Kolkata"])
def _process_zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("_process_zone")
@pytest.mark.parametrize(
    ("friday_close", "sunday_open"),
    [
        ("2018-01-05T22:00", "2018-01-07T22:00"),  # winter: five hours behind
        ("2018-07-06T21:00", "2018-07-08T21:00"),  # summer: four
        ("2018-03-09T22:00", "2018-03-11T21:00"),  # the clocks go forward over this weekend
        ("2018-11-02T21:00", "2018-11-04T22:00"),  # and back over this one
        ("2018-03-23T21:00", "2018-03-25T21:00"),  # Europe's change does not matter
    ],
)
def test_fx_week_runs_from_sunday_to_friday_five_in_the_afternoon(
    friday_close: str, sunday_open: str
) -> None:
    """The week's hours in UTC shift twice a year, and the process's own zone has no say."""
    assert is_open("EURUSD", ms(friday_close) - 1)
    assert not is_open("EURUSD", ms(friday_close))
    assert not is_open("EURUSD", ms(sunday_open) - 1)
    assert is_open("EURUSD", ms(sunday_open))
    assert next_open("EURUSD", ms(friday_close)) == ms(sunday_open)
    assert week_open_ms(ms(sunday_open)) == ms(sunday_open)
    assert week_open_ms(ms(sunday_open) - 1) < ms(friday_close)


@pytest.mark.parametrize("offset", ["2018-03-08T22:00", "2018-03-12T21:00", "2018-11-05T22:00"])
def test_gold_rests_for_an_hour_at_the_roll(offset: str) -> None:
    """Its bars of that hour are absent, and that is not a gap."""
    roll_ms = ms(offset)
    assert is_open("XAUUSD", roll_ms - 1)
    assert not is_open("XAUUSD", roll_ms)
    assert not is_open("XAUUSD", roll_ms + HOUR_MS - 1)
    assert is_open("XAUUSD", roll_ms + HOUR_MS)
    assert is_open("EURUSD", roll_ms)
    assert next_open("XAUUSD", roll_ms) == roll_ms + HOUR_MS


def test_gold_opens_its_week_an_hour_after_fx() -> None:
    """Sunday 18:00 New York, also on the day the clocks change."""
    assert next_open("XAUUSD", ms("2018-03-10T12:00")) == ms("2018-03-11T22:00")
    assert not is_open("XAUUSD", ms("2018-03-11T21:59"))


@pytest.mark.usefixtures("_process_zone")
@pytest.mark.parametrize(
    ("moment", "day"),
    [
        ("2018-03-08T21:59", date(2018, 3, 8)),
        ("2018-03-08T22:00", date(2018, 3, 9)),
        ("2018-03-11T21:00", date(2018, 3, 12)),  # Sunday's open belongs to Monday
        ("2018-03-12T20:59", date(2018, 3, 12)),
        ("2018-03-12T21:00", date(2018, 3, 13)),
    ],
)
def test_trading_day_rolls_at_five_in_new_york(moment: str, day: date) -> None:
    """Swaps and day limits count by this day."""
    assert trading_day(ms(moment)) == day


@pytest.mark.parametrize(
    ("last_ms", "first_ms"),
    [
        ("2024-12-24T22:00", "2024-12-25T22:00"),
        ("2018-12-31T22:00", "2019-01-01T22:00"),
        ("2026-12-24T22:00", "2026-12-27T22:00"),  # a Friday makes a long weekend
    ],
)
def test_nothing_trades_on_christmas_and_new_years_day(last_ms: str, first_ms: str) -> None:
    """A holiday is a trading day: from 17:00 of its eve to 17:00, New York."""
    assert is_open("EURUSD", ms(last_ms) - 1)
    assert not is_open("EURUSD", ms(last_ms))
    assert not is_open("EURUSD", ms(first_ms) - 1)
    assert is_open("EURUSD", ms(first_ms))


@given(symbol=st.sampled_from(SYMBOLS), minute=st.integers(0, 40_000_000))
def test_next_open_is_the_first_open_minute(symbol: str, minute: int) -> None:
    """It is open there, closed all the way to it, and never more than a long weekend away."""
    now_ms = minute * MINUTE_MS
    open_ms = next_open(symbol, now_ms)
    assert is_open(symbol, open_ms)
    assert now_ms <= open_ms <= now_ms + 3 * DAY_MS + 2 * HOUR_MS
    if open_ms > now_ms:
        assert not any(is_open(symbol, t) for t in range(now_ms, open_ms, 10 * MINUTE_MS))
        assert not is_open(symbol, open_ms - 1)


@given(minute=st.integers(100_000, 40_000_000))
def test_week_opens_once_in_seven_days(minute: int) -> None:
    """A random market draws one week at a time, and none twice."""
    now_ms = minute * MINUTE_MS
    start_ms = week_open_ms(now_ms)
    assert start_ms <= now_ms < start_ms + 7 * DAY_MS + HOUR_MS
    assert week_open_ms(start_ms) == start_ms
    assert is_open("EURUSD", start_ms) != is_holiday(start_ms)
    assert not is_open("EURUSD", start_ms - 1)
