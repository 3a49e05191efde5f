"""The venue's messages in our words, as recorded, and as a later version of the venue may send them."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway import translate
from services.gateway.protocol import model, oa
from services.gateway.slices import Bar
from services.gateway.terms import UnclearError, money
from shared.messages import Direction, ExecutionKind
from tests.gateway.builders import with_unknown
from venue.book import CONTRACTS

D, E = Decimal, ExecutionKind
EURO_ID, GOLD_ID = 1, 41
BY_ID = {EURO_ID: CONTRACTS["EURUSD"], GOLD_ID: CONTRACTS["XAUUSD"]}
LABEL = "TG-main-20250107T0720-EURUSD"
OPENED_MS, NOW_MS = 1_736_234_400_000, 1_736_234_460_000


def a_trade(label: str = LABEL, symbol_id: int = EURO_ID, volume: int = 1_000_000, side: int = 1) -> Any:
    return model.ProtoOATradeData(
        symbolId=symbol_id, volume=volume, tradeSide=side, openTimestamp=OPENED_MS, label=label or None
    )


def an_order(status: str = "ACCEPTED", *, trade: Any = None, **fields: Any) -> Any:
    values: dict[str, Any] = {
        "orderId": 500,
        "tradeData": trade or a_trade(),
        "orderType": model.MARKET,
        "orderStatus": model.ProtoOAOrderStatus.Value(f"ORDER_STATUS_{status}"),
        "utcLastUpdateTimestamp": NOW_MS,
        "positionId": 300,
        "clientOrderId": LABEL,
    }
    return model.ProtoOAOrder(**(values | fields))


def a_position(status: str = "OPEN", *, trade: Any = None, **fields: Any) -> Any:
    values: dict[str, Any] = {
        "positionId": 300,
        "tradeData": trade or a_trade(),
        "positionStatus": model.ProtoOAPositionStatus.Value(f"POSITION_STATUS_{status}"),
        "swap": -12,
        "price": 1.1,
        "commission": -25,
        "usedMargin": 11_000,
        "moneyDigits": 2,
    }
    return model.ProtoOAPosition(**(values | fields))


def a_deal(volume: int = 1_000_000, price: float = 1.1, detail: Any = None, **fields: Any) -> Any:
    values: dict[str, Any] = {
        "dealId": 700,
        "orderId": 500,
        "positionId": 300,
        "volume": volume,
        "filledVolume": volume,
        "symbolId": EURO_ID,
        "createTimestamp": OPENED_MS,
        "executionTimestamp": NOW_MS,
        "executionPrice": price,
        "tradeSide": model.BUY,
        "dealStatus": model.FILLED,
        "moneyDigits": 2,
    }
    deal = model.ProtoOADeal(**(values | fields))
    if detail is not None:
        deal.closePositionDetail.CopyFrom(detail)
    return deal


def a_detail(**fields: Any) -> Any:
    values: dict[str, Any] = {
        "entryPrice": 1.1,
        "grossProfit": -5_000,
        "swap": -12,
        "commission": -50,
        "balance": 994_938,
        "moneyDigits": 2,
    }
    return model.ProtoOAClosePositionDetail(**(values | fields))


def an_event(kind: str, order: Any, position: Any = None, deal: Any = None, **fields: Any) -> Any:
    return oa.ProtoOAExecutionEvent(
        ctidTraderAccountId=1,
        executionType=model.ProtoOAExecutionType.Value(kind),
        order=order,
        position=position,
        deal=deal,
        **fields,
    )


def said(event: Any) -> translate.VenueEvent:
    found = translate.event_of(event, BY_ID, "main")
    assert found is not None
    return found


def a_protective(status: str = "ACCEPTED", **fields: Any) -> Any:
    """Return the order of a stop at 1.095 and a target at 1.107, as the venue makes it."""
    values = {"orderId": 501, "orderType": model.STOP_LOSS_TAKE_PROFIT, "closingOrder": True}
    levels = {"stopPrice": 1.095, "limitPrice": 1.107}
    return an_order(status, **{**values, **levels, "clientOrderId": None, **fields})


# -- numbers


@pytest.mark.parametrize(
    ("points", "digits", "price"),
    [
        (110_000, 5, "1.10000"),
        (110_001, 5, "1.10001"),
        (15_012_300, 3, "150.123"),
        (15_012_349, 3, "150.123"),  # off the grid: to the nearest
        (290_012_000, 2, "2900.12"),
        (290_012_600, 2, "2900.13"),
        (4_200_000, 1, "42.0"),
        (4_200_000, 0, "42"),
    ],
)
def test_quotes_are_said_on_the_symbols_digits(points: int, digits: int, price: str) -> None:
    """The venue counts in 1/100,000 whatever the digits are."""
    assert str(translate.price_of(points, digits)) == price


@given(ticks=st.integers(1, 10**9), digits=st.integers(0, 5))
def test_every_price_on_the_grid_comes_back_exactly(ticks: int, digits: int) -> None:
    """Nothing is lost on the way through the integer."""
    price = translate.price_of(ticks * 10 ** (5 - digits), digits)
    assert price == D(ticks).scaleb(-digits)
    assert translate.rounded(float(price), digits) == price


@pytest.mark.parametrize(
    ("amount", "digits", "value"),
    [(1_000_050, 2, "10000.50"), (-5, 2, "-0.05"), (123_456_789, 8, "1.23456789")],
)
def test_money_has_the_digits_of_its_own_message(amount: int, digits: int, value: str) -> None:
    """A deposit currency may have eight digits; two is no constant."""
    assert str(money(amount, model.ProtoOATrader(moneyDigits=digits))) == value


def test_doubles_are_rounded_to_the_symbols_digits() -> None:
    """1.1 + 0.2 in binary is not a price."""
    assert str(translate.rounded(1.1 + 0.2, 5)) == "1.30000"
    assert str(translate.rounded(2900.1, 2)) == "2900.10"


# -- bars


def test_forming_bar_closes_at_the_bid_of_its_own_event() -> None:
    """The venue never sends the bar's close."""
    spot = oa.ProtoOASpotEvent(ctidTraderAccountId=1, symbolId=EURO_ID, bid=110_004)
    spot.trendbar.add(
        period=model.M5,
        volume=3,
        low=110_000,
        deltaOpen=2,
        deltaHigh=9,
        deltaClose=7,
        utcTimestampInMinutes=5,
    )
    bar = translate.live_bar("EURUSD", spot)
    assert bar == Bar("EURUSD", 300_000, 110_002, 110_009, 110_000, 110_004, 3)


