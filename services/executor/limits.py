"""What a limit is: a measured value, the bound it must stay below, and what reaching it stops.

Every limit is one `Rule` of one shape; `rules.py` has them all. Reaching a bound is enough. A value or bound
that is missing, not a number or cannot be computed trips the limit: what is not known is not traded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Generic, NamedTuple, TypeVar

from shared.messages import Severity

SeenT = TypeVar("SeenT")
Measured = tuple[Decimal | None, Decimal | None]  # value and bound; None: not known


class Stops(StrEnum):
    """What a limit stops when it trips, and for how long."""

    THIS_ENTRY = "this entry"
    THIS_SLICE = "every entry of this slice"
    SYMBOL = "entries in this symbol while it lasts"
    ALL_ENTRIES = "all entries while it lasts"
    ALL_ENTRIES_TODAY = "all entries until the day rolls"
    UNTIL_RESUMED = "all entries until an operator resumes"


class LimitName(StrEnum):
    """Every limit; the name is the reason of a refusal."""

    STALE_SLICE = "STALE_SLICE"
    LATE_SLICE = "LATE_SLICE"
    CLOCK_OFFSET = "CLOCK_OFFSET"
    DAY_LOSS = "DAY_LOSS"
    DRAWDOWN = "DRAWDOWN"
    PRESET_DAY_LOSS = "PRESET_DAY_LOSS"
    PRESET_DRAWDOWN = "PRESET_DRAWDOWN"
    LOSING_STREAK = "LOSING_STREAK"
    SESSION = "SESSION"
    ROLLOVER = "ROLLOVER"
    WEEKEND = "WEEKEND"
    SYNTHETIC_BAR = "SYNTHETIC_BAR"
    STALE_QUOTE = "STALE_QUOTE"
    ASSET_LOCKED = "ASSET_LOCKED"
    OPEN_POSITIONS = "OPEN_POSITIONS"
    ORDERS_PER_HOUR = "ORDERS_PER_HOUR"
    RISK_PER_TRADE = "RISK_PER_TRADE"
    SPREAD = "SPREAD"
    NOTIONAL = "NOTIONAL"
    CURRENCY_EXPOSURE = "CURRENCY_EXPOSURE"
    MARGIN_USE = "MARGIN_USE"
    FREE_MARGIN = "FREE_MARGIN"


class Limit(NamedTuple):
    """One limit, measured."""

    name: LimitName
    stops: Stops
    value: Decimal | None  # None: not known
    bound: Decimal | None
    trips: bool  # one that does not is known and finite

    @property
    def text(self) -> str:
        """What tripped, in words: value, bound, what is stopped."""
        return f"{self.name} {short(self.value)}, limit {short(self.bound)}: stops {self.stops}"


@dataclass(frozen=True, slots=True)
class Rule(Generic[SeenT]):
    """How one limit is measured on what an entry is decided on. Pure; what it remembers is in the state."""

    name: LimitName
    stops: Stops
    measure: Callable[[SeenT], Measured | None]  # None: the policy has no such limit
    of_book: bool = False  # the same for every symbol: its distance is published
    of_slice: bool = False  # no entry of a slice changes it: it is measured once
    told: Severity | None = None  # of the event when it trips; None: the refusal says enough
    reaching_trips: bool = True  # only the risk per trade may be used up to its bound

    def limit(self, seen: SeenT) -> Limit | None:
        """Return the limit as it stands; None: the policy has no such limit."""
        try:
            measured = self.measure(seen)
        except ArithmeticError:  # a NaN, or a division by nothing
            measured = (None, None)
        if measured is None:
            return None
        value, bound = measured
        if value is None or bound is None or not (value.is_finite() and bound.is_finite()):
            trips = True
        else:
            trips = value >= bound if self.reaching_trips else value > bound
        return Limit(self.name, self.stops, value, bound, trips)


def number(value: float) -> Decimal:
    """Return a float as the shortest decimal that reads the same: 0.005 stays 0.005."""
    return Decimal(str(value))


def short(value: Decimal | None) -> str:
    """Return a measured value for a reader: at most six places; 'unknown' without one."""
    if value is None:
        return "unknown"
    return format(value.quantize(Decimal("1e-6")).normalize(), "f") if value.is_finite() else str(value)
