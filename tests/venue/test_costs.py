"""What trading costs, counted by hand: commission, margin, swaps, conversion; and what a lack does."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.contracts import CommissionKind
from tests.venue.core import (
    BALANCE_CENTS,
    T0,
    a_core,
    executions,
    opened,
    reborn,
    submitted,
    the_deal,
    the_position,
)
from venue.book import CONTRACTS
from venue.calendar import NEW_YORK
from venue.costs import margin_usd
from venue.margin_watch import AGAIN_MS
from venue.matching import Matching
from venue.money import conversion_chain
from venue.records import (
    CloseReason,
    MarginCalled,
    MarginMoved,
    RefusedError,
    Side,
    SwapCharged,
)
from venue.terms import Charges, MarginSum, Swap, SwapKind, Tier


def ny_ms(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=NEW_YORK).timestamp() * 1_000)


def with_contract(symbol: str, **fields: object) -> dict[str, object]:
    contract = CONTRACTS[symbol].model_copy(update=fields)
    return {"contracts": {**CONTRACTS, symbol: contract}}


# -- commission


@pytest.mark.parametrize(
    ("symbol", "kind", "rate", "volume", "cents"),
    [
        ("EURUSD", CommissionKind.USD_PER_LOT, "2.5", 5_000_000, 125),  # half a lot
        ("USDJPY", CommissionKind.USD_PER_LOT, "2.5", 5_000_000, 125),
        ("EURUSD", CommissionKind.USD_PER_MILLION_USD, "30", 5_000_000, 166),  # 55,004 USD
        ("USDJPY", CommissionKind.USD_PER_MILLION_USD, "30", 5_000_000, 151),  # 50,000 USD, dearer side
        ("XAUUSD", CommissionKind.PERCENTAGE_OF_VALUE, "0.007", 1_000, 204),
        ("USDJPY", CommissionKind.QUOTE_CCY_PER_LOT, "300", 5_000_000, 100),  # 150 yen
    ],
)
def test_each_kind_of_commission_is_charged_as_it_is_named(
    symbol: str, kind: CommissionKind, rate: str, volume: int, cents: int
) -> None:
    """Per deal and side, rounded up to the cent."""
    core = a_core(**with_contract(symbol, commission_kind=kind, commission_rate=Decimal(rate)))
    quote = core.quotes[symbol]
    filled = opened(core, quote.bid, quote.ask, symbol=symbol, volume_cents=volume)
    assert the_deal(filled).commission_cents == -cents


def test_commission_is_never_below_its_minimum() -> None:
    """A small deal costs as much as a larger one."""
    charges = {"EURUSD": Charges(min_commission=Decimal(1), min_commission_asset="EUR")}
    core = a_core(charges=charges)
    assert the_deal(opened(core, 110_000, 110_008, volume_cents=100_000)).commission_cents == -111


# -- conversion


@pytest.mark.parametrize(
    ("first", "last", "chain"),
    [
        ("JPY", "EUR", [("USDJPY", False), ("EURUSD", False)]),
        ("XAU", "CHF", [("XAUUSD", True), ("USDCHF", True)]),
        ("USD", "USD", []),
        ("USD", "PLN", None),
    ],
)
def test_conversion_takes_the_shortest_chain(
    first: str, last: str, chain: list[tuple[str, bool]] | None
) -> None:
    """Times the price from base to quote, over it the other way."""
    found = conversion_chain(CONTRACTS, first, last)
    assert (None if found is None else [tuple(step) for step in found]) == chain


def test_account_in_euros_counts_a_yen_result_through_two_symbols() -> None:
    """A gain takes the worse side of both: it buys dollars at the ask of USDJPY, euros at that of EURUSD."""
    core = a_core(deposit_asset="EUR", commission=False)
    opened(core, 15_000_000, 15_001_000, symbol="USDJPY", volume_cents=10_000_000)
    core.close(the_position(core).position_id, 10_000_000, T0 + 1_000, market_open=True)
    deal = the_deal(core.on_quote("USDJPY", T0 + 3_000, 15_101_000, 15_102_000))
    assert deal.gross_cents == round(100_000 / 151.02 / 1.10004 * 100)


def test_conversion_fee_is_charged_where_a_result_is_converted() -> None:
    """0.7 percent of the gross result of a yen pair, nothing on a dollar pair: and the balance says so."""
    for symbol, move, fee in (("USDJPY", 100_000, -464), ("EURUSD", 100, 0)):
        core = a_core(commission=False, conversion_fee=Decimal("0.007"))
        quote = core.quotes[symbol]
        opened(core, quote.bid, quote.ask, symbol=symbol, volume_cents=10_000_000)
        core.close(the_position(core).position_id, 10_000_000, T0 + 1_000, market_open=True)
        deal = the_deal(core.on_quote(symbol, T0 + 3_000, quote.bid + move, quote.ask + move))
        assert deal.conversion_fee_cents == pytest.approx(fee, abs=6)
        assert core.balance_cents == BALANCE_CENTS + (deal.gross_cents or 0) + (
            deal.conversion_fee_cents or 0
        )
        assert (deal.conversion_fee_cents == 0) == (symbol == "EURUSD")


# -- margin

TIERS = (Tier(100_000, 100), Tier(200_000, 50), Tier(300_000, 20))


@pytest.mark.parametrize(
    ("volume", "margin"),
    [(50_000, 500), (100_000, 1_000), (150_000, 2_000), (300_000, 8_000), (400_000, 13_000)],
)
def test_each_part_of_a_volume_has_the_leverage_of_its_tier(volume: int, margin: int) -> None:
    """As income in tax brackets; the last tier goes on for ever."""
    assert margin_usd(TIERS, 100, Fraction(0), Fraction(volume)) == margin


@given(st.lists(st.integers(1, 400_000), min_size=1, max_size=5), st.integers(1, 500))
def test_margin_of_the_parts_is_the_margin_of_the_whole(parts: list[int], leverage: int) -> None:
    """In whatever pieces a volume is bought, it binds the same."""
    total = margin = Fraction(0)
    for part in parts:
        margin += margin_usd(TIERS, leverage, total, total + part)
        total += part
    assert margin == margin_usd(TIERS, leverage, Fraction(0), total)


def test_margin_of_the_later_position_falls_when_the_earlier_is_closed() -> None:
    """It moves down a tier, and the client is told."""
    core = a_core(charges={"USDCHF": Charges(tiers=TIERS)})
    for turn in range(2):
        submitted(core, T0 + turn * 1_000, symbol="USDCHF", volume_cents=10_000_000)
        core.on_quote("USDCHF", T0 + turn * 1_000 + 500, 88_000, 88_013)
    first, second = core.positions.values()
    assert (first.used_margin_cents, second.used_margin_cents) == (100_000, 200_000)
    core.close(first.position_id, 10_000_000, T0 + 2_000, market_open=True)
    happened = core.on_quote("USDCHF", T0 + 3_000, 88_000, 88_013)
    (moved,) = [each for each in happened if isinstance(each, MarginMoved)]
    assert moved.position.used_margin_cents == core.used_margin_cents() == 100_000


@pytest.mark.parametrize(
    ("how", "cents"), [(MarginSum.SUM, 30_000), (MarginSum.MAX, 20_000), (MarginSum.NET, 10_000)]
)
def test_long_and_short_bind_their_sum_the_larger_or_the_difference(how: MarginSum, cents: int) -> None:
    """By the account's own rule, which it tells its clients."""
    core = a_core(margin_sum=how)
    for turn, (side, volume) in enumerate(((Side.BUY, 1_000_000), (Side.SELL, 2_000_000))):
        submitted(core, T0 + turn * 1_000, symbol="USDCHF", side=side, volume_cents=volume)
        core.on_quote("USDCHF", T0 + turn * 1_000 + 500, 88_000, 88_013)
    assert core.used_margin_cents() == cents