def test_event_without_a_bid_makes_no_bar() -> None:
    """An ask that moves alone says nothing of a bar of bids; absent is not zero."""
    spot = oa.ProtoOASpotEvent(ctidTraderAccountId=1, symbolId=EURO_ID, ask=110_004)
    assert translate.live_bar("EURUSD", spot) is None
    spot.trendbar.add(period=model.M5, volume=3, low=110_000, utcTimestampInMinutes=5)
    assert translate.live_bar("EURUSD", spot) is None


def test_bar_of_another_period_is_not_taken() -> None:
    """Five minutes are what the models know."""
    spot = oa.ProtoOASpotEvent(ctidTraderAccountId=1, symbolId=EURO_ID, bid=110_004)
    spot.trendbar.add(period=model.M1, volume=3, low=110_000, utcTimestampInMinutes=5)
    assert translate.live_bar("EURUSD", spot) is None


def test_deltas_that_are_left_out_are_zero() -> None:
    """A bar without range may come with its low alone."""
    bar = model.ProtoOATrendbar(volume=1, low=110_000, utcTimestampInMinutes=10)
    assert translate.history_bar("EURUSD", bar) == Bar("EURUSD", 600_000, *[110_000] * 4, 1)


# -- positions


def test_position_says_what_it_is() -> None:
    """Volume in units, money by its own digits, costs so far negative."""
    trade = a_trade(side=2, volume=2_500_000)
    found = translate.position_of(a_position(trade=trade, stopLoss=1.105), BY_ID, "main")
    assert (found.direction, found.volume_units, found.entry_price) == (
        Direction.SHORT,
        D(25_000),
        D("1.10000"),
    )
    assert (found.used_margin, found.costs) == (D("110.00"), D("-0.37"))
    assert (found.stop_loss_price, found.take_profit_price) == (D("1.10500"), None)
    assert found.client_order_id == LABEL


@pytest.mark.parametrize("label", ["", "by hand", "TG-other-20250107T0720-EURUSD"])
def test_foreign_position_has_no_order_of_ours(label: str) -> None:
    """It is watched, counted, and never touched."""
    assert translate.position_of(a_position(trade=a_trade(label)), BY_ID, "main").client_order_id is None


