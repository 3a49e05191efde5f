"""Under which terms an account trades: what does not change while it lives. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum

from shared.contracts import Contract

WEDNESDAY = 2  # Monday is 0


class AccountKind(StrEnum):
    """Whether every order opens its own position, or a symbol has one position at most."""

    HEDGED = "HEDGED"
    NETTED = "NETTED"


class MarginSum(StrEnum):
    """What the long and the short positions of a symbol bind together: the larger, both, the difference."""

    MAX = "MAX"
    SUM = "SUM"
    NET = "NET"


class Access(StrEnum):
    """What a client may do with the account."""

    FULL_ACCESS = "FULL_ACCESS"
    CLOSE_ONLY = "CLOSE_ONLY"
    NO_TRADING = "NO_TRADING"


class SwapKind(StrEnum):
    """In what a swap is counted: pips a night, or percent a year of the position's value."""

    PIPS = "PIPS"
    PERCENTAGE = "PERCENTAGE"


@dataclass(frozen=True, slots=True)
class Swap:
    """What a night costs (negative) or brings; the roll that ends `triple_weekday` counts three nights."""

    long: Decimal
    short: Decimal
    kind: SwapKind = SwapKind.PIPS
    triple_weekday: int = WEDNESDAY


@dataclass(frozen=True, slots=True)
class Tier:
    """The leverage of a symbol's open volume up to this many US dollars a side; the last goes on for ever."""

    usd_volume_max: int
    leverage: int


@dataclass(frozen=True, slots=True)
class Charges:
    """What a symbol costs beside its spread and its commission's rate."""

    swap: Swap | None = None
    min_commission: Decimal = Decimal(0)  # a deal, in `min_commission_asset`
    min_commission_asset: str = "USD"
    tiers: tuple[Tier, ...] = ()


NO_CHARGES = Charges()


@dataclass(frozen=True, slots=True)
class Terms:
    """The rules of one account."""

    contracts: Mapping[str, Contract]
    charges: Mapping[str, Charges] = field(default_factory=dict)
    deposit_asset: str = "USD"
    kind: AccountKind = AccountKind.HEDGED
    access: Access = Access.FULL_ACCESS
    leverage: int = 100
    margin_sum: MarginSum = MarginSum.SUM
    stop_out_percent: int = 50  # of equity over used margin; 0: never
    latency_ms: int = 130
    commission: bool = True
    swap_free: bool = False
    conversion_fee: Decimal = Decimal(0)  # a fraction of the gross result in another currency

    def charges_of(self, symbol: str) -> Charges:
        """Return what a symbol costs beside spread and commission."""
        return self.charges.get(symbol, NO_CHARGES)