# -- stop-out and margin calls


def in_trouble() -> Matching:
    """Return an account with a small loser and a large one, most of its money bound."""
    core = a_core(deposit_cents=120_000, commission=False)
    submitted(core, T0, symbol="EURUSD", volume_cents=2_000_000)
    submitted(core, T0, symbol="GBPUSD", volume_cents=6_000_000)
    core.on_quote("EURUSD", T0 + 500, 109_996, 110_004)
    core.on_quote("GBPUSD", T0 + 500, 127_000, 127_012)
    return core


def test_stop_out_closes_the_worst_position_first_and_no_more_than_needed() -> None:
    """At half of the used margin the venue sells the largest loser at the market, by itself."""
    core = in_trouble()
    euros, pounds = core.positions.values()
    happened = core.on_quote("GBPUSD", T0 + 60_000, 125_700, 125_712)
    (closed,) = executions(happened)
    assert (closed.position.position_id, closed.position.close_reason) == (
        pounds.position_id,
        CloseReason.STOP_OUT,
    )
    assert (closed.by_server, closed.order.is_stop_out, closed.order.closing) == (True, True, True)
    assert the_deal(happened).price_points == 125_700
    assert list(core.positions) == [euros.position_id]


def test_margin_level_just_above_the_stop_out_is_left_alone() -> None:
    """The level is exact: as long as the equity is above half of the margin, nothing is sold."""
    core = in_trouble()
    held = core.valuer.held_margin_cents()
    low = 127_012
    while not executions(core.on_quote("GBPUSD", T0 + 60_000, low, low + 12)):
        assert core.equity_cents() * 2 > held
        low -= 10
    assert core.equity_cents() * 2 <= held


