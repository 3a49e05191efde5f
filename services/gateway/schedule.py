"""When a symbol trades, by the venue's own schedule. Pure.

The week of a schedule begins on Sunday 00:00 on the wall clock of its time zone, so it moves with that
zone's summer time. Source: ProtoOASymbol.schedule and ProtoOAHoliday of the Open API.
"""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

from shared.contracts import Contract, Holiday

WEEK_S = 7 * 86_400


def why_closed(contract: Contract, at: datetime) -> str | None:
    """Return why a symbol does not trade at a time, or None if it does.

    A symbol without a schedule is taken for open: its venue will say if it is not.
    """
    holiday = next((h for h in contract.holidays if _is_in(h, at)), None)
    if holiday is not None:
        return f"MARKET_HOLIDAY: {holiday.name}"
    if contract.schedule and not _is_scheduled(contract, at):
        return "MARKET_CLOSED"
    return None


def _is_scheduled(contract: Contract, at: datetime) -> bool:
    local = at.astimezone(ZoneInfo(contract.schedule_time_zone))
    second = local.isoweekday() % 7 * 86_400 + _second_of_day(local)
    return any(
        interval.start_s <= moment < interval.end_s
        for interval in contract.schedule
        for moment in (second, second + WEEK_S)  # an interval may run over the week's end
    )


def _is_in(holiday: Holiday, at: datetime) -> bool:
    local = at.astimezone(ZoneInfo(holiday.time_zone))
    day, kept = local.date(), holiday.day
    is_the_day = (day.month, day.day) == (kept.month, kept.day) if holiday.is_yearly else day == kept
    return is_the_day and holiday.start_s <= _second_of_day(local) < holiday.end_s


def _second_of_day(local: datetime) -> int:
    return local.hour * 3_600 + local.minute * 60 + local.second
