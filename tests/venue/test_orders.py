"""Orders that wait for their price: when each kind fills, at what price, and what is said of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.venue.core import (
    T0,
    a_core,
    a_request,
    executions,
    kinds,
    opened,
    reborn,
    submitted,
    the_deal,
    the_deals,
    the_position,
)
from venue.liquidity import Liquidity
from venue.records import (
    CloseReason,
    DealStatus,
    ExecutionKind,
    OrderKind,
    OrderStatus,
    PositionStatus,
    RefusedError,
    Side,
    StopTrailed,
    TimeInForce,
    TriggerMethod,
)
from venue.rules import OrderChange
from venue.terms import Access, AccountKind

ACCEPTED, FILLED, PART = ExecutionKind.ACCEPTED, ExecutionKind.FILLED, ExecutionKind.PARTIALLY_FILLED
REPLACED, CANCELLED = ExecutionKind.REPLACED, ExecutionKind.CANCELLED
LATER = T0 + 1_000

LIMIT = {"kind": OrderKind.LIMIT, "limit_points": 109_900}
STOP = {"kind": OrderKind.STOP, "trigger_points": 110_100}


# -- when each kind fills


@pytest.mark.parametrize(
    ("fields", "before", "fills", "price"),
    [
        (LIMIT, (109_893, 109_901), (109_892, 109_900), 109_900),
        (LIMIT, (109_893, 109_901), (109_700, 109_708), 109_708),  # a gap gives the better price
        (
            {**LIMIT, "side": Side.SELL, "limit_points": 110_200},
            (110_199, 110_207),
            (110_200, 110_208),
            110_200,
        ),
        (STOP, (110_091, 110_099), (110_092, 110_100), 110_100),
        (STOP, (110_091, 110_099), (110_400, 110_408), 110_408),  # and here the worse one
        (
            {**STOP, "side": Side.SELL, "trigger_points": 109_900},
            (109_901, 109_909),
            (109_900, 109_908),
            109_900,
        ),
    ],
)
def test_pending_order_fills_at_the_first_quote_that_reaches_it(
    fields: dict[str, object], before: tuple[int, int], fills: tuple[int, int], price: int
) -> None:
    """A buyer looks at the ask and a seller at the bid; the quote's price is the only one to be had."""
    core = a_core()
    order = submitted(core, **fields)
    assert core.on_quote("EURUSD", LATER, *before) == ()
    (filled,) = executions(core.on_quote("EURUSD", LATER + 1, *fills))
    assert (filled.kind, filled.deal and filled.deal.price_points) == (FILLED, price)
    assert (filled.order.order_id, filled.position.position_id) == (order.order_id, order.position_id)


def test_pending_order_holds_no_margin_and_needs_it_when_it_fills() -> None:
    """Money may have gone elsewhere in between: the venue looks when it counts."""
    core = a_core()
    submitted(core, **LIMIT, volume_cents=50_000_000)
    assert core.used_margin_cents() == 0
    opened(core, 110_000, 110_008, volume_cents=50_000_000)
    (rejected,) = executions(core.on_quote("EURUSD", LATER + 1, 109_892, 109_900))
    assert (rejected.kind, rejected.error_code) == (ExecutionKind.REJECTED, "NOT_ENOUGH_MONEY")
    assert rejected.position.status is PositionStatus.CLOSED
    assert not core.orders


def test_stop_limit_fills_between_its_trigger_and_its_limit_only() -> None:
    """After a gap it waits as a limit order: that is what it is for."""
    core = a_core()
    submitted(core, kind=OrderKind.STOP_LIMIT, trigger_points=110_100, range_points=20)
    assert core.on_quote("EURUSD", LATER, 110_200, 110_208) == ()  # triggered, and too far
    assert core.orders
    assert the_deal(core.on_quote("EURUSD", LATER + 1, 110_110, 110_118)).price_points == 110_118


@pytest.mark.parametrize(("ask", "kind"), [(110_014, FILLED), (110_015, ExecutionKind.REJECTED)])
def test_market_range_order_fills_in_its_range_or_is_rejected(ask: int, kind: ExecutionKind) -> None:
    """The next quote decides, to the point."""
    core = a_core()
    submitted(core, kind=OrderKind.MARKET_RANGE, base_points=110_004, range_points=10)
    (told,) = executions(core.on_quote("EURUSD", LATER, ask - 8, ask))
    assert told.kind is kind


