"""When the day rolls, which hours are wanted: through daylight saving time."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta

import pytest

from services.executor.days import MARKET_ROLL, Roll, Window, around_roll, before_weekend
from shared.errors import InputError

FIVE_MINUTES = timedelta(minutes=5)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


ROLLS = [
    "2025-01-06T22:00",  # winter
    "2025-03-07T22:00",  # the Friday before the clocks go forward
    "2025-03-09T21:00",  # the Sunday they did
    "2025-07-01T21:00",  # summer
    "2025-10-31T21:00",  # the Friday before the clocks go back
    "2025-11-02T22:00",  # the Sunday they did
]


@pytest.mark.parametrize("roll", ROLLS)
def test_day_rolls_at_five_in_the_afternoon_in_new_york(roll: str) -> None:
    """Through daylight saving: the venue's day moves in UTC, and London's change does not matter."""
    moment = at(roll)
    before, after = (MARKET_ROLL.date(each) for each in (moment - timedelta(seconds=1), moment))
    assert after == before + timedelta(days=1)
    assert MARKET_ROLL.is_at(moment)
    assert not MARKET_ROLL.is_at(moment + FIVE_MINUTES)
    assert not MARKET_ROLL.is_at(moment - FIVE_MINUTES)


@pytest.mark.parametrize(
    "midnight", ["2025-03-29T23:00", "2025-03-30T22:00", "2025-10-25T22:00", "2025-10-26T23:00"]
)
def test_day_rolls_at_midnight_in_prague(midnight: str) -> None:
    """Europe changes its clocks on other days than America."""
    roll = Roll("Europe/Prague", 0)
    moment = at(midnight)
    assert roll.is_at(moment)
    assert roll.date(moment) == moment.date() + timedelta(days=1)
    assert roll.date(moment - FIVE_MINUTES) == moment.date()


def test_day_may_roll_elsewhere() -> None:
    """Some books are measured from midnight in UTC."""
    roll = Roll("UTC", 0)
    assert roll.date(at("2025-01-06T23:59")) == at("2025-01-06T00:00").date()
    assert roll.is_at(at("2025-01-07T00:00"))


@pytest.mark.parametrize("roll", ROLLS)
def test_rollover_minutes_go_with_new_york(roll: str) -> None:
    """From the first minute named to before the last one."""
    offsets = {-6: False, -5: True, 0: True, 64: True, 65: False}
    found = {
        minutes: around_roll(at(roll) + timedelta(minutes=minutes), before_min=5, after_min=65)
        for minutes in offsets
    }
    assert found == offsets


def test_no_rollover_minutes_stop_nothing() -> None:
    """Whoever sets both to zero wants to trade then."""
    assert not around_roll(at("2025-01-06T22:00"), before_min=0, after_min=0)


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        ("2025-01-10T20:59:59", False),
        ("2025-01-10T21:00", True),  # Friday, an hour before the week ends
        ("2025-01-10T22:30", True),  # after it
        ("2025-07-11T19:59:59", False),
        ("2025-07-11T20:00", True),  # in summer
        ("2025-01-09T21:30", False),  # Thursday
        ("2025-01-12T22:05", False),  # Sunday: the new week
    ],
)
def test_weekend_begins_before_the_market_closes(moment: str, expected: bool) -> None:
    """On Friday in New York, whatever the season."""
    assert before_weekend(at(moment), 60) is expected


@pytest.mark.parametrize(
    ("text", "moment", "expected"),
    [
        ("07:00-20:00", time(7), True),
        ("07:00-20:00", time(6, 59), False),
        ("07:00-20:00", time(19, 59), True),
        ("07:00-20:00", time(20), False),
        ("22:30-01:00", time(23), True),
        ("22:30-01:00", time(0, 59), True),
        ("22:30-01:00", time(1), False),
        ("22:30-01:00", time(22, 29), False),
        (" 22:30-01:00 ", time(22, 30), True),
    ],
)
def test_hours_may_go_over_midnight(text: str, moment: time, expected: bool) -> None:
    """From the start to before the end."""
    assert Window.parse(text).holds(moment) is expected


@pytest.mark.parametrize(
    "text", ["", "7-20", "07:00", "24:00-25:00", "07:60-08:00", "07:00-07:00", "07:00-20:00x"]
)
def test_hours_that_are_none_are_refused(text: str) -> None:
    """A typing error must not open the whole night."""
    with pytest.raises(InputError, match="such as 07:00-20:00"):
        Window.parse(text)
