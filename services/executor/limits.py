"""The limits, in one shape: a measured value, the bound it must stay below, and what reaching it stops.

Reaching a bound is enough. A value or bound that is missing or not a number trips the limit: what is not
known is not traded.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum

from services.executor.sizing import SizingPolicy
from shared.errors import InputError

RISK_FRACTION_HARD_MAX = Decimal("0.02")  # no setting goes above it


class Stops(StrEnum):
    """What a limit stops when it trips."""

    THIS_ENTRY = "this entry"
    THIS_SLICE = "every entry of this slice"
    SYMBOL = "entries in this symbol while it lasts"
    ALL_ENTRIES = "all entries while it lasts"
    ALL_ENTRIES_TODAY = "all entries until the day rolls"


class LimitName(StrEnum):
    """Every limit; the name is the reason of a refusal."""

    STALE_SLICE = "STALE_SLICE"
    SYNTHETIC_BAR = "SYNTHETIC_BAR"
    STALE_QUOTE = "STALE_QUOTE"
    ASSET_LOCKED = "ASSET_LOCKED"
    OPEN_POSITIONS = "OPEN_POSITIONS"
    DAY_LOSS = "DAY_LOSS"
    RISK_PER_TRADE = "RISK_PER_TRADE"
    SPREAD = "SPREAD"
    NOTIONAL = "NOTIONAL"
    FREE_MARGIN = "FREE_MARGIN"


STOPS = {
    LimitName.STALE_SLICE: Stops.THIS_SLICE,
    LimitName.SYNTHETIC_BAR: Stops.SYMBOL,
    LimitName.STALE_QUOTE: Stops.SYMBOL,
    LimitName.ASSET_LOCKED: Stops.SYMBOL,
    LimitName.OPEN_POSITIONS: Stops.ALL_ENTRIES,
    LimitName.DAY_LOSS: Stops.ALL_ENTRIES_TODAY,
    LimitName.RISK_PER_TRADE: Stops.THIS_ENTRY,
    LimitName.SPREAD: Stops.THIS_ENTRY,
    LimitName.NOTIONAL: Stops.ALL_ENTRIES,
    LimitName.FREE_MARGIN: Stops.ALL_ENTRIES,
}


@dataclass(frozen=True, slots=True)
class Policy:
    """What a book may risk. Immutable; the same in training, replay and live."""

    book: str
    risk_fraction_max: Decimal = Decimal("0.005")
    open_positions_max: int = 5
    spread_to_stop_max: Decimal = Decimal("0.35")  # a stop of three spreads, the floor, passes
    quote_age_max_s: Decimal = Decimal(10)
    real_bars_min: int = 14
    day_loss_fraction_max: Decimal = Decimal("0.05")
    day_roll_zone: str = "America/New_York"
    day_roll_hour: int = 17
    valid_for_s: int = 20
    sizing: SizingPolicy = field(default_factory=SizingPolicy)

    def __post_init__(self) -> None:
        risk = self.risk_fraction_max
        if not risk.is_finite() or not 0 < risk <= RISK_FRACTION_HARD_MAX:
            raise InputError(f"risk_fraction_max {risk}: above 0, at most {RISK_FRACTION_HARD_MAX}")


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit, measured."""

    name: LimitName
    value: Decimal | None  # None: not known
    bound: Decimal | None
    reaching_trips: bool = True  # only the risk per trade may be used up to its bound

    @property
    def trips(self) -> bool:
        """Whether it stops what it stops."""
        if self.value is None or self.bound is None:
            return True
        if not (self.value.is_finite() and self.bound.is_finite()):
            return True
        return self.value >= self.bound if self.reaching_trips else self.value > self.bound

    @property
    def text(self) -> str:
        """What tripped, in words: value, bound, what is stopped."""
        value = "unknown" if self.value is None else _short(self.value)
        bound = "unknown" if self.bound is None else _short(self.bound)
        return f"{self.name} {value}, limit {bound}: stops {STOPS[self.name]}"


def first_tripped(limits: Iterable[Limit]) -> Limit | None:
    """Return the first limit that trips, in the order given."""
    return next((limit for limit in limits if limit.trips), None)


# --- one function a limit: what is measured, and against what --------------------------------------


def stale_slice(*, live: bool) -> Limit:
    """Bars that were fetched later are history: nobody can trade their close."""
    return Limit(LimitName.STALE_SLICE, Decimal(not live), Decimal(1))


def synthetic_bar(policy: Policy, *, synthetic: bool, real_bars: int) -> Limit:
    """A flat run shrinks the ATR and with it every stop: count the real bars that are missing."""
    missing = max(policy.real_bars_min - real_bars, int(synthetic))
    return Limit(LimitName.SYNTHETIC_BAR, Decimal(missing), Decimal(1))


def stale_quote(policy: Policy, age_s: float | None) -> Limit:
    """An old quote is no price to size by."""
    return Limit(LimitName.STALE_QUOTE, None if age_s is None else number(age_s), policy.quote_age_max_s)


def asset_lock(holders: int) -> Limit:
    """At most one position a symbol, whoever owns it; a request that is not settled counts."""
    return Limit(LimitName.ASSET_LOCKED, Decimal(holders), Decimal(1))


def open_positions(policy: Policy, count: int) -> Limit:
    """Positions of any owner and reserved slots."""
    return Limit(LimitName.OPEN_POSITIONS, Decimal(count), Decimal(policy.open_positions_max))


def day_loss(policy: Policy, fraction: Decimal | None) -> Limit:
    """Floating loss since the day rolled, as a fraction of the equity it began with."""
    return Limit(LimitName.DAY_LOSS, fraction, policy.day_loss_fraction_max)


def risk_per_trade(policy: Policy, fraction: float | None) -> Limit:
    """The model may use the whole of the allowed risk, and no more."""
    value = None if fraction is None else number(fraction)
    return Limit(LimitName.RISK_PER_TRADE, value, policy.risk_fraction_max, reaching_trips=False)


def spread(policy: Policy, bid: Decimal, ask: Decimal, stop_distance: Decimal | None) -> Limit:
    """A spread that is a large part of the stop leaves little room to be right."""
    value = None
    if stop_distance is not None and all(each.is_finite() for each in (bid, ask, stop_distance)):
        value = (ask - bid) / stop_distance if stop_distance > 0 and 0 < bid <= ask else None
    return Limit(LimitName.SPREAD, value, policy.spread_to_stop_max)


def notional(policy: Policy, used: Decimal | None, equity: Decimal) -> Limit:
    """What all positions and reserved slots are worth, in times equity."""
    value = None
    if used is not None and used.is_finite() and equity.is_finite():
        value = used / equity if equity > 0 else None
    return Limit(LimitName.NOTIONAL, value, policy.sizing.total_notional_max)


def free_margin(reserved: Decimal | None, free: Decimal) -> Limit:
    """Reserved slots take from the free margin before their orders do."""
    return Limit(LimitName.FREE_MARGIN, reserved, free)


def number(value: float) -> Decimal:
    """Return a float as the shortest decimal that reads the same: 0.005 stays 0.005."""
    return Decimal(str(value))


def _short(value: Decimal) -> str:
    return format(value.quantize(Decimal("1e-6")).normalize(), "f") if value.is_finite() else str(value)