@pytest.mark.parametrize(
    ("method", "quotes", "triggers_at"),
    [
        (TriggerMethod.TRADE, [(110_080, 110_100)], 0),
        (TriggerMethod.OPPOSITE, [(110_080, 110_100), (110_100, 110_108)], 1),
        (TriggerMethod.DOUBLE_TRADE, [(110_092, 110_100), (110_090, 110_099), (110_092, 110_100)], None),
        (TriggerMethod.DOUBLE_TRADE, [(110_092, 110_100), (110_093, 110_101)], 1),
        (TriggerMethod.DOUBLE_OPPOSITE, [(110_092, 110_100), (110_100, 110_108), (110_101, 110_109)], 2),
    ],
)
def test_trigger_method_says_which_side_and_how_often(
    method: TriggerMethod, quotes: list[tuple[int, int]], triggers_at: int | None
) -> None:
    """A single spike does not set off a stop that wants to see its level twice in a row."""
    core = a_core()
    submitted(core, **STOP, trigger_method=method)
    filled_at = [
        index
        for index, quote in enumerate(quotes)
        if kinds(core.on_quote("EURUSD", LATER + index, *quote)) == [FILLED]
    ]
    assert filled_at == ([] if triggers_at is None else [triggers_at])


def test_stop_loss_may_watch_the_other_side_too() -> None:
    """A long's stop on OPPOSITE looks at the ask, so that a wide spread does not close it."""
    core = a_core()
    opened(core, 110_000, 110_008, relative_stop_points=100, trigger_method=TriggerMethod.OPPOSITE)
    assert core.on_quote("EURUSD", LATER + 1, 109_800, 109_950) == ()
    (closed,) = executions(core.on_quote("EURUSD", LATER + 2, 109_700, 109_708))
    assert closed.position.close_reason is CloseReason.STOP


# -- time in force


@pytest.mark.parametrize("how", [TimeInForce.IMMEDIATE_OR_CANCEL, TimeInForce.FILL_OR_KILL])
def test_limit_that_must_fill_at_once_is_cancelled_if_it_does_not(how: TimeInForce) -> None:
    """It does not stand in the book for a second quote."""
    core = a_core()
    submitted(core, **LIMIT, time_in_force=how)
    (cancelled,) = executions(core.on_quote("EURUSD", LATER, 110_000, 110_008))
    assert (cancelled.kind, cancelled.order.status) == (CANCELLED, OrderStatus.CANCELLED)


def test_dated_order_expires_at_its_time_without_a_quote() -> None:
    """Its position was never more than a number, and ends with it."""
    core = a_core()
    expires_ms = T0 + 60_000
    submitted(core, **LIMIT, time_in_force=TimeInForce.GOOD_TILL_DATE, expires_ms=expires_ms)
    assert core.next_due_ms() == expires_ms
    assert core.on_time(expires_ms - 1) == ()
    (expired,) = executions(core.on_time(expires_ms))
    assert (expired.kind, expired.position.status) == (ExecutionKind.EXPIRED, PositionStatus.CLOSED)
    assert (core.orders, core.next_due_ms()) == ({}, None)


def test_market_order_for_the_open_waits_for_the_first_quote() -> None:
    """It is the one market order that a closed market takes."""
    core = a_core()
    request = a_request(time_in_force=TimeInForce.MARKET_ON_OPEN)
    core.submit(request, T0, market_open=False)
    sunday_ms = T0 + 4 * 24 * 3_600_000
    assert the_deal(core.on_quote("EURUSD", sunday_ms, 111_000, 111_008)).price_points == 111_008


# -- amending and cancelling


def test_amended_order_keeps_its_number_and_what_was_left_out() -> None:
    """ORDER_REPLACED, and the rest stays as it was ordered."""
    core = a_core()
    order = submitted(core, **LIMIT, label="L", relative_stop_points=100)
    (replaced,) = core.amend_order(order.order_id, OrderChange(limit_points=109_950), T0 + 1)
    assert replaced.kind is REPLACED
    assert replaced.order == replace(order, limit_points=109_950, updated_ms=T0 + 1)
    filled, protected = executions(core.on_quote("EURUSD", LATER, 109_942, 109_950))
    assert (filled.kind, protected.position.stop_points) == (FILLED, 109_850)