def test_position_in_a_symbol_that_is_not_in_the_book_is_counted_all_the_same() -> None:
    """Its margin is bound, whatever it is called."""
    found = translate.position_of(a_position(trade=a_trade("", symbol_id=99)), BY_ID, "main")
    assert (found.symbol, found.used_margin) == ("#99", D("110.00"))


# -- an order's events


def test_recorded_sequence_of_a_market_order() -> None:
    """Accepted with an empty position, filled without levels, protected by the venue."""
    accepted = said(an_event("ORDER_ACCEPTED", an_order(), a_position("CREATED", price=0.0)))
    assert (accepted.kind, accepted.client_order_id, accepted.order_id) == (E.ACCEPTED, LABEL, 500)
    assert (accepted.position, accepted.position_gone, accepted.price) == (None, False, None)

    filled = said(
        an_event("ORDER_FILLED", an_order("FILLED", executedVolume=1_000_000), a_position(), a_deal())
    )
    assert (filled.kind, filled.time_ms, filled.position_id) == (E.FILLED, NOW_MS, 300)
    assert (filled.price, filled.volume_units, filled.pnl, filled.balance) == (
        D("1.1"),
        D(10_000),
        None,
        None,
    )
    assert filled.position is not None
    assert (filled.position.stop_loss_price, filled.position.take_profit_price) == (None, None)

    guarded = a_position(stopLoss=1.095, takeProfit=1.107)
    protected = said(an_event("ORDER_ACCEPTED", a_protective(), guarded, isServerEvent=True))
    assert (protected.kind, protected.client_order_id) == (E.PROTECTED, LABEL)
    assert protected.position is not None
    assert protected.position.stop_loss_price == D("1.095")


def test_order_that_is_accepted_without_a_position_is_still_ours() -> None:
    """Some venues send the position only with the fill."""
    event = said(an_event("ORDER_ACCEPTED", an_order()))
    assert (event.kind, event.client_order_id) == (E.ACCEPTED, LABEL)


@pytest.mark.parametrize("kind", ["ORDER_ACCEPTED", "ORDER_REPLACED"])
def test_protective_order_without_a_stop_protects_nothing(kind: str) -> None:
    """A target alone is no stop."""
    event = said(an_event(kind, a_protective(stopPrice=None), a_position(takeProfit=1.107)))
    assert event.kind is None
    assert event.position is not None


@pytest.mark.parametrize(
    ("price", "reason"), [(1.095, "STOP_LOSS"), (1.0921, "STOP_LOSS"), (1.107, "TAKE_PROFIT")]
)
def test_stop_or_target_that_is_hit_closes_the_order_with_its_result(price: float, reason: str) -> None:
    """Net of swap, both commissions and the conversion fee; the balance after it."""
    detail = a_detail(pnlConversionFee=-3)
    gone = a_position("CLOSED", price=0.0, trade=a_trade(volume=0))
    event = said(an_event("ORDER_FILLED", a_protective("FILLED"), gone, a_deal(price=price, detail=detail)))
    assert (event.kind, event.reason, event.position_gone) == (E.CLOSED, reason, True)
    assert (event.pnl, event.balance, event.position) == (D("-50.65"), D("9949.38"), None)


@pytest.mark.parametrize(
    ("order", "reason"),
    [
        (an_order("FILLED", closingOrder=True, clientOrderId=None), "CLOSED_BY_ORDER"),
        (an_order("FILLED", closingOrder=True, isStopOut=True), "STOP_OUT"),
        (a_protective("FILLED", isStopOut=True), "STOP_OUT"),
    ],
)
def test_closing_by_hand_or_by_stop_out_is_told_apart(order: Any, reason: str) -> None:
    """The label of the position says whose it was, where the closing order has none."""
    event = said(an_event("ORDER_FILLED", order, a_position("CLOSED", price=0.0), a_deal(detail=a_detail())))
    assert (event.kind, event.client_order_id, event.reason) == (E.CLOSED, LABEL, reason)


def test_partial_close_leaves_the_order_open_and_shrinks_its_position() -> None:
    """The order is closed when its position is gone, not before; the balance moves at once."""
    rest = a_position(trade=a_trade(volume=400_000), stopLoss=1.095)
    deal = a_deal(volume=600_000, detail=a_detail())
    event = said(an_event("ORDER_FILLED", an_order("FILLED", closingOrder=True), rest, deal))
    assert (event.kind, event.position_gone, event.balance) == (None, False, D("9949.38"))
    assert event.position is not None
    assert event.position.volume_units == D(4_000)


