"""The venue's own terms, not constants: what is not understood is not traded."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any

import pytest

from services.gateway.protocol import model
from services.gateway.terms import UnclearError, contract_of, trader_of
from shared.contracts import Holiday, Interval, TradingMode
from shared.errors import InputError
from tests.gateway.builders import with_unknown

D = Decimal
GOLD_ID = 41
ASSETS = {1: "XAU", 2: "USD"}


def a_light(**fields: Any) -> Any:
    values = {
        "symbolId": GOLD_ID,
        "symbolName": "XAUUSD",
        "enabled": True,
        "baseAssetId": 1,
        "quoteAssetId": 2,
    }
    return model.ProtoOALightSymbol(**(values | fields))


def a_symbol(**fields: Any) -> Any:
    values: dict[str, Any] = {
        "symbolId": GOLD_ID,
        "digits": 2,
        "pipPosition": 0,
        "minVolume": 100,
        "stepVolume": 100,
        "lotSize": 10_000,
        "commissionType": model.PERCENTAGE_OF_VALUE,
        "preciseTradingCommissionRate": 700,
    }
    return model.ProtoOASymbol(**(values | fields))


def a_trader(**fields: Any) -> Any:
    values: dict[str, Any] = {
        "ctidTraderAccountId": 1,
        "balance": 1_000_000,
        "balanceVersion": 7,
        "moneyDigits": 2,
        "depositAssetId": 2,
        "leverageInCents": 3_000,
        "accountType": model.HEDGED,
        "accessRights": model.FULL_ACCESS,
    }
    return model.ProtoOATrader(**(values | fields))


# -- the account


def test_balance_without_its_digits_is_not_read() -> None:
    """A hundred times too much money would be risked: there is no account before the venue says how much."""
    assert trader_of(a_trader(), ASSETS).balance == D(10_000)
    with pytest.raises(UnclearError, match="ProtoOATrader does not say its money digits"):
        trader_of(a_trader(moneyDigits=None), ASSETS)


# -- symbols


def test_contract_is_the_venues_own_not_a_constant() -> None:
    """Cents of a unit become units; the recorded rate of 700 is 0.007 percent."""
    contract = contract_of(a_light(), a_symbol(), ASSETS)
    assert (contract.lot_units, contract.min_volume_units, contract.commission_rate) == (
        D(100),
        D(1),
        D("0.007"),
    )
    assert (contract.min_stop_distance, contract.base_asset) == (D(0), "XAU")
    assert contract.max_volume_units > contract.min_volume_units  # where the venue names none


@pytest.mark.parametrize(
    ("fields", "points", "percent"),
    [
        ({"slDistance": 5, "distanceSetIn": 1}, "0.05", "0"),
        ({"slDistance": 5}, "0.05", "0"),  # points, where it does not say
        ({"slDistance": 5, "distanceSetIn": 2}, "0", "5"),
    ],
)
def test_distances_are_points_or_percents(fields: dict[str, int], points: str, percent: str) -> None:
    """A point is the last digit of a price."""
    contract = contract_of(a_light(), a_symbol(**fields), ASSETS)
    assert (contract.min_stop_distance, contract.min_stop_percent) == (D(points), D(percent))
    assert (contract.min_target_distance, contract.min_target_percent) == (D(0), D(0))


@pytest.mark.parametrize(
    ("number", "mode"),
    [
        (0, TradingMode.ENABLED),
        (1, TradingMode.DISABLED),
        (2, TradingMode.DISABLED),
        (3, TradingMode.CLOSE_ONLY),
    ],
)
def test_trading_mode_is_told(number: int, mode: TradingMode) -> None:
    """Pending orders that may be executed are none of ours."""
    assert contract_of(a_light(), a_symbol(tradingMode=number), ASSETS).trading_mode is mode


def test_trading_mode_of_a_later_version_is_disabled() -> None:
    """An unknown value reads as the first one, which is ENABLED: it must not."""
    unknown = with_unknown(a_symbol(), "tradingMode", 9)
    assert unknown.tradingMode == model.ENABLED
    assert contract_of(a_light(), unknown, ASSETS).trading_mode is TradingMode.DISABLED


def test_schedule_and_holidays_are_taken_over() -> None:
    """Seconds of the week, days since 1970; a holiday without an end lasts its whole day."""
    full = a_symbol(
        schedule=[model.ProtoOAInterval(startSecond=61_200, endSecond=147_600)],
        scheduleTimeZone="Europe/Moscow",
        holiday=[
            model.ProtoOAHoliday(
                holidayId=1,
                name="New Year",
                scheduleTimeZone="Europe/Moscow",
                holidayDate=20_089,
                isRecurring=True,
            )
        ],
    )
    contract = contract_of(a_light(), full, ASSETS)
    assert contract.schedule == (Interval(start_s=61_200, end_s=147_600),)
    assert contract.schedule_time_zone == "Europe/Moscow"
    assert contract.holidays == (
        Holiday(name="New Year", day=date(2025, 1, 1), is_yearly=True, time_zone="Europe/Moscow"),
    )


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"scheduleTimeZone": "Mars/Olympus"}, "time zone 'Mars/Olympus' is not known"),
        ({"commissionType": None}, "commission type"),
        ({"digits": 7}, "digits"),
        ({"lotSize": 0}, "lot_units"),
    ],
)
def test_terms_that_cannot_be_understood_are_named(fields: dict[str, Any], words: str) -> None:
    """Better no start than orders by terms that are guessed."""
    full = with_unknown(a_symbol(), "commissionType", 9) if "commissionType" in fields else a_symbol(**fields)
    with pytest.raises(InputError, match=f"XAUUSD: {words}"):
        contract_of(a_light(), full, ASSETS)


# -- the account


def test_hedged_account_with_full_access_is_traded() -> None:
    """Money has the digits of its own message, leverage comes in cents."""
    trader = trader_of(a_trader(), ASSETS)
    assert (trader.balance, trader.balance_version, trader.currency) == (D("10000.00"), 7, "USD")
    assert (trader.leverage, trader.refusal) == (D(30), "")


@pytest.mark.parametrize(
    ("trader", "reason"),
    [
        (a_trader(accountType=model.NETTED), "ACCOUNT_NETTED"),
        (a_trader(accountType=model.SPREAD_BETTING), "ACCOUNT_SPREAD_BETTING"),
        (with_unknown(a_trader(), "accountType", 9), "ACCOUNT_UNKNOWN"),
        (a_trader(isLimitedRisk=True), "ACCOUNT_LIMITED_RISK"),
        (a_trader(accessRights=model.CLOSE_ONLY), "ACCOUNT_CLOSE_ONLY"),
        (a_trader(accessRights=model.NO_TRADING), "ACCOUNT_NO_TRADING"),
        (with_unknown(a_trader(), "accessRights", 9), "ACCOUNT_UNKNOWN"),
    ],
)
def test_account_on_which_our_orders_would_not_be_ours_alone_is_refused(trader: Any, reason: str) -> None:
    """On a netted account a foreign order closes our position; unknown is refused like all unknown."""
    assert trader_of(trader, ASSETS).refusal == reason