def test_absolute_level_takes_the_place_of_a_relative_one() -> None:
    """An order has one stop, whichever way it was last said."""
    core = a_core()
    order = submitted(core, **LIMIT, relative_stop_points=100, relative_target_points=100)
    (replaced,) = core.amend_order(order.order_id, OrderChange(stop_points=109_500), T0 + 1)
    assert (replaced.order.stop_points, replaced.order.relative_stop_points) == (109_500, None)
    assert replaced.order.relative_target_points == 100


def test_cancelled_order_ends_with_its_empty_position() -> None:
    """As recorded: ORDER_CANCELLED, position CLOSED; afterwards it is unknown."""
    core = a_core()
    order = submitted(core, **STOP)
    (cancelled,) = core.cancel(order.order_id, T0 + 1)
    assert (cancelled.kind, cancelled.position.status) == (CANCELLED, PositionStatus.CLOSED)
    with pytest.raises(RefusedError, match=f"Order not found with id {order.order_id}"):
        core.cancel(order.order_id, T0 + 2)


def test_order_under_execution_is_neither_amended_nor_cancelled() -> None:
    """A market order is on its way; what it will do cannot be taken back."""
    core = a_core()
    order = submitted(core)
    with pytest.raises(RefusedError, match="UNABLE_TO_CANCEL_ORDER"):
        core.cancel(order.order_id, T0)
    with pytest.raises(RefusedError, match="UNABLE_TO_AMEND_ORDER"):
        core.amend_order(order.order_id, OrderChange(volume_cents=100_000), T0)


@pytest.mark.parametrize(
    ("fields", "code", "said"),
    [
        ({"kind": OrderKind.LIMIT}, "INVALID_REQUEST", "A LIMIT order needs limitPrice"),
        ({**STOP, "trigger_points": None}, "INVALID_REQUEST", "A STOP order needs stopPrice"),
        ({**STOP, "trigger_points": 110_000}, "TRADING_BAD_PRICES", "at or beyond stopPrice"),
        ({**STOP, "kind": OrderKind.STOP_LIMIT}, "INVALID_REQUEST", "needs slippageInPoints"),
        ({"kind": OrderKind.MARKET_RANGE, "range_points": 5}, "INVALID_REQUEST", "baseSlippagePrice"),
        ({**LIMIT, "stop_points": 109_901}, "TRADING_BAD_STOPS", "New SL for BUY position should be <="),
        ({**LIMIT, "target_points": 109_899}, "TRADING_BAD_STOPS", "New TP for BUY position should be >="),
        ({**LIMIT, "stop_points": 1, "relative_stop_points": 1}, "INVALID_REQUEST", "given twice"),
        ({**LIMIT, "trailing": True}, "TRADING_BAD_STOPS", "needs a stop loss"),
        ({**LIMIT, "expires_ms": T0 + 9}, "TRADING_BAD_EXPIRATION_DATE", "GOOD_TILL_DATE"),
        (
            {**LIMIT, "time_in_force": TimeInForce.GOOD_TILL_DATE, "expires_ms": T0},
            "TRADING_BAD_EXPIRATION_DATE",
            "is over",
        ),
        ({**LIMIT, "symbol": "XAUUSD", "limit_points": 280_000_500}, "INVALID_REQUEST", "more than 2 digits"),
        ({"position_id": 12}, "POSITION_NOT_FOUND", "12"),
    ],
)
def test_order_that_makes_no_sense_is_refused_with_its_code(
    fields: dict[str, object], code: str, said: str
) -> None:
    """Each mistake has the code that a client's table of errors expects."""
    core = a_core()
    core.take_changes()
    with pytest.raises(RefusedError, match=said) as refused:
        core.submit(a_request(**fields), T0, market_open=True)
    assert (refused.value.code, core.orders, core.take_changes()) == (code, {}, [])


# -- fills in parts, and slippage

THIN = Liquidity(seed=3, partial_fraction=1.0)