def test_partial_fill_is_no_fill_yet() -> None:
    """More may come, or the rest may be cancelled."""
    order = an_order(executedVolume=400_000)
    event = said(
        an_event("ORDER_PARTIAL_FILL", order, a_position(trade=a_trade(volume=400_000)), a_deal(400_000))
    )
    assert (event.kind, event.volume_units) == (E.PARTIALLY_FILLED, D(4_000))


@pytest.mark.parametrize("kind", ["ORDER_CANCELLED", "ORDER_EXPIRED"])
def test_rest_of_a_partial_fill_that_is_cancelled_leaves_a_filled_order(kind: str) -> None:
    """There is a position, and it needs its stop: the order was not rejected."""
    order = an_order("CANCELLED", executedVolume=400_000)
    event = said(an_event(kind, order, a_position(trade=a_trade(volume=400_000))))
    assert event.kind is E.FILLED
    assert event.position is not None
    assert event.position.volume_units == D(4_000)


@pytest.mark.parametrize(
    ("kind", "code", "reason"),
    [
        ("ORDER_REJECTED", "NOT_ENOUGH_MONEY", "NOT_ENOUGH_MONEY"),
        ("ORDER_REJECTED", "", "REJECTED"),
        ("ORDER_CANCELLED", "", "CANCELLED"),
        ("ORDER_EXPIRED", "", "EXPIRED"),
    ],
)
def test_rejection_after_acceptance_says_why(kind: str, code: str, reason: str) -> None:
    """It ends the order, and a human reads the reason."""
    event = said(an_event(kind, an_order("REJECTED"), errorCode=code or None))
    assert (event.kind, event.reason) == (E.REJECTED, reason)


def test_closing_that_is_rejected_does_not_end_the_order() -> None:
    """The position is still there."""
    event = said(an_event("ORDER_REJECTED", an_order("REJECTED", closingOrder=True), a_position()))
    assert (event.kind, event.position_gone) == (None, False)


def test_foreign_order_moves_the_account_and_nothing_else() -> None:
    """It is counted in the exposure and locks its symbol."""
    trade = a_trade("by hand")
    order = an_order("FILLED", trade=trade, clientOrderId="x-1")
    event = said(an_event("ORDER_FILLED", order, a_position(trade=trade), a_deal()))
    assert event.client_order_id is None
    assert event.position is not None
    assert event.position.client_order_id is None


def test_event_about_no_order_is_none() -> None:
    """Deposits and swaps come in the same message."""
    event = oa.ProtoOAExecutionEvent(ctidTraderAccountId=1, executionType=model.DEPOSIT_WITHDRAW)
    assert translate.event_of(event, BY_ID, "main") is None


# -- what a newer venue may send


def test_unknown_execution_type_says_nothing_of_the_order() -> None:
    """Our definitions would read it as the first they know, which is `accepted`."""
    newer = with_unknown(an_event("ORDER_FILLED", an_order(), a_position()), "executionType", 77)
    event = said(newer)
    assert event.kind is None
    assert event.position is not None


def test_unknown_position_status_is_not_taken_for_open() -> None:
    """Nothing is guessed: what cannot be read changes no position; the next comparison of books will."""
    newer = with_unknown(a_position(), "positionStatus", 77)
    event = said(an_event("ORDER_FILLED", an_order("FILLED"), newer, a_deal()))
    assert event.position is None
    assert not event.position_gone


@pytest.mark.parametrize(
    ("holder", "field"), [("", "executionType"), ("order", "orderType"), ("position", "positionStatus")]
)
def test_execution_with_an_enum_of_a_later_version_is_unclear(holder: str, field: str) -> None:
    """What it says is only half understood, and half a fill is none: the venue's books are asked at once."""
    parts = {"order": an_order("FILLED"), "position": a_position()}
    if holder:
        parts[holder] = with_unknown(parts[holder], field, 77)
    event = an_event("ORDER_FILLED", parts["order"], parts["position"], a_deal())
    assert said(event if holder else with_unknown(event, field, 77)).is_unclear
    assert not said(an_event("ORDER_FILLED", an_order("FILLED"), a_position(), a_deal())).is_unclear


# -- what is missing


