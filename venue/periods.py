"""Bars of every period, made of the five-minute bars that the venue plays, and below those of quotes. Pure.

Periods up to an hour are aligned to the UTC epoch; longer ones to the FX day, which begins at 17:00 New
York, weeks to Sunday's and months to that of their first trading day.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from enum import StrEnum
from functools import lru_cache

from venue.bars import Bar
from venue.calendar import DAY_MS, HOUR_MS, MINUTE_MS, ROLL_HOUR, trading_day, utc_ms, week_open_ms


class Period(StrEnum):
    """How long a bar is, by the venue's names."""

    M1 = "M1"
    M2 = "M2"
    M3 = "M3"
    M4 = "M4"
    M5 = "M5"
    M10 = "M10"
    M15 = "M15"
    M30 = "M30"
    H1 = "H1"
    H4 = "H4"
    H12 = "H12"
    D1 = "D1"
    W1 = "W1"
    MN1 = "MN1"

    @property
    def length_ms(self) -> int:
        """How long a bar lasts; of months, the longest."""
        return _LENGTHS_MS[self]

    @property
    def needs_quotes(self) -> bool:
        """Whether five-minute bars are too coarse to make it."""
        return self in _OF_QUOTES

    @property
    def window_ms_max(self) -> int:
        """The longest window that may be asked for without a count, as once documented."""
        if self.length_ms <= 5 * MINUTE_MS:
            return 3_024_000_000
        if self.length_ms <= HOUR_MS:
            return 21_168_000_000
        return 31_622_400_000 if self.length_ms <= DAY_MS else 158_112_000_000

    def open_ms(self, time_ms: int) -> int:
        """Return when the bar of a time opens."""
        if self.length_ms <= HOUR_MS:
            return time_ms - time_ms % self.length_ms
        return _long_open_ms(self, time_ms // HOUR_MS)


_LENGTHS_MS = {
    **{period: int(period[1:]) * MINUTE_MS for period in Period if period[0] == "M" and period != "MN1"},
    **{period: int(period[1:]) * HOUR_MS for period in Period if period[0] == "H"},
    Period.D1: DAY_MS,
    Period.W1: 7 * DAY_MS,
    Period.MN1: 31 * DAY_MS,
}
_OF_QUOTES = frozenset({Period.M1, Period.M2, Period.M3, Period.M4})


def together(bars: Iterable[Bar], period: Period) -> list[Bar]:
    """Return the bars of a period from shorter ones, ascending; a bar without any of them is absent."""
    made: list[Bar] = []
    for bar in bars:
        open_ms = period.open_ms(bar.open_ms)
        if not made or made[-1].open_ms != open_ms:
            made.append(bar._replace(open_ms=open_ms))
            continue
        made[-1] = joined(made[-1], bar)
    return made


def joined(first: Bar, then: Bar) -> Bar:
    """Return two bars as one."""
    high, low = max(first.high, then.high), min(first.low, then.low)
    return Bar(first.open_ms, first.open, high, low, then.close, first.volume + then.volume)


@lru_cache(maxsize=8_192)
def _long_open_ms(period: Period, hour: int) -> int:
    """Return when the bar of an hour opens; bars longer than an hour begin on the hour."""
    time_ms = hour * HOUR_MS
    if period is Period.W1:
        return week_open_ms(time_ms)
    day = trading_day(time_ms)
    if period is Period.MN1:
        return utc_ms(day.replace(day=1) - timedelta(days=1), ROLL_HOUR)
    day_ms = utc_ms(day - timedelta(days=1), ROLL_HOUR)
    return day_ms + (time_ms - day_ms) // period.length_ms * period.length_ms