def test_order_that_stands_is_filled_part_by_part() -> None:
    """Its position grows with one price, and its stop with it: the sum of the parts is the order."""
    core = a_core(THIN)
    submitted(core, time_in_force=TimeInForce.GOOD_TILL_CANCEL, relative_stop_points=100)
    happened = []
    for index in range(40):
        happened += core.on_quote("EURUSD", LATER + index, 110_000 + index, 110_008 + index)
    told = executions(tuple(happened))
    parts = [each for each in told if each.kind is PART]
    assert parts
    assert [each.kind for each in told if each.deal][-1] is FILLED
    deals = the_deals(tuple(happened))
    assert sum(deal.volume_cents for deal in deals) == 5_000_000
    assert {deal.status for deal in deals[:-1]} == {DealStatus.PARTIALLY_FILLED}
    assert deals[1].asked_cents == 5_000_000 - deals[0].volume_cents
    position = the_position(core)
    value = sum(deal.price_points * deal.volume_cents for deal in deals)
    assert position.entry_points == pytest.approx(value / 5_000_000, abs=1e-9)
    assert (told[1].kind, told[3].kind) == (ACCEPTED, REPLACED)  # the stop comes with the first part
    assert core.protective[position.position_id].volume_cents == 5_000_000
    assert position.stop_points == round(position.entry_points) - 100


def test_market_order_takes_what_it_gets_and_the_rest_is_cancelled() -> None:
    """Immediate or cancel, the usual market order: a smaller position, not a second fill."""
    core = a_core(THIN)
    told = executions(opened(core, 110_000, 110_008))
    assert [each.kind for each in told] == [PART, CANCELLED]
    assert told[1].order.executed_cents == the_position(core).volume_cents < 5_000_000
    assert told[1].position.status is PositionStatus.OPEN
    assert not core.orders


def test_all_or_nothing_is_nothing_in_a_thin_market() -> None:
    """Fill or kill leaves no position behind."""
    core = a_core(THIN)
    assert kinds(opened(core, 110_000, 110_008, time_in_force=TimeInForce.FILL_OR_KILL)) == [CANCELLED]
    assert not core.positions


def test_stop_loss_that_fills_in_parts_goes_on_to_the_end() -> None:
    """Once it is triggered it takes every price, though the market comes back."""
    core = a_core()
    opened(core, 110_000, 110_008, relative_stop_points=100)
    core = reborn(core, THIN)  # the market gets thin after the entry
    told = list(executions(core.on_quote("EURUSD", LATER + 1, 109_900, 109_908)))
    assert [each.kind for each in told] == [PART, REPLACED]
    for index in range(40):
        told += executions(core.on_quote("EURUSD", LATER + 2 + index, 110_100, 110_108))
    assert not core.positions
    assert told[-1].position.close_reason is CloseReason.STOP
    assert sum(each.deal.volume_cents for each in told if each.deal) == 5_000_000


def test_slippage_makes_a_fill_worse_within_its_bound_and_never_a_limit() -> None:
    """It costs both sides alike; a limit order keeps its price, and a range order its range."""
    slips = set()
    for seed in range(40):
        core = a_core(Liquidity(seed=seed, slippage_ticks_max=3))
        slips.add(the_deal(opened(core, 110_000, 110_008)).price_points - 110_008)
        core = a_core(Liquidity(seed=seed, slippage_ticks_max=3))
        slips.add(110_000 - the_deal(opened(core, 110_000, 110_008, side=Side.SELL)).price_points)
        core = a_core(Liquidity(seed=seed, slippage_ticks_max=3))
        assert the_deal(opened(core, 109_892, 109_900, **LIMIT)).price_points == 109_900
        core = a_core(Liquidity(seed=seed, slippage_ticks_max=3))
        ranged = {"kind": OrderKind.MARKET_RANGE, "base_points": 110_008, "range_points": 1}
        assert the_deal(opened(core, 110_000, 110_008, **ranged)).price_points <= 110_009
    assert slips == {0, 1, 2, 3}


# -- trailing stops