def a_close(**detail: Any) -> Any:
    deal = a_deal(detail=a_detail(**detail), orderId=501)
    return an_event("ORDER_FILLED", a_protective("FILLED"), a_position("CLOSED", price=0), deal)


def test_amount_without_its_digits_is_not_read() -> None:
    """Read as whole units it would be a hundred times too much: such an event says nothing."""
    assert said(a_close()).pnl == D("-50.62")
    event = said(a_close(moneyDigits=None))
    assert (event.kind, event.pnl, event.balance, event.is_unclear) == (None, None, None, True)
    bare = said(an_event("ORDER_FILLED", an_order("FILLED"), a_position(moneyDigits=None), a_deal()))
    assert (bare.kind, bare.position, bare.is_unclear) == (None, None, True)


def test_amount_of_nothing_needs_no_digits() -> None:
    """A position that has cost nothing and binds nothing is read all the same."""
    free = a_position(swap=0, commission=0, usedMargin=0, moneyDigits=None)
    assert translate.position_of(free, BY_ID, "main").costs == 0


def test_end_without_its_result_is_half_the_news() -> None:
    """The position is gone, which is a fact; what it gave is asked for, not told as nothing."""
    close = a_close()
    close.deal.ClearField("closePositionDetail")
    event = said(close)
    assert (event.kind, event.position_gone, event.position_id, event.is_unclear) == (None, True, 300, True)


def test_position_without_its_price_is_not_entered_at_nothing() -> None:
    """Stop and target would be reckoned from a price of zero."""
    with pytest.raises(UnclearError, match="price"):
        translate.position_of(a_position(price=None), BY_ID, "main")
    event = said(an_event("ORDER_FILLED", an_order("FILLED"), a_position(price=None), a_deal()))
    assert (event.kind, event.is_unclear) == (None, True)


def test_fill_without_its_position_is_a_fill_and_the_books_are_asked() -> None:
    """The deal says at which price; without the deal there is no price, and no fill to tell yet."""
    filled = said(an_event("ORDER_FILLED", an_order("FILLED"), None, a_deal()))
    assert (filled.kind, filled.price, filled.is_unclear) == (E.FILLED, D("1.1"), True)
    nothing = said(an_event("ORDER_FILLED", an_order("FILLED")))
    assert (nothing.kind, nothing.is_unclear) == (None, True)


@pytest.mark.parametrize("field", ["orderType", "orderStatus", "timeInForce"])
def test_unknown_enums_of_an_order_do_not_crash(field: str) -> None:
    """A newer venue is no reason to stop."""
    order = with_unknown(an_order(timeInForce=model.GOOD_TILL_CANCEL), field, 77)
    assert said(an_event("ORDER_ACCEPTED", order)).client_order_id == LABEL
    found = translate.order_found(order, BY_ID)
    assert (found.client_order_id, found.is_open, found.is_filled) == (
        LABEL,
        True,
        False,
    )


# -- the venue's lists


@pytest.mark.parametrize(
    ("status", "executed", "filled", "is_open"),
    [
        ("FILLED", 1_000_000, True, False),
        ("ACCEPTED", 0, False, True),
        ("ACCEPTED", 400_000, False, True),
        ("REJECTED", 0, False, False),
        ("CANCELLED", 400_000, True, False),  # a part was filled, and is a position
    ],
)
def test_listed_order_says_what_became_of_it(status: str, executed: int, filled: bool, is_open: bool) -> None:
    """After a lost connection this is all that is known."""
    found = translate.order_found(an_order(status, executedVolume=executed, executionPrice=1.1), BY_ID)
    assert (found.is_filled, found.is_open, found.client_order_id) == (filled, is_open, LABEL)
    assert (found.position_id, found.time_ms) == (300, NOW_MS)


def test_listed_deal_that_opened_is_no_close() -> None:
    """Only a deal with the detail of a closing has a result."""
    assert translate.close_found(a_deal(), BY_ID) is None


def test_listed_close_has_result_and_balance() -> None:
    """P&L of a closed deal is gross, swap and both commissions, by the detail's own digits."""
    detail = a_detail(grossProfit=500_000, swap=-1_200, commission=-5_000, balance=99_493_800, moneyDigits=4)
    close = translate.close_found(a_deal(price=1.105, detail=detail), BY_ID)
    assert close is not None
    assert (close.price, close.pnl, close.balance) == (D("1.10500"), D("49.3800"), D("9949.3800"))
