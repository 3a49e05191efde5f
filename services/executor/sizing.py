"""How many units a trade may be: the smallest of the risk budget and the caps, rounded down, never up.

Training, backtests and the live executor use this one function. Money is in the account's currency.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from enum import StrEnum

from shared.contracts import Contract

# A rate such as 1/150 has no finite decimal: without this grain 75,000 units at 150 yen would come out
# as 74,000. It is far below any money that can be lost.
GRAIN = Decimal("1e-12")
CENT = Decimal("0.01")  # what margin is rounded up to


class Cap(StrEnum):
    """What can set the size of a trade."""

    RISK = "RISK"
    POSITION_NOTIONAL = "POSITION_NOTIONAL"
    TOTAL_NOTIONAL = "TOTAL_NOTIONAL"
    FREE_MARGIN = "FREE_MARGIN"
    CURRENCY_EXPOSURE = "CURRENCY_EXPOSURE"
    VENUE_MAXIMUM = "VENUE_MAXIMUM"


@dataclass(frozen=True, slots=True)
class SizingPolicy:
    """How large a position may become, whatever its risk."""

    position_notional_max: Decimal = Decimal(10)  # times equity, one position
    total_notional_max: Decimal = Decimal(20)  # times equity, all positions and reservations
    free_margin_share_max: Decimal = Decimal("0.5")  # of the margin that is neither used nor reserved
    currency_exposure_max: Decimal = Decimal(20)  # times equity, held or owed of one currency


@dataclass(frozen=True, slots=True)
class Funds:
    """What the account has, and what positions and reserved slots take of it."""

    equity: Decimal
    free_margin: Decimal
    leverage: Decimal
    used_notional: Decimal = Decimal(0)  # of positions and reserved slots
    reserved_margin: Decimal = Decimal(0)  # of reserved slots; that of positions is not in free_margin
    currency_exposure: Decimal = Decimal(0)  # to the entry's currencies, in its own direction


@dataclass(frozen=True, slots=True)
class Sized:
    """A size that keeps every cap."""

    volume_units: Decimal
    bound_by: Cap
    notional: Decimal
    margin: Decimal
    risk_amount: Decimal  # lost at the stop, both commissions included


@dataclass(frozen=True, slots=True)
class NotSized:
    """No size is right, and why."""

    reason: str  # BELOW_MIN_VOLUME or SIZE_UNKNOWN
    detail: str


def size_position(
    contract: Contract,
    funds: Funds,
    *,
    price: Decimal,
    stop_distance: Decimal,
    risk_fraction: Decimal,
    conversion: Decimal,
    usd_conversion: Decimal = Decimal(1),
    policy: SizingPolicy = SizingPolicy(),
) -> Sized | NotSized:
    """Return the volume of a trade in units of the base asset, or why there is none.

    Args:
        contract: the venue's terms of the symbol.
        funds: equity and margin, with what is taken already.
        price: entry price, in quote currency.
        stop_distance: from entry to stop, price units.
        risk_fraction: of equity, lost if the stop is hit.
        conversion: account currency for one unit of quote currency, at the worse side.
        usd_conversion: account currency for one US dollar, in which the venue states commissions.
        policy: the caps.

    Returns:
        A size on the contract's grid and the cap that bound it; below the contract's minimum, or with an
        input that is not a finite, positive number, NotSized.
    """
    positive = (price, stop_distance, conversion, usd_conversion, funds.leverage)
    finite = (
        funds.equity, funds.free_margin, funds.used_notional, funds.reserved_margin,
        funds.currency_exposure, risk_fraction,
    )  # fmt: skip
    if not all(value.is_finite() for value in (*positive, *finite)) or min(positive) <= 0:
        return NotSized("SIZE_UNKNOWN", f"sizing {contract.symbol}: {positive}, {finite}")
    commission = round_trip_commission(contract, price, conversion, usd_conversion)
    loss_per_unit = stop_distance * conversion + commission
    value_per_unit = price * conversion
    spare_margin = policy.free_margin_share_max * (funds.free_margin - funds.reserved_margin)
    spare_notional = policy.total_notional_max * funds.equity - funds.used_notional
    spare_currency = policy.currency_exposure_max * funds.equity - funds.currency_exposure
    caps = {
        Cap.RISK: funds.equity * risk_fraction / loss_per_unit,
        Cap.POSITION_NOTIONAL: policy.position_notional_max * funds.equity / value_per_unit,
        Cap.TOTAL_NOTIONAL: spare_notional / value_per_unit,
        Cap.FREE_MARGIN: spare_margin * funds.leverage / value_per_unit,
        Cap.CURRENCY_EXPOSURE: spare_currency / value_per_unit,
        Cap.VENUE_MAXIMUM: contract.max_volume_units,
    }
    bound_by = min(caps, key=lambda cap: caps[cap])  # of equal caps the first one named
    volume = round_down(caps[bound_by], contract.step_volume_units)
    if volume <= 0 or volume < contract.min_volume_units:
        wanted = f"{caps[bound_by]:.3f} units by {bound_by}"
        return NotSized("BELOW_MIN_VOLUME", f"{wanted}, the minimum is {contract.min_volume_units:f}")
    notional = volume * value_per_unit
    margin = (notional / funds.leverage).quantize(CENT, ROUND_CEILING)
    return Sized(volume, bound_by, notional, margin, volume * loss_per_unit)


def round_trip_commission(
    contract: Contract, price: Decimal, conversion: Decimal, usd_conversion: Decimal
) -> Decimal:
    """Return what one unit costs in commission, in and out, in the account's currency."""
    one_side_usd = contract.commission_per_unit(price, usd_rate=conversion / usd_conversion)
    return 2 * one_side_usd * usd_conversion


def round_down(units: Decimal, step: Decimal) -> Decimal:
    """Return the largest multiple of `step` that is not above `units`, but for the grain of a reciprocal."""
    steps = units / step
    return (steps + abs(steps) * GRAIN).to_integral_value(rounding=ROUND_FLOOR) * step