def test_margin_call_is_told_once_in_ten_minutes() -> None:
    """A warning, not a siren; and it is remembered over a restart."""
    core = in_trouble()
    told = [each for each in core.on_quote("GBPUSD", T0 + 60_000, 126_600, 126_612) if _is_call(each)]
    assert len(told) == 1
    core = reborn(core)
    assert not any(map(_is_call, core.on_quote("GBPUSD", T0 + 120_000, 126_600, 126_612)))
    again_ms = T0 + 60_000 + AGAIN_MS
    assert any(map(_is_call, core.on_quote("GBPUSD", again_ms, 126_600, 126_612)))


def _is_call(happening: object) -> bool:
    return isinstance(happening, MarginCalled)


def test_threshold_of_a_margin_call_is_the_clients_to_choose() -> None:
    """Above the stop-out, or it would come too late."""
    core = a_core()
    assert core.set_margin_call(2, 80.0, T0).threshold_percent == 80.0
    for call_id, percent in ((4, 80.0), (1, 50.0), (1, float("nan"))):
        with pytest.raises(RefusedError, match="INVALID_REQUEST"):
            core.set_margin_call(call_id, percent, T0)


def test_money_can_be_taken_out_while_it_is_free() -> None:
    """What binds a position stays."""
    core = a_core()
    opened(core, 110_000, 110_008, volume_cents=50_000_000)
    free = core.equity_cents() - core.used_margin_cents()
    with pytest.raises(RefusedError, match="NOT_ENOUGH_MONEY"):
        core.deposit(-free - 1, T0)
    moved = core.deposit(-free, T0)
    assert (moved.change.reason, moved.change.delta_cents) == ("WITHDRAW", -free)
    assert core.equity_cents() == core.used_margin_cents()


# -- swaps

PIPS = {"EURUSD": Charges(swap=Swap(Decimal("-0.7"), Decimal("0.25")))}
YEARLY = {"XAUUSD": Charges(swap=Swap(Decimal("-3.6"), Decimal("1.8"), SwapKind.PERCENTAGE))}


