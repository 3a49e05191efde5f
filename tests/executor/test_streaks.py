"""Losses in a row, and the pause after them."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest

from services.executor.streaks import Result, Streak
from shared import messages as m
from tests.executor.builders import (
    CLOSE,
    a_slice,
    an_account,
    an_execution,
    an_executor,
    give,
    reasons,
    restarted,
)

D = Decimal
HOUR = timedelta(hours=1)


def results(*pnls: str | None) -> list[Result]:
    return [
        Result(number=n, at=CLOSE + n * timedelta(minutes=1), pnl=None if pnl is None else D(pnl))
        for n, pnl in enumerate(pnls)
    ]


@pytest.mark.parametrize(
    ("pnls", "losses"),
    [((), 0), (("-1", "-2"), 2), (("-1", "3"), 0), (("3", "-1"), 1), (("-1", "0"), 0), (("-1", None), 2)],
)
def test_streak_counts_losses_since_the_last_trade_that_lost_nothing(
    pnls: tuple[str | None, ...], losses: int
) -> None:
    """A result that the venue did not say is not taken for a profit."""
    assert Streak().after(results(*pnls)).losses == losses


def test_streak_goes_on_over_slices() -> None:
    """Trades do not end together."""
    streak = Streak().after(results("-1")).after(results("-1"))
    assert (streak.losses, streak.last_loss) == (2, CLOSE)


@pytest.mark.parametrize(("minutes", "losses"), [(59, 5), (60, 0), (61, 0)])
def test_pause_ends_an_hour_after_the_last_loss(minutes: int, losses: int) -> None:
    """And the count begins anew: the next loss alone does not stop the book again."""
    streak = Streak(losses=5, last_loss=CLOSE)
    rested = streak.rested(CLOSE + timedelta(minutes=minutes), losses_max=5, cooldown_min=60)
    assert rested.losses == losses


def test_losses_that_stop_nothing_yet_are_not_forgotten() -> None:
    """Only a pause ends a streak by time."""
    streak = Streak(losses=4, last_loss=CLOSE)
    assert streak.rested(CLOSE + 9 * HOUR, losses_max=5, cooldown_min=60) == streak
    assert Streak().rested(CLOSE, losses_max=1, cooldown_min=60) == Streak()


async def test_pause_is_told_stops_all_and_ends() -> None:
    """From the slice that sees the fifth loss to the first one an hour after it; over a restart."""
    closes = [CLOSE, CLOSE + timedelta(minutes=5), CLOSE + HOUR, CLOSE + HOUR + timedelta(minutes=5)]
    accounts = [
        an_account(close=close, execution_number=0 if n == 0 else 5) for n, close in enumerate(closes)
    ]
    executor = an_executor(*accounts)
    assert reasons(await give(executor, a_slice("EURUSD"))) == {"EURUSD": "REQUESTED"}
    for number in range(1, 6):
        await executor.on_execution(an_execution(number, "CLOSED", pnl=D(-10)))
    executor = restarted(executor, *accounts)
    event, refused = await give(executor, a_slice("GBPUSD", close=closes[1]))
    assert isinstance(event, m.EventReported)
    assert (event.service, event.severity) == ("executor", m.Severity.WARNING)
    assert event.details["limit"] == "LOSING_STREAK"
    assert reasons([refused]) == {"GBPUSD": "LOSING_STREAK"}
    assert reasons(await give(executor, a_slice("GBPUSD", close=closes[2]))) == {"GBPUSD": "LOSING_STREAK"}
    executor = restarted(executor, *accounts)
    ended, request = await give(executor, a_slice("GBPUSD", close=closes[3]))
    assert isinstance(ended, m.EventReported)
    assert ended.severity is m.Severity.INFO
    assert isinstance(request, m.OrderRequested)


async def test_losses_count_from_the_account_that_includes_them() -> None:
    """An execution that overtakes a slice changes nothing there, live or replayed."""
    later = CLOSE + timedelta(minutes=5)
    accounts = an_account(execution_number=0), an_account(close=later, execution_number=5)
    executor = an_executor(*accounts)
    for number in range(1, 6):
        await executor.on_execution(an_execution(number, "CLOSED", pnl=D(-10)))
    assert reasons(await give(executor, a_slice("GBPUSD"))) == {"GBPUSD": "REQUESTED"}
    assert executor.state.streak == Streak()
    await give(executor, a_slice(close=later))
    assert executor.state.streak.losses == 5
    assert executor.state.ledger.results == ()


async def test_losses_before_a_slice_that_is_not_live_still_count() -> None:
    """A lost connection must not wipe the streak."""
    executor = an_executor(an_account(live=False, execution_number=1))
    await executor.on_execution(an_execution(1, "CLOSED", pnl=D(-10)))
    await give(executor, a_slice(live=False))
    assert executor.state.streak.losses == 1
