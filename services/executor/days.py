"""When the trading day rolls, and in which hours entries are wanted. Daylight saving time is followed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from shared.errors import InputError

_FRIDAY = 4
_WINDOW = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")


@dataclass(frozen=True, slots=True)
class Roll:
    """The hour of a zone at which the trading day rolls."""

    zone: str = "America/New_York"
    hour: int = 17

    def date(self, at: datetime) -> date:
        """Return the day that `at` belongs to; the roll itself belongs to the new one."""
        local = at.astimezone(ZoneInfo(self.zone))
        return local.date() + timedelta(days=self.hour > 0 and local.hour >= self.hour)

    def is_at(self, at: datetime) -> bool:
        """Whether `at` is the very moment of a roll."""
        return self.date(at) != self.date(at - timedelta(microseconds=1))


MARKET_ROLL = Roll()  # of the FX market: swaps are booked, and the week ends on Friday


@dataclass(frozen=True, slots=True)
class Window:
    """A part of the day, from `start` to before `end`; over midnight where the end is earlier."""

    start: time
    end: time

    @classmethod
    def parse(cls, text: str) -> Window:
        """Return the window of a text such as 07:00-20:00.

        Raises:
            InputError: it is another text, or the window is empty.
        """
        found = _WINDOW.fullmatch(text.strip())
        if found is None or found[1] + found[2] == found[3] + found[4]:
            raise InputError(f"hours {text!r}: give a start and another end, such as 07:00-20:00")
        start_hour, start_minute, end_hour, end_minute = map(int, found.groups())
        return cls(time(start_hour, start_minute), time(end_hour, end_minute))

    def holds(self, at: time) -> bool:
        """Whether a time of day lies in it."""
        if self.start < self.end:
            return self.start <= at < self.end
        return at >= self.start or at < self.end


def around_roll(at: datetime, *, before_min: int, after_min: int) -> bool:
    """Whether `at` is from so many minutes before the market's roll to before so many after it."""
    local = at.astimezone(ZoneInfo(MARKET_ROLL.zone))
    minutes = 60 * (local.hour - MARKET_ROLL.hour) + local.minute + local.second / 60
    return -before_min <= minutes < after_min


def before_weekend(at: datetime, minutes: int) -> bool:
    """Whether `at` is within the last minutes of the market's week, or after it on that Friday."""
    local = at.astimezone(ZoneInfo(MARKET_ROLL.zone))
    left = 60 * MARKET_ROLL.hour - 60 * local.hour - local.minute - local.second / 60
    return local.weekday() == _FRIDAY and left <= minutes
