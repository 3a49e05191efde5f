"""What trading costs beside the spread: commission, margin, swap, conversion fee. Pure.

The rules are those of the protocol's symbol fields; rates and levels are data of venue/book.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from fractions import Fraction

from shared.contracts import POINTS_PER_UNIT, Contract
from venue.money import CENTS, cost_cents, credit_cents
from venue.records import Side
from venue.terms import Charges, Swap, SwapKind, Tier

USD = "USD"
YEAR_DAYS = 360  # of a yearly swap rate: the money market's year, assumed

HigherRate = Callable[[str, str], Fraction]  # units of the second asset for one of the first, dearer side


def commission_cents(
    contract: Contract,
    charges: Charges,
    price_points: int,
    volume_cents: int,
    deposit_asset: str,
    rate: HigherRate,
) -> int:
    """Return one deal's commission in cents of the deposit currency: a negative number or 0.

    Args:
        contract: its commission kind and rate.
        charges: the least that a deal costs.
        price_points: the deal's price.
        volume_cents: the deal's volume.
        deposit_asset: the account's currency.
        rate: the dearer conversion, which is the client's cost.
    """
    to_usd = rate(contract.quote_asset, USD)
    per_unit = contract.commission_per_unit(
        Decimal(price_points) / POINTS_PER_UNIT,
        usd_rate=Decimal(to_usd.numerator) / Decimal(to_usd.denominator),
    )
    amount = Fraction(per_unit) * Fraction(volume_cents, CENTS) * rate(USD, deposit_asset)
    if charges.min_commission:
        least = Fraction(charges.min_commission) * rate(charges.min_commission_asset, deposit_asset)
        amount = max(amount, least)
    return -cost_cents(amount)


def margin_usd(tiers: Sequence[Tier], leverage_max: int, from_usd: Fraction, to_usd: Fraction) -> Fraction:
    """Return the margin of a symbol's volume between two amounts of US dollars, in US dollars.

    Each part of the volume has the leverage of its tier, but never more than the account's: as income
    in tax brackets. Without tiers all of it has the account's leverage.
    """
    if not tiers:
        return (to_usd - from_usd) / leverage_max
    margin, low = Fraction(0), Fraction(0)
    for number, tier in enumerate(tiers):
        is_last = number == len(tiers) - 1
        high = to_usd if is_last else min(to_usd, Fraction(tier.usd_volume_max))
        share = high - max(from_usd, low)
        if share > 0:
            margin += share / min(tier.leverage, leverage_max)
        low = Fraction(tier.usd_volume_max)
    return margin


def swap_cents(
    contract: Contract,
    swap: Swap,
    side: Side,
    price_points: int,
    volume_cents: int,
    nights: int,
    rate: Fraction,
) -> int:
    """Return what a position is credited (or charged, if negative) for some nights, in cents.

    Args:
        contract: its pip.
        swap: the symbol's rates.
        side: of the position.
        price_points: at the day's end, for a rate that is a percentage of value.
        volume_cents: of the position.
        nights: 1, or 3 on the triple day.
        rate: deposit currency for one unit of quote currency.
    """
    per_night = Fraction(swap.long if side is Side.BUY else swap.short)
    if swap.kind is SwapKind.PIPS:
        per_unit = per_night * Fraction(contract.pip)
    else:
        per_unit = per_night / 100 / YEAR_DAYS * Fraction(price_points, POINTS_PER_UNIT)
    return credit_cents(per_unit * Fraction(volume_cents, CENTS) * nights * rate)


def conversion_fee_cents(gross_cents: int, fee: Decimal) -> int:
    """Return the fee for converting a result into the deposit currency: a negative number or 0."""
    return -cost_cents(abs(gross_cents) * Fraction(fee) / CENTS)
