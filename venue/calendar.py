"""When the market is open, in New York time: the FX week, gold's daily break, the day's roll, two holidays.

Other holidays are sessions without quotes: their bars are simply absent.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

NEW_YORK = ZoneInfo("America/New_York")
MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS
M5_MS = 5 * MINUTE_MS

ROLL_HOUR = 17  # the FX day and week begin and end here, New York time
BREAK_END_HOUR = 18  # gold comes back an hour later, and opens its week then
HOLIDAYS = {(12, 25): "Christmas", (1, 1): "New Year's Day"}  # trading days, by month and day; assumed
DAILY_BREAK_SYMBOLS = frozenset({"XAUUSD"})

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FRIDAY, _SATURDAY, _SUNDAY = 4, 5, 6


@lru_cache(maxsize=4_096)
def _offset_of_hour_ms(utc_hour: int) -> int:
    """Return New York's offset within one UTC hour; the clocks change on the hour."""
    offset = datetime.fromtimestamp(utc_hour * 3_600, NEW_YORK).utcoffset()
    if offset is None:  # pragma: no cover - an aware time always has one
        raise AssertionError("an aware time has an offset")
    return offset // timedelta(milliseconds=1)


def new_york_ms(time_ms: int) -> int:
    """Return New York's wall clock as milliseconds since its own 1970-01-01 00:00."""
    return time_ms + _offset_of_hour_ms(time_ms // HOUR_MS)


def utc_ms(day: date, hour: int, minute: int = 0) -> int:
    """Return the time in UTC milliseconds of a New York wall clock reading."""
    local = datetime(day.year, day.month, day.day, hour, minute, tzinfo=NEW_YORK)
    return (local - _EPOCH) // timedelta(milliseconds=1)


def is_holiday(time_ms: int) -> bool:
    """Tell whether the trading day of a time is a holiday of every symbol."""
    return _is_holiday_hour(time_ms // HOUR_MS)


@lru_cache(maxsize=4_096)
def _is_holiday_hour(utc_hour: int) -> bool:
    day = trading_day(utc_hour * HOUR_MS)
    return (day.month, day.day) in HOLIDAYS


def is_open(symbol: str, time_ms: int) -> bool:
    """Tell whether the symbol trades at this time.

    FX trades from Sunday 17:00 to Friday 17:00 New York. Gold does too, less the hour from 17:00 of
    every day, so its week opens on Sunday 18:00. Nothing trades on a holiday.
    """
    if is_holiday(time_ms):
        return False
    local_ms = new_york_ms(time_ms)
    weekday = (local_ms // DAY_MS + 3) % 7  # day 0 was a Thursday
    hour = local_ms % DAY_MS // HOUR_MS
    if weekday == _SATURDAY:
        return False
    if weekday == _FRIDAY:
        return hour < ROLL_HOUR
    if symbol in DAILY_BREAK_SYMBOLS and ROLL_HOUR <= hour < BREAK_END_HOUR:
        return False
    return weekday != _SUNDAY or hour >= ROLL_HOUR


def trading_day(time_ms: int) -> date:
    """Return the FX day of a time: it begins at 17:00 New York of the day before."""
    shifted_ms = new_york_ms(time_ms) + (24 - ROLL_HOUR) * HOUR_MS
    return (_EPOCH + timedelta(days=shifted_ms // DAY_MS)).date()


def next_roll_ms(time_ms: int) -> int:
    """Return the first end of a trading day after a time: 17:00 New York from Monday to Friday."""
    day = (_EPOCH + timedelta(days=new_york_ms(time_ms) // DAY_MS)).date()
    while True:  # at most three days: Friday evening waits for Monday
        roll_ms = utc_ms(day, ROLL_HOUR)
        if roll_ms > time_ms and day.weekday() <= _FRIDAY:
            return roll_ms
        day += timedelta(days=1)


def weekday_before(roll_ms: int) -> int:
    """Return the weekday of the trading day that ends at a roll; Monday is 0."""
    return trading_day(roll_ms - 1).weekday()


def next_open(symbol: str, time_ms: int) -> int:
    """Return the first time from `time_ms` on at which the symbol trades: now, if it is open."""
    if is_open(symbol, time_ms):
        return time_ms
    hour = BREAK_END_HOUR if symbol in DAILY_BREAK_SYMBOLS else ROLL_HOUR
    day = (_EPOCH + timedelta(days=new_york_ms(time_ms) // DAY_MS)).date()
    while True:  # at most four days: before a weekend that a holiday makes longer
        open_ms = utc_ms(day, hour)
        if open_ms > time_ms and is_open(symbol, open_ms):
            return open_ms
        day += timedelta(days=1)


def week_open_ms(time_ms: int) -> int:
    """Return the last Sunday 17:00 New York at or before a time: the start of its FX week."""
    local_ms = new_york_ms(time_ms)
    days_since_sunday = (local_ms // DAY_MS + 4) % 7
    if days_since_sunday == 0 and local_ms % DAY_MS < ROLL_HOUR * HOUR_MS:
        days_since_sunday = 7
    sunday = _EPOCH + timedelta(days=local_ms // DAY_MS - days_since_sunday)
    return utc_ms(sunday.date(), ROLL_HOUR)
