"""The day loss: when the day rolls, what it is measured by, what it stops."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest

from services.executor.days import Day, EquityMark, day_after, is_roll, loss_fraction, trading_date
from services.executor.limits import Policy
from shared import messages as m
from tests.executor.builders import POLICY, a_slice, an_account, an_executor, give, reasons, restarted

D = Decimal
FIVE_MINUTES = timedelta(minutes=5)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def a_mark(equity: str, initial: str = "10000") -> EquityMark:
    return EquityMark(equity=D(equity), initial_equity=D(initial))


@pytest.mark.parametrize(
    "roll",
    [
        "2025-01-06T22:00",  # winter
        "2025-03-07T22:00",  # the Friday before the clocks go forward
        "2025-03-09T21:00",  # the Sunday they did
        "2025-07-01T21:00",  # summer
        "2025-10-31T21:00",  # the Friday before the clocks go back
        "2025-11-02T22:00",  # the Sunday they did
    ],
)
def test_day_rolls_at_five_in_the_afternoon_in_new_york(roll: str) -> None:
    """Through daylight saving: the venue's day moves in UTC, and London's change does not matter."""
    moment = at(roll)
    before, after = (trading_date(each, POLICY) for each in (moment - timedelta(seconds=1), moment))
    assert after == before + timedelta(days=1)
    assert is_roll(moment, POLICY)
    assert not is_roll(moment + FIVE_MINUTES, POLICY)
    assert not is_roll(moment - FIVE_MINUTES, POLICY)


def test_day_may_roll_elsewhere() -> None:
    """Some books are measured from midnight in UTC."""
    policy = Policy(book="main", day_roll_zone="UTC", day_roll_hour=0)
    assert trading_date(at("2025-01-06T23:59"), policy) + timedelta(days=1) == trading_date(
        at("2025-01-07T00:00"), policy
    )
    assert is_roll(at("2025-01-07T00:00"), policy)


def test_baseline_is_the_equity_at_the_roll() -> None:
    """The slice that closes at the roll is the first of the new day."""
    day = day_after(None, at("2025-01-06T21:55"), a_mark("10000"), POLICY)
    day = day_after(day, at("2025-01-06T22:00"), a_mark("9900"), POLICY)
    assert day.baseline == a_mark("9900")
    assert day.date == date(2025, 1, 7)


def test_baseline_is_the_last_equity_known_before_the_roll() -> None:
    """Over the weekend or a stop nobody sees the roll: a gap at the opening counts as loss of the new day."""
    day = day_after(None, at("2025-01-03T21:55"), a_mark("10000"), POLICY)
    day = day_after(day, at("2025-01-05T22:05"), a_mark("9400"), POLICY)
    assert day.baseline == a_mark("10000")
    assert loss_fraction(day) == D("0.06")


def test_money_paid_in_or_out_is_neither_profit_nor_loss() -> None:
    """A withdrawal must not trip the limit, a deposit must not hide a loss."""
    day = day_after(None, at("2025-01-06T10:00"), a_mark("10000"), POLICY)
    withdrawn = day_after(day, at("2025-01-06T10:05"), a_mark("4900", "5000"), POLICY)
    assert loss_fraction(withdrawn) == D("0.02")
    paid_in = day_after(day, at("2025-01-06T10:05"), a_mark("19000", "20000"), POLICY)
    assert loss_fraction(paid_in) == D("0.05")


@pytest.mark.parametrize(("baseline", "initial"), [("0", "10000"), ("-5", "10000")])
def test_loss_of_nothing_is_unknown(baseline: str, initial: str) -> None:
    """A fraction of zero is no number, and the limit trips."""
    mark = a_mark(baseline, initial)
    assert loss_fraction(Day(date=date(2025, 1, 6), baseline=mark, latest=mark)) is None


MORNING = at("2025-01-06T10:05")


def two_accounts(equity: str, then: datetime = MORNING + FIVE_MINUTES) -> list[m.AccountReported]:
    return [an_account(close=MORNING), an_account(close=then, equity=D(equity))]


async def test_day_loss_stops_all_entries_and_is_announced_once_a_day() -> None:
    """Reaching the limit is enough, and a restart neither lifts nor repeats it."""
    accounts = [
        *two_accounts("9500"),
        an_account(close=MORNING + 2 * FIVE_MINUTES, equity=D("9400")),
        an_account(close=MORNING + 3 * FIVE_MINUTES, equity=D("9501")),
    ]
    executor = an_executor(*accounts)
    assert await give(executor, a_slice(close=MORNING)) == []
    event, refused = await give(executor, a_slice("EURUSD", close=MORNING + FIVE_MINUTES))
    assert isinstance(event, m.EventReported)
    assert (event.kind, event.severity) == ("limit", m.Severity.CRITICAL)
    assert "until the day rolls" in event.text
    assert reasons([refused]) == {"EURUSD": "DAY_LOSS"}
    executor = restarted(executor, *accounts)
    again = await give(executor, a_slice("EURUSD", "USDJPY", close=MORNING + 2 * FIVE_MINUTES))
    assert reasons(again) == {"EURUSD": "DAY_LOSS", "USDJPY": "DAY_LOSS"}
    assert len(again) == 2


async def test_loss_just_below_the_limit_trades() -> None:
    """4.99 % is not 5 %."""
    executor = an_executor(*two_accounts("9501"))
    await give(executor, a_slice(close=MORNING))
    decided = await give(executor, a_slice("EURUSD", close=MORNING + FIVE_MINUTES))
    assert reasons(decided) == {"EURUSD": "REQUESTED"}


async def test_loss_of_the_day_before_does_not_count() -> None:
    """At the roll the new day begins with the equity it finds."""
    roll = at("2025-01-06T22:00")
    executor = an_executor(*two_accounts("9000", roll))
    await give(executor, a_slice(close=MORNING))
    assert reasons(await give(executor, a_slice("EURUSD", close=roll))) == {"EURUSD": "REQUESTED"}