def test_trailing_stop_follows_the_price_and_never_goes_back() -> None:
    """It keeps the distance that it had from the closing price, and only its own event tells of it."""
    core = a_core()
    opened(core, 110_000, 110_008, relative_stop_points=108, trailing=True)
    assert the_position(core).stop_points == 109_900
    (moved,) = core.on_quote("EURUSD", LATER + 1, 110_050, 110_058)
    assert isinstance(moved, StopTrailed)
    assert (moved.position.stop_points, moved.order.stop_points) == (109_950, 109_950)
    assert core.on_quote("EURUSD", LATER + 2, 110_000, 110_008) == ()
    assert the_position(core).stop_points == 109_950
    (closed,) = executions(core.on_quote("EURUSD", LATER + 3, 109_950, 109_958))
    assert closed.position.close_reason is CloseReason.STOP


def test_trailing_stop_of_a_short_follows_the_ask_down() -> None:
    """The mirror of the above."""
    core = a_core()
    opened(core, 110_000, 110_008, side=Side.SELL)
    core.amend(the_position(core).position_id, 110_108, None, LATER, trailing=True)
    core.on_quote("EURUSD", LATER + 1, 109_900, 109_908)
    assert the_position(core).stop_points == 110_008


def test_amending_without_the_flag_ends_the_trail() -> None:
    """What is not named is taken off, as with the levels."""
    core = a_core()
    opened(core, 110_000, 110_008, relative_stop_points=108, trailing=True)
    core.amend(the_position(core).position_id, 109_900, None, LATER)
    assert core.on_quote("EURUSD", LATER + 1, 110_500, 110_508) == ()
    assert the_position(core).stop_points == 109_900


# -- positions that are joined


def test_netted_account_has_one_position_a_symbol_that_grows_shrinks_and_flips() -> None:
    """A flip is two deals of one order: the old position is closed, the rest opens another."""
    core = a_core(kind=AccountKind.NETTED, commission=False)
    opened(core, 110_000, 110_008, volume_cents=2_000_000)
    first = the_position(core)
    submitted(core, LATER, volume_cents=2_000_000, relative_stop_points=500)
    core.on_quote("EURUSD", LATER + 500, 110_010, 110_018)
    grown = the_position(core)
    assert (grown.position_id, grown.volume_cents, grown.entry_points) == (
        first.position_id,
        4_000_000,
        110_013,
    )
    assert grown.stop_points == 109_513
    submitted(core, LATER + 500, volume_cents=1_000_000, side=Side.SELL)
    reduced, shrunk = executions(core.on_quote("EURUSD", LATER + 1_000, 110_010, 110_018))
    assert (reduced.deal and reduced.deal.gross_cents, shrunk.order.volume_cents) == (-30, 3_000_000)
    submitted(core, LATER + 1_000, volume_cents=5_000_000, side=Side.SELL)
    told = executions(core.on_quote("EURUSD", LATER + 2_000, 110_010, 110_018))
    assert [each.kind for each in told] == [PART, FILLED]
    assert told[0].position.status is PositionStatus.CLOSED
    flipped = the_position(core)
    assert (flipped.side, flipped.volume_cents, flipped.stop_points) == (Side.SELL, 2_000_000, None)
    assert flipped.position_id not in (first.position_id, told[0].position.position_id)


def test_hedged_order_may_name_the_position_that_it_enlarges_or_reduces() -> None:
    """With positionId it acts on that position; without, it opens its own."""
    core = a_core()
    opened(core, 110_000, 110_008, volume_cents=2_000_000)
    position_id = the_position(core).position_id
    submitted(core, LATER, volume_cents=1_000_000, position_id=position_id)
    core.on_quote("EURUSD", LATER + 500, 110_000, 110_008)
    assert the_position(core).volume_cents == 3_000_000
    order = submitted(core, LATER + 500, volume_cents=1_000_000, position_id=position_id, side=Side.SELL)
    assert order.closing
    core.on_quote("EURUSD", LATER + 1_000, 110_000, 110_008)
    assert the_position(core).volume_cents == 2_000_000


# -- access


def test_account_that_may_only_close_opens_nothing() -> None:
    """An account in trouble is wound down, not traded."""
    core = a_core()
    opened(core, 110_000, 110_008)
    core = reborn(core, access=Access.CLOSE_ONLY)
    with pytest.raises(RefusedError, match="TRADING_NOT_ALLOWED"):
        core.submit(a_request(), LATER, market_open=True)
    core.close(the_position(core).position_id, 5_000_000, LATER, market_open=True)
