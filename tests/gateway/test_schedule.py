"""When a symbol trades: the venue's week, on its own wall clock, and its holidays."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from services.gateway.schedule import why_closed
from shared.contracts import Contract, Holiday, Interval
from venue.book import CONTRACTS

NEW_YORK = "America/New_York"
HOUR = 3_600
DAY = 24 * HOUR
FX_WEEK = (Interval(start_s=17 * HOUR, end_s=5 * DAY + 17 * HOUR),)


def a_contract(**terms: Any) -> Contract:
    values = {"schedule": FX_WEEK, "schedule_time_zone": NEW_YORK, **terms}
    return CONTRACTS["EURUSD"].model_copy(update=values)


def at(text: str, zone: str = NEW_YORK) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)


@pytest.mark.parametrize(
    ("when", "is_open"),
    [
        ("2025-01-05T16:59:59", False),  # Sunday
        ("2025-01-05T17:00:00", True),
        ("2025-01-08T03:00:00", True),
        ("2025-01-10T16:59:59", True),  # Friday
        ("2025-01-10T17:00:00", False),
        ("2025-01-11T12:00:00", False),
        ("2025-07-06T17:00:00", True),  # in summer an hour earlier by UTC
        ("2025-07-11T17:00:00", False),
        ("2025-03-09T17:00:00", True),  # the day on which the clocks are put forward
        ("2025-11-02T17:00:00", True),  # ... and back
    ],
)
def test_the_week_opens_and_closes_on_its_own_wall_clock(when: str, is_open: bool) -> None:
    """The broker's schedule moves with its summer time, not with ours."""
    assert why_closed(a_contract(), at(when)) == (None if is_open else "MARKET_CLOSED")


def test_daily_break_is_closed() -> None:
    """Gold stops for an hour a day."""
    nights = tuple(Interval(start_s=d * DAY + 18 * HOUR, end_s=(d + 1) * DAY + 17 * HOUR) for d in range(5))
    gold = a_contract(schedule=nights)
    assert why_closed(gold, at("2025-01-07T17:30:00")) == "MARKET_CLOSED"
    assert why_closed(gold, at("2025-01-07T18:00:00")) is None


def test_interval_over_the_end_of_the_week_goes_on() -> None:
    """A market that never closes may be one interval that begins on a Wednesday."""
    always = a_contract(schedule=(Interval(start_s=3 * DAY, end_s=10 * DAY),), schedule_time_zone="UTC")
    for day in range(5, 12):
        assert why_closed(always, at(f"2025-01-{day:02}T12:00:00", "UTC")) is None


def test_symbol_without_a_schedule_is_open() -> None:
    """Nothing is known against it, and its venue would say so."""
    assert why_closed(a_contract(schedule=()), at("2025-01-11T12:00:00")) is None


@pytest.mark.parametrize(
    ("holiday", "when", "is_holiday"),
    [
        ({"day": date(2025, 1, 1)}, "2025-01-01T12:00:00", True),
        ({"day": date(2025, 1, 1)}, "2025-01-02T00:00:00", False),
        ({"day": date(2020, 1, 1), "is_yearly": True}, "2025-01-01T12:00:00", True),
        ({"day": date(2020, 1, 1)}, "2025-01-01T12:00:00", False),
        ({"day": date(2025, 7, 3), "start_s": 13 * HOUR}, "2025-07-03T12:59:59", False),
        ({"day": date(2025, 7, 3), "start_s": 13 * HOUR}, "2025-07-03T13:00:00", True),
        ({"day": date(2025, 7, 3), "end_s": 13 * HOUR}, "2025-07-03T13:00:00", False),
    ],
)
def test_holiday_closes_its_day_or_a_part_of_it(holiday: dict[str, Any], when: str, is_holiday: bool) -> None:
    """Its day is the day of its own time zone."""
    contract = a_contract(holidays=(Holiday(name="a feast", time_zone=NEW_YORK, **holiday),))
    assert why_closed(contract, at(when)) == ("MARKET_HOLIDAY: a feast" if is_holiday else None)
