"""The venue's terms of account and symbols in our words. Pure: message objects in, plain values out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from google.protobuf.unknown_fields import UnknownFieldSet
from pydantic import ValidationError

from shared.contracts import CommissionKind, Contract, Holiday, Interval, TradingMode
from shared.errors import InputError, UnavailableError

CENTS_PER_UNIT = 100
MAX_VOLUME_CENTS = 10**12  # where the venue names no maximum
DAY_S = 86_400

_COMMISSION = {
    1: CommissionKind.USD_PER_MILLION_USD,
    2: CommissionKind.USD_PER_LOT,
    3: CommissionKind.PERCENTAGE_OF_VALUE,
    4: CommissionKind.QUOTE_CCY_PER_LOT,
}
_MODES = {0: TradingMode.ENABLED, 3: TradingMode.CLOSE_ONLY}  # whatever else it is, it is not for us
_IN_PERCENT = 2
_ACCOUNT_TYPES = {1: "NETTED", 2: "SPREAD_BETTING"}
_ACCESS_RIGHTS = {1: "CLOSE_ONLY", 2: "NO_TRADING", 3: "NO_LOGIN"}
_EPOCH = date(1970, 1, 1)


class UnclearError(UnavailableError):
    """A message lacks what its meaning hangs on: nothing is guessed, the venue is asked again."""


@dataclass(frozen=True, slots=True)
class Trader:
    """The account's own terms, and its balance."""

    balance: Decimal
    balance_version: int  # grows with every change of the balance; 0: the venue does not count
    currency: str
    leverage: Decimal
    refusal: str  # why nothing can be traded on it; "" if it can


def units_of(cents: int) -> Decimal:
    """Return units of the base asset."""
    return Decimal(cents) / CENTS_PER_UNIT


def money(amount: int, message: Any) -> Decimal:  # noqa: ANN401 - generated classes have no types
    """Return an amount by the money digits of its own message.

    Raises:
        UnclearError: the message does not say them; a hundred times too much is no small mistake.
    """
    if amount and not message.HasField("moneyDigits"):
        raise UnclearError(f"{message.DESCRIPTOR.name} does not say its money digits")
    return Decimal(amount).scaleb(-message.moneyDigits)


def is_newer(message: Any, field: str) -> bool:  # noqa: ANN401
    """Whether an enum field holds a value that our definitions do not have: it reads as absent."""
    number = message.DESCRIPTOR.fields_by_name[field].number
    unknown: Any = UnknownFieldSet(message)  # its types do not say that it is a sequence
    return any(each.field_number == number for each in unknown)


def trader_of(trader: Any, assets: Mapping[int, str]) -> Trader:  # noqa: ANN401
    """Return the account as the venue describes it.

    Raises:
        UnclearError: it does not say in which digits its balance is.
    """
    return Trader(
        balance=money(trader.balance, trader),
        balance_version=trader.balanceVersion,
        currency=assets[trader.depositAssetId],
        leverage=Decimal(trader.leverageInCents) / 100,
        refusal=_trading_refusal(trader),
    )


def _trading_refusal(trader: Any) -> str:  # noqa: ANN401
    """Say why nothing can be traded.

    On an account that is not hedged, orders of others would merge with ours; a limited-risk one needs
    guaranteed stops, which we do not set.
    """
    if is_newer(trader, "accountType") or is_newer(trader, "accessRights"):
        return "ACCOUNT_UNKNOWN"
    if trader.accountType in _ACCOUNT_TYPES:
        return f"ACCOUNT_{_ACCOUNT_TYPES[trader.accountType]}"
    if trader.isLimitedRisk:
        return "ACCOUNT_LIMITED_RISK"
    if trader.accessRights in _ACCESS_RIGHTS:
        return f"ACCOUNT_{_ACCESS_RIGHTS[trader.accessRights]}"
    return ""


def contract_of(light: Any, full: Any, assets: Mapping[int, str]) -> Contract:  # noqa: ANN401
    """Return the contract of a symbol from its light and its full description.

    Raises:
        InputError: something of it cannot be understood.
    """
    kind = _COMMISSION.get(full.commissionType)
    if kind is None or is_newer(full, "commissionType"):
        raise InputError(f"{light.symbolName}: commission type {full.commissionType} is not known")
    scale = 10**5 if kind is CommissionKind.PERCENTAGE_OF_VALUE else 10**8
    stop, stop_percent = _distance(full, full.slDistance)
    target, target_percent = _distance(full, full.tpDistance)
    try:
        return Contract(
            symbol=light.symbolName,
            base_asset=assets[light.baseAssetId],
            quote_asset=assets[light.quoteAssetId],
            digits=full.digits,
            pip_position=full.pipPosition,
            lot_units=units_of(full.lotSize),
            min_volume_units=units_of(full.minVolume),
            max_volume_units=units_of(full.maxVolume or MAX_VOLUME_CENTS),
            step_volume_units=units_of(full.stepVolume),
            commission_kind=kind,
            commission_rate=Decimal(full.preciseTradingCommissionRate) / scale,
            min_stop_distance=stop,
            min_target_distance=target,
            min_stop_percent=stop_percent,
            min_target_percent=target_percent,
            is_enabled=light.enabled,
            can_sell_short=full.enableShortSelling or not full.HasField("enableShortSelling"),
            trading_mode=_mode(full),
            schedule=tuple(Interval(start_s=i.startSecond, end_s=i.endSecond) for i in full.schedule),
            schedule_time_zone=_time_zone(light, full.scheduleTimeZone),
            holidays=tuple(_holiday(light, holiday) for holiday in full.holiday),
        )
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise InputError(f"{light.symbolName}: {first['loc'][0]}: {first['msg']}") from error


def _distance(full: Any, number: int) -> tuple[Decimal, Decimal]:  # noqa: ANN401
    """Return a minimal distance in price units, and in percent of the price; one of them is zero.

    A point is the last digit of a price. That a percentage is one of whole percents is assumed: nothing
    says so, but it is the reading that refuses more.
    """
    if full.distanceSetIn == _IN_PERCENT:
        return Decimal(0), Decimal(number)
    return Decimal(number).scaleb(-full.digits), Decimal(0)


def _mode(full: Any) -> TradingMode:  # noqa: ANN401
    if is_newer(full, "tradingMode"):
        return TradingMode.DISABLED
    return _MODES.get(full.tradingMode, TradingMode.DISABLED)


def _holiday(light: Any, holiday: Any) -> Holiday:  # noqa: ANN401
    return Holiday(
        name=holiday.name,
        day=_EPOCH + timedelta(days=holiday.holidayDate),
        is_yearly=holiday.isRecurring,
        time_zone=_time_zone(light, holiday.scheduleTimeZone),
        start_s=holiday.startSecond,
        end_s=holiday.endSecond if holiday.HasField("endSecond") else DAY_S,
    )


def _time_zone(light: Any, name: str) -> str:  # noqa: ANN401
    try:
        return ZoneInfo(name or "UTC").key
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise InputError(f"{light.symbolName}: time zone {name!r} is not known") from error
