"""The trading day: when it rolls, what the equity was then, and how much of it is lost since."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict

from services.executor.limits import Policy


class EquityMark(BaseModel):
    """Equity at a moment. The initial equity beside it moves only by deposits and withdrawals."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    equity: Decimal
    initial_equity: Decimal


class Day(BaseModel):
    """The running day, and the equity it is measured by."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    date: date
    baseline: EquityMark  # at the roll, or the last one known before it
    latest: EquityMark
    loss_told: bool = False  # the limit is announced once a day


def trading_date(at: datetime, policy: Policy) -> date:
    """Return the day that `at` belongs to; the roll itself belongs to the new one."""
    local = at.astimezone(ZoneInfo(policy.day_roll_zone))
    return local.date() + timedelta(days=local.hour >= policy.day_roll_hour)


def is_roll(at: datetime, policy: Policy) -> bool:
    """Whether `at` is the very moment of a roll."""
    return trading_date(at, policy) != trading_date(at - timedelta(microseconds=1), policy)


def day_after(day: Day | None, at: datetime, now: EquityMark, policy: Policy) -> Day:
    """Return the day as it stands after a slice that closed at `at` with the equity `now`."""
    today = trading_date(at, policy)
    if day is not None and day.date == today:
        return day.model_copy(update={"latest": now})
    baseline = now if day is None or is_roll(at, policy) else day.latest
    return Day(date=today, baseline=baseline, latest=now)


def loss_fraction(day: Day) -> Decimal | None:
    """Return the loss since the baseline as a fraction of it, without money paid in or out; None: unknown."""
    start = day.baseline.equity + day.latest.initial_equity - day.baseline.initial_equity
    return (start - day.latest.equity) / start if start > 0 else None
