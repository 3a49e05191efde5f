"""What one symbol is at the venue: digits, lot, steps, costs. Taken from the venue, never from constants."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

POINTS_PER_UNIT = 100_000  # the venue counts prices in 1/100,000 of a price unit, whatever the digits


class CommissionKind(StrEnum):
    """How the venue charges a deal, one side of the round trip at a time."""

    USD_PER_MILLION_USD = "USD_PER_MILLION_USD"
    USD_PER_LOT = "USD_PER_LOT"
    PERCENTAGE_OF_VALUE = "PERCENTAGE_OF_VALUE"
    QUOTE_CCY_PER_LOT = "QUOTE_CCY_PER_LOT"


class TradingMode(StrEnum):
    """What the venue lets anybody do in a symbol."""

    ENABLED = "ENABLED"
    CLOSE_ONLY = "CLOSE_ONLY"
    DISABLED = "DISABLED"


class Interval(BaseModel):
    """A time of the week in which a symbol trades, in seconds from Sunday 00:00; the end is not in it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    start_s: int = Field(ge=0)
    end_s: int = Field(ge=0)


class Holiday(BaseModel):
    """A time of a day in which a symbol does not trade, in seconds from 00:00; the end is not in it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    day: date
    is_yearly: bool = False
    time_zone: str
    start_s: int = Field(default=0, ge=0)
    end_s: int = Field(default=86_400, ge=0)


class Contract(BaseModel):
    """The terms of one symbol. Volumes are units of the base asset: euros, dollars, ounces."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    symbol: str
    base_asset: str
    quote_asset: str
    digits: int = Field(ge=0, le=5)
    pip_position: int = Field(ge=-2, le=5)
    lot_units: Decimal = Field(gt=0)
    min_volume_units: Decimal = Field(gt=0)
    max_volume_units: Decimal = Field(gt=0)
    step_volume_units: Decimal = Field(gt=0)
    commission_kind: CommissionKind
    commission_rate: Decimal = Field(ge=0)  # USD a lot, or percent of value, by kind; one side
    min_stop_distance: Decimal = Field(default=Decimal(0), ge=0)  # price units
    min_target_distance: Decimal = Field(default=Decimal(0), ge=0)  # price units
    min_stop_percent: Decimal = Field(default=Decimal(0), ge=0)  # of the price, where the venue counts so
    min_target_percent: Decimal = Field(default=Decimal(0), ge=0)
    is_enabled: bool = True
    can_sell_short: bool = True
    trading_mode: TradingMode = TradingMode.ENABLED
    schedule: tuple[Interval, ...] = ()  # when it trades; empty: the venue does not say
    schedule_time_zone: str = "UTC"
    holidays: tuple[Holiday, ...] = ()

    @property
    def tick(self) -> Decimal:
        """The smallest price step, in price units."""
        return Decimal(1).scaleb(-self.digits)

    @property
    def pip(self) -> Decimal:
        """One pip, in price units."""
        return Decimal(1).scaleb(-self.pip_position)

    def commission_per_unit(self, price: Decimal, *, usd_rate: Decimal) -> Decimal:
        """Return one side's commission for one unit, in US dollars.

        Args:
            price: price of one unit, in quote currency.
            usd_rate: US dollars for one unit of quote currency.
        """
        match self.commission_kind:
            case CommissionKind.USD_PER_LOT:
                return self.commission_rate / self.lot_units
            case CommissionKind.PERCENTAGE_OF_VALUE:
                return price * usd_rate * self.commission_rate / 100
            case CommissionKind.USD_PER_MILLION_USD:
                return price * usd_rate * self.commission_rate / 1_000_000
            case CommissionKind.QUOTE_CCY_PER_LOT:
                return self.commission_rate / self.lot_units * usd_rate


def contracts_hash(contracts: Mapping[str, Contract]) -> str:
    """Return the SHA-256 of a set of contracts, so that a change of terms can be seen in the streams."""
    digest = hashlib.sha256()
    for symbol in sorted(contracts):
        digest.update(contracts[symbol].model_dump_json().encode())
    return digest.hexdigest()
