"""The simulated venue's terms: five symbols, their costs and their spreads."""

from __future__ import annotations

from decimal import Decimal

from shared.contracts import CommissionKind, Contract
from venue.terms import Charges, Swap, SwapKind, Tier

SYMBOLS = ("EURUSD", "GBPUSD", "USDJPY", "USDCHF", "XAUUSD")
LEVERAGE = Decimal(100)  # account leverage 1:100


def _pair(symbol: str, digits: int, pip_position: int) -> Contract:
    return Contract(
        symbol=symbol,
        base_asset=symbol[:3],
        quote_asset=symbol[3:],
        digits=digits,
        pip_position=pip_position,
        lot_units=Decimal(100_000),
        min_volume_units=Decimal(1_000),
        max_volume_units=Decimal(100_000_000),
        step_volume_units=Decimal(1_000),
        commission_kind=CommissionKind.USD_PER_LOT,
        commission_rate=Decimal("2.5"),
    )


# Lot, steps, EURUSD's and gold's digits and commissions as recorded at a real broker; the rest is
# assumed after common broker terms.
CONTRACTS = {
    "EURUSD": _pair("EURUSD", 5, 4),
    "GBPUSD": _pair("GBPUSD", 5, 4),
    "USDJPY": _pair("USDJPY", 3, 2),
    "USDCHF": _pair("USDCHF", 5, 4),
    "XAUUSD": Contract(
        symbol="XAUUSD",
        base_asset="XAU",
        quote_asset="USD",
        digits=2,
        pip_position=0,
        lot_units=Decimal(100),
        min_volume_units=Decimal(1),
        max_volume_units=Decimal(100_000),
        step_volume_units=Decimal(1),
        commission_kind=CommissionKind.PERCENTAGE_OF_VALUE,
        commission_rate=Decimal("0.007"),
    ),
}

# Price units; assumed after common broker terms.
BASE_SPREAD = {
    "EURUSD": Decimal("0.00008"),
    "GBPUSD": Decimal("0.00012"),
    "USDJPY": Decimal("0.010"),
    "USDCHF": Decimal("0.00013"),
    "XAUUSD": Decimal("0.30"),
}

# US dollars a side and the leverage up to there; assumed, after the order of what brokers publish.
_PAIR_TIERS = (Tier(2_000_000, 500), Tier(10_000_000, 200), Tier(50_000_000, 50))
_METAL_TIERS = (Tier(1_000_000, 200), Tier(5_000_000, 50), Tier(20_000_000, 20))


def _pair_charges(long: str, short: str) -> Charges:
    return Charges(swap=Swap(Decimal(long), Decimal(short)), tiers=_PAIR_TIERS)


# Swaps in pips a night, gold's in percent a year; assumed: their signs follow the rates' differences.
CHARGES = {
    "EURUSD": _pair_charges("-0.85", "0.30"),
    "GBPUSD": _pair_charges("-0.40", "-0.25"),
    "USDJPY": _pair_charges("0.90", "-1.90"),
    "USDCHF": _pair_charges("0.60", "-1.20"),
    "XAUUSD": Charges(swap=Swap(Decimal("-5.5"), Decimal("1.5"), SwapKind.PERCENTAGE), tiers=_METAL_TIERS),
}
