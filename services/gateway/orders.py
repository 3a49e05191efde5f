"""The life of an order as one table, and what an order is called. Pure."""

from __future__ import annotations

import re
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Decimal
from enum import StrEnum
from functools import cache

from shared.contracts import POINTS_PER_UNIT, Contract
from shared.errors import InputError, MeshError
from shared.messages import Direction, ExecutionKind

E = ExecutionKind


class Status(StrEnum):
    """Where an order stands in the journal."""

    SENDING = "SENDING"  # written before the first byte leaves: from here on it is never sent again
    SENT = "SENT"
    ACCEPTED = "ACCEPTED"
    FILLED = "FILLED"
    PROTECTED = "PROTECTED"
    CLOSING = "CLOSING"
    CLOSED = "CLOSED"
    UNKNOWN = "UNKNOWN"
    NOT_SENT = "NOT_SENT"
    REJECTED = "REJECTED"
    EXPIRED = "EXPIRED"
    REFUSED = "REFUSED"


S = Status

UNRESOLVED = (S.SENDING, S.SENT, S.UNKNOWN, S.ACCEPTED)  # what the venue made of it is not known yet
HOLDS_POSITION = (S.FILLED, S.PROTECTED, S.CLOSING)
ENDED = (S.CLOSED, S.NOT_SENT, S.REJECTED, S.EXPIRED, S.REFUSED)

NEVER_THERE = (S.NOT_SENT, S.REJECTED)  # the venue had said so; if it shows up all the same, it is ours

# A pair that is not here raises an alarm, leaves the status, and asks the venue.
_NEXT: dict[tuple[Status | None, ExecutionKind], Status] = {
    (None, E.EXPIRED): S.EXPIRED,
    (None, E.REFUSED): S.REFUSED,
    (S.SENDING, E.SENT): S.SENT,
    **{
        (before, event): after
        for before in (S.SENDING, S.SENT, S.UNKNOWN)
        for event, after in (
            (E.UNKNOWN, S.UNKNOWN),
            (E.ACCEPTED, S.ACCEPTED),
            (E.PARTIALLY_FILLED, S.ACCEPTED),
            (E.FILLED, S.FILLED),
            (E.REJECTED, S.REJECTED),
            (E.NOT_SENT, S.NOT_SENT),
        )
    },
    (S.ACCEPTED, E.PARTIALLY_FILLED): S.ACCEPTED,
    (S.ACCEPTED, E.FILLED): S.FILLED,
    (S.ACCEPTED, E.REJECTED): S.REJECTED,
    (S.ACCEPTED, E.UNKNOWN): S.UNKNOWN,
    (S.NOT_SENT, E.ACCEPTED): S.ACCEPTED,  # it was there after all: adopt it, alarm, protect it
    (S.NOT_SENT, E.FILLED): S.FILLED,
    (S.REJECTED, E.PARTIALLY_FILLED): S.ACCEPTED,  # the venue contradicts itself, and a position is a fact
    (S.REJECTED, E.FILLED): S.FILLED,
    **{
        (before, event): after
        for before in HOLDS_POSITION
        for event, after in (
            (E.PROTECTED, S.CLOSING if before is S.CLOSING else S.PROTECTED),
            (E.REPAIRING, S.CLOSING if before is S.CLOSING else S.FILLED),  # bare until it is protected
            (E.CLOSING, S.CLOSING),
            (E.CLOSED, S.CLOSED),
        )
    },
}


class IllegalTransitionError(MeshError):
    """An event that does not fit the order's status: alarm, leave it, ask the venue."""


def next_status(status: Status | None, event: ExecutionKind) -> Status:
    """Return the status after an event.

    Raises:
        IllegalTransitionError: the event cannot follow.
    """
    after = _NEXT.get((status, event))
    if after is None:
        raise IllegalTransitionError(f"{event} cannot follow {status or 'nothing'}")
    return after


def our_label(book: str, label: str) -> str | None:
    """Return the client order id that a position's or order's label holds, or None: not ours."""
    return label if _labels_of(book).fullmatch(label) else None


@cache
def _labels_of(book: str) -> re.Pattern[str]:
    return re.compile(rf"TG-{book}-\d{{8}}T\d{{4}}-.+")


def relative_points(distance: Decimal, contract: Contract) -> int:
    """Return a stop or target distance as the venue counts it: 1/100,000, whole ticks, at least one.

    Raises:
        InputError: the distance is not positive.
    """
    if distance <= 0:
        raise InputError(f"{contract.symbol}: a stop or target distance of {distance} is not positive")
    ticks = max(1, int((distance / contract.tick).to_integral_value(ROUND_HALF_EVEN)))
    return ticks * int(10 ** (5 - contract.digits))


def protective_levels(
    direction: Direction, entry: Decimal, stop_distance: Decimal, target_distance: Decimal, contract: Contract
) -> tuple[Decimal, Decimal]:
    """Return absolute (stop, target) prices from the entry, on the symbol's digits."""
    stop = Decimal(relative_points(stop_distance, contract)) / POINTS_PER_UNIT
    target = Decimal(relative_points(target_distance, contract)) / POINTS_PER_UNIT
    levels = (entry - stop * direction.sign, entry + target * direction.sign)
    return levels[0].quantize(contract.tick), levels[1].quantize(contract.tick)


def close_reason(price: Decimal, stop: Decimal | None, target: Decimal | None, *, stop_out: bool) -> str:
    """Return why a protective order closed a position: the venue does not say, the prices do."""
    if stop_out:
        return "STOP_OUT"
    if stop is None or target is None:
        return "STOP_LOSS" if target is None else "TAKE_PROFIT"
    return "STOP_LOSS" if abs(price - stop) <= abs(price - target) else "TAKE_PROFIT"


def is_expired(valid_until: datetime, now: datetime) -> bool:
    """Whether a request may no longer be sent; equality counts."""
    return now >= valid_until