def over_nights(core: Matching, symbol: str, side: Side, volume: int, since: str, until: str) -> list[int]:
    """Hold a position over some rolls; return what each of them left in its swap, in cents."""
    quote = core.quotes[symbol]
    submitted(core, ny_ms(since), symbol=symbol, side=side, volume_cents=volume)
    core.on_quote(symbol, ny_ms(since) + 1_000, quote.bid, quote.ask)
    told = []
    while (due_ms := core.next_due_ms()) is not None and due_ms <= ny_ms(until):
        told += [each for each in core.on_time(due_ms) if isinstance(each, SwapCharged)]
        assert all(each.at_ms == due_ms for each in told[-1:])
    totals = [0, *(each.position.swap_cents for each in told)]
    return [after - before for before, after in pairwise(totals)]


@pytest.mark.parametrize(
    ("since", "until", "nights"),
    [
        ("2025-01-06T12:00", "2025-01-13T12:00", [1, 1, 3, 1, 1]),  # Monday to Monday: seven nights
        ("2025-01-08T16:59", "2025-01-08T17:00", [3]),  # Wednesday, winter time
        ("2025-07-09T16:59", "2025-07-09T17:00", [3]),  # and summer time
        ("2025-01-08T17:00", "2025-01-09T16:59", []),  # opened at the roll, closed before the next
        ("2025-03-07T12:00", "2025-03-10T17:00", [1, 1]),  # the clocks go forward in between
    ],
)
def test_swap_is_charged_at_five_in_new_york_and_three_times_on_wednesday(
    since: str, until: str, nights: list[int]
) -> None:
    """Each position that stands at the roll pays for its nights, whatever UTC calls that hour."""
    charged = over_nights(a_core(charges=PIPS), "EURUSD", Side.BUY, 10_000_000, since, until)
    assert charged == [-700 * count for count in nights]  # 0.7 pips of a lot are 7 dollars


@pytest.mark.parametrize(("side", "cents"), [(Side.BUY, -290), (Side.SELL, 145)])
def test_yearly_swap_is_a_share_of_the_value(side: Side, cents: int) -> None:
    """Ten ounces at 2,900 (a short at 2,900.30): 3.6 or 1.8 percent over 360, rounded against the client."""
    core = a_core(charges=YEARLY)
    charged = over_nights(core, "XAUUSD", side, 1_000, "2025-01-06T12:00", "2025-01-06T17:00")
    assert charged == [cents]


def test_swap_moves_the_equity_at_once_and_the_balance_at_the_close() -> None:
    """A part of a position takes its part of the swap with it."""
    core = a_core(charges=PIPS, commission=False)
    over_nights(core, "EURUSD", Side.BUY, 10_000_000, "2025-01-08T12:00", "2025-01-08T17:00")
    assert core.balance_cents == BALANCE_CENTS
    assert core.valuations()[0].net_cents == core.valuations()[0].gross_cents - 2_100
    position = the_position(core)
    core.close(position.position_id, 4_000_000, ny_ms("2025-01-08T17:10"), market_open=True)
    deal = the_deal(core.on_quote("EURUSD", ny_ms("2025-01-08T17:11"), 110_004, 110_012))
    assert (deal.swap_cents, deal.gross_cents, the_position(core).swap_cents) == (-840, 0, -1_260)
    assert core.balance_cents == BALANCE_CENTS - 840


def test_swap_free_account_pays_none() -> None:
    """As its trader record says."""
    core = a_core(charges=PIPS, swap_free=True)
    assert over_nights(core, "EURUSD", Side.BUY, 10_000_000, "2025-01-06T12:00", "2025-01-10T17:00") == []


def test_swap_is_not_charged_twice_over_a_restart() -> None:
    """The books know how far the days were counted: by the time up to which they were played."""
    core = a_core(charges=PIPS)
    over_nights(core, "EURUSD", Side.BUY, 10_000_000, "2025-01-09T12:00", "2025-01-09T17:00")
    core.on_quote("EURUSD", ny_ms("2025-01-09T17:00") + 1, 110_000, 110_008)
    again = reborn(core)
    assert again.next_due_ms() == ny_ms("2025-01-10T17:00")
    assert the_position(again) == replace(the_position(core))
