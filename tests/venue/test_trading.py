"""Trading over real sockets: the sequences of events, the faults, and what the books say of them."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.venue.client import Control, VenueClient, logged_in
from tests.venue.conftest import a_setting
from venue.calendar import M5_MS, NEW_YORK
from venue.main import RunningVenue, serve
from venue.protocol import messages, model

Events = list[Any]


async def begin_ms(control: Control) -> int:
    """Return the first moment that has not been played."""
    return int((await control.get("/state"))["time_ms"]) + 1


def executions(events: Events) -> Events:
    return [event for event in events if isinstance(event, messages.ProtoOAExecutionEvent)]


def kinds(events: Events) -> list[str]:
    return [model.ProtoOAExecutionType.Name(event.executionType) for event in events]


async def test_market_order_is_told_in_three_events(client: VenueClient, control: Control) -> None:
    """Accepted, filled without levels, protected by the venue: only the first two are the client's own."""
    ids = await client.symbol_ids()
    await control.step(await begin_ms(control) + 10_000)
    order = client.market_order(
        ids["EURUSD"], relativeStopLoss=200, relativeTakeProfit=400, clientOrderId="TG-1", label="TG-1"
    )
    client.send(order, "mine")
    accepted, accepted_id = await client.receive()
    await control.step(await begin_ms(control) + 60_000)
    filled, filled_id = await client.receive()
    protected, protected_id = await client.receive()
    assert (accepted_id, filled_id, protected_id) == ("mine", "mine", None)
    assert kinds([accepted, filled, protected]) == ["ORDER_ACCEPTED", "ORDER_FILLED", "ORDER_ACCEPTED"]
    assert accepted.position.positionStatus == model.POSITION_STATUS_CREATED
    assert (filled.order.clientOrderId, filled.position.tradeData.label) == ("TG-1", "TG-1")
    assert not filled.position.HasField("stopLoss")
    assert filled.deal.executionTimestamp >= accepted.order.utcLastUpdateTimestamp + 130
    assert protected.isServerEvent
    assert protected.order.orderType == model.STOP_LOSS_TAKE_PROFIT
    entry = filled.deal.executionPrice
    assert protected.position.stopLoss == pytest.approx(entry - 0.002)
    assert protected.order.limitPrice == pytest.approx(entry + 0.004)


async def test_every_connection_hears_and_only_the_sender_finds_its_id(
    client: VenueClient, control: Control, venue: RunningVenue
) -> None:
    """Events belong to the account; an id that another client chose means nothing here."""
    ids = await client.symbol_ids()
    async with logged_in(venue.ready) as other:
        await client.ask(client.market_order(ids["EURUSD"]))
        await control.step(await begin_ms(control) + M5_MS)
        await client.collect()
        await other.ask(messages.ProtoOAVersionReq())
        told = [(type(message).__name__, msg_id) for message, msg_id in other.events]
        assert told == [("ProtoOAExecutionEvent", None)] * 2


@pytest.mark.parametrize(
    ("fields", "carrier", "code", "said"),
    [
        (
            {"stopLoss": 1.0},
            messages.ProtoOAErrorRes,
            "INVALID_REQUEST",
            "SL/TP in absolute values are allowed only for order types: [LIMIT, STOP, STOP_LIMIT]",
        ),
        (
            {"volume": 1},
            messages.ProtoOAOrderErrorEvent,
            "TRADING_BAD_VOLUME",
            "Order volume = 0.00 is smaller than minimum allowed volume = 0.01.",
        ),
    ],
)
async def test_refusal_comes_with_the_requests_id_and_stands_in_the_books(
    client: VenueClient, control: Control, fields: dict[str, Any], carrier: type, code: str, said: str
) -> None:
    """An order that never was can be explained from the books."""
    ids = await client.symbol_ids()
    answer = await client.ask(client.market_order(ids["EURUSD"], **fields))
    assert isinstance(answer, carrier)
    assert (answer.errorCode, answer.description) == (code, said)
    books = await control.get("/ledger")
    assert books["orders"] == []
    if carrier is messages.ProtoOAOrderErrorEvent:
        assert [refusal["code"] for refusal in books["refusals"]] == [code]


@pytest.mark.parametrize("price", [float("nan"), float("inf"), -1.0, 0.0, 1e300])
async def test_level_that_is_no_price_is_refused(client: VenueClient, price: float) -> None:
    """A broken number must not break the connection."""
    amend = messages.ProtoOAAmendPositionSLTPReq(
        ctidTraderAccountId=client.account_id, positionId=1, stopLoss=price
    )
    assert (await client.ask(amend)).errorCode == "INVALID_REQUEST"


async def test_pending_order_is_accepted_replaced_and_cancelled_under_one_number(
    client: VenueClient, control: Control
) -> None:
    """The recorded sequence: each step carries the id of its own request, and reconcile shows what waits."""
    ids = await client.symbol_ids()
    account = client.account_id
    order = client.market_order(ids["XAUUSD"], volume=1_000, relativeStopLoss=500_000, label="L")
    order.orderType, order.limitPrice = model.LIMIT, 500.25
    accepted = await client.ask(order)
    assert kinds([accepted]) == ["ORDER_ACCEPTED"]
    assert (accepted.order.limitPrice, accepted.order.timeInForce) == (500.25, model.GOOD_TILL_CANCEL)
    assert accepted.position.positionStatus == model.POSITION_STATUS_CREATED
    order_id = accepted.order.orderId
    replaced = await client.ask(
        messages.ProtoOAAmendOrderReq(
            ctidTraderAccountId=account, orderId=order_id, limitPrice=600.5, stopLoss=590.0
        )
    )
    assert kinds([replaced]) == ["ORDER_REPLACED"]
    assert (replaced.order.orderId, replaced.order.limitPrice) == (order_id, 600.5)
    assert (replaced.order.stopLoss, replaced.order.HasField("relativeStopLoss")) == (590.0, False)
    reconciled = await client.ask(messages.ProtoOAReconcileReq(ctidTraderAccountId=account))
    assert [each.orderId for each in reconciled.order] == [order_id]
    cancel = messages.ProtoOACancelOrderReq(ctidTraderAccountId=account, orderId=order_id)
    cancelled = await client.ask(cancel)
    assert kinds([cancelled]) == ["ORDER_CANCELLED"]
    assert cancelled.position.positionStatus == model.POSITION_STATUS_CLOSED
    unknown = await client.ask(cancel)
    assert (unknown.errorCode, unknown.description) == (
        "ORDER_NOT_FOUND",
        f"Order not found with id {order_id}",
    )


async def test_stop_order_fills_by_itself_and_its_trailing_stop_is_told_apart(
    client: VenueClient, control: Control
) -> None:
    """Nobody asked for what happens later, so no id is on it; a stop that follows has its own event."""
    ids = await client.symbol_ids()
    await client.subscribe(ids["EURUSD"])
    spot = await client.wait_for(messages.ProtoOASpotEvent)
    order = client.market_order(ids["EURUSD"], relativeStopLoss=60, trailingStopLoss=True)
    order.orderType, order.stopPrice = model.STOP, spot.ask / 100_000 + 0.00002
    client.send(order, "mine")
    begin = await begin_ms(control)
    await control.step(begin + 20 * M5_MS)
    await client.ask(messages.ProtoOAVersionReq())
    events = [event for event in client.events if not isinstance(event[0], messages.ProtoOASpotEvent)]
    told = [(kinds([event])[0], msg_id) for event, msg_id in events if executions([event])]
    assert told[:3] == [("ORDER_ACCEPTED", "mine"), ("ORDER_FILLED", None), ("ORDER_ACCEPTED", None)]
    filled, protected = executions([event for event, _ in events])[1:3]
    assert filled.deal.executionPrice >= order.stopPrice - 1e-9
    trails = [event for event, _ in events if isinstance(event, messages.ProtoOATrailingSLChangedEvent)]
    assert trails
    assert {trail.orderId for trail in trails} == {protected.order.orderId}
    assert sorted(trail.stopPrice for trail in trails) == [trail.stopPrice for trail in trails]
    assert trails[0].stopPrice > protected.position.stopLoss


async def test_waiting_orders_come_back_with_the_venue(tmp_path: Path) -> None:
    """Killed between two steps, it has every order, level and trail as its clients know them."""
    settings = a_setting(tmp_path / "v")
    async with serve(settings) as venue, logged_in(venue.ready) as client:
        ids = await client.symbol_ids()
        order = client.market_order(ids["EURUSD"], relativeStopLoss=500, trailingStopLoss=True)
        order.orderType, order.limitPrice, order.timeInForce = model.LIMIT, 0.5, model.GOOD_TILL_DATE
        order.expirationTimestamp = await begin_ms(Control(venue.ready)) + 60_000
        before = (await client.ask(order)).order
    async with serve(settings) as venue, logged_in(venue.ready) as client:
        reconciled = await client.ask(messages.ProtoOAReconcileReq(ctidTraderAccountId=client.account_id))
        assert list(reconciled.order) == [before]
        await Control(venue.ready).step(before.expirationTimestamp)
        (expired,) = executions(await client.collect())
        assert (kinds([expired]), expired.order.orderId) == (["ORDER_EXPIRED"], before.orderId)


async def test_close_and_lists_tell_the_round_trip(client: VenueClient, control: Control) -> None:
    """Reconcile, orders, deals and unrealised results agree with the events and with the balance."""
    ids = await client.symbol_ids()
    account = client.account_id
    await client.ask(client.market_order(ids["EURUSD"], "SELL", 5_000_000, clientOrderId="c", label="L"))
    await control.step(await begin_ms(control) + 60_000)
    reconciled = await client.ask(messages.ProtoOAReconcileReq(ctidTraderAccountId=account))
    (position,) = reconciled.position
    assert (position.tradeData.label, position.tradeData.volume) == ("L", 5_000_000)
    value = await client.ask(messages.ProtoOAGetPositionUnrealizedPnLReq(ctidTraderAccountId=account))
    (worth,) = value.positionUnrealizedPnL
    assert worth.netUnrealizedPnL == worth.grossUnrealizedPnL + position.commission
    close = messages.ProtoOAClosePositionReq(
        ctidTraderAccountId=account, positionId=position.positionId, volume=5_000_000
    )
    accepted = await client.ask(close)
    assert accepted.order.closingOrder
    await control.step(await begin_ms(control) + 60_000)
    (filled,) = [event for event in executions(await client.collect()) if event.order.closingOrder]
    detail = filled.deal.closePositionDetail
    assert detail.balance == 1_000_000 + detail.grossProfit + detail.commission
    assert filled.position.positionStatus == model.POSITION_STATUS_CLOSED
    window = {"ctidTraderAccountId": account, "fromTimestamp": 0, "toTimestamp": 2_000_000_000_000}
    orders = await client.ask(messages.ProtoOAOrderListReq(**window))
    assert [order.clientOrderId for order in orders.order] == ["", "c"]
    deals = await client.ask(messages.ProtoOADealListReq(**window, maxRows=1))
    assert ([deal.dealId for deal in deals.deal], deals.hasMore) == ([filled.deal.dealId], True)
    details = await client.ask(
        messages.ProtoOAOrderDetailsReq(ctidTraderAccountId=account, orderId=orders.order[1].orderId)
    )
    assert (details.order.clientOrderId, len(details.deal)) == ("c", 1)
    trader = await client.ask(messages.ProtoOATraderReq(ctidTraderAccountId=account))
    assert trader.trader.balance == detail.balance
    again = await client.ask(close)
    assert (again.errorCode, again.positionId) == ("POSITION_NOT_FOUND", position.positionId)


async def test_order_that_no_quote_would_fill_in_time_is_refused(tmp_path: Path) -> None:
    """On Friday evening an order would wait for Sunday's gap; gold's daily break closes gold alone."""
    thursday_break = datetime(2025, 1, 9, 17, 10, tzinfo=NEW_YORK)
    friday_evening = datetime(2025, 1, 10, 16, 59, 59, tzinfo=NEW_YORK)
    settings = a_setting(tmp_path / "v", slices=1_600, start=thursday_break)
    async with serve(settings) as venue, logged_in(venue.ready) as client:
        ids = await client.symbol_ids()
        refused = await client.ask(client.market_order(ids["XAUUSD"], volume=100))
        assert refused.errorCode == "MARKET_CLOSED"
        accepted = await client.ask(client.market_order(ids["EURUSD"]))
        assert kinds([accepted]) == ["ORDER_ACCEPTED"]
        await Control(venue.ready).step(int(friday_evening.timestamp() * 1_000))
        refused = await client.ask(client.market_order(ids["EURUSD"]))
        assert refused.errorCode == "MARKET_CLOSED"


# -- faults


async def test_withheld_protection_leaves_the_position_bare_until_it_is_amended(
    client: VenueClient, control: Control
) -> None:
    """The fault is at the venue, not on the wire: the stop is really missing, and the books say when."""
    ids = await client.symbol_ids()
    await control.fault("protection_missing", count=1)
    await client.ask(client.market_order(ids["EURUSD"], relativeStopLoss=300, relativeTakeProfit=300))
    state = await control.step(await begin_ms(control) + 30_000)
    assert (state["open_positions"], state["unprotected"]) == (1, 1)
    assert state["faults_fired"] == {"protection_missing": 1}
    (filled,) = executions(await client.collect())
    entry, position_id = filled.deal.executionPrice, filled.position.positionId
    answer = await client.ask(
        messages.ProtoOAAmendPositionSLTPReq(
            ctidTraderAccountId=client.account_id,
            positionId=position_id,
            stopLoss=round(entry - 0.01, 5),
            takeProfit=round(entry + 0.01, 5),
        )
    )
    assert (kinds([answer]), answer.isServerEvent) == (["ORDER_ACCEPTED"], False)
    (position,) = (await control.get("/ledger"))["positions"]
    assert position["unprotected"] == [[position["opened_ms"], answer.order.utcLastUpdateTimestamp]]
    assert (await control.get("/state"))["unprotected"] == 0


async def test_delayed_protection_comes_in_venue_time(client: VenueClient, control: Control) -> None:
    """Late by exactly what was asked, whether or not a quote comes then."""
    ids = await client.symbol_ids()
    await control.fault("protection_late", delay_ms=5_000)
    await client.ask(client.market_order(ids["EURUSD"], relativeStopLoss=900))
    await control.step(await begin_ms(control) + 60_000)
    filled, protected = executions(await client.collect())
    assert protected.order.utcLastUpdateTimestamp == filled.deal.executionTimestamp + 5_000


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("accept_lost", ["ORDER_FILLED", "ORDER_ACCEPTED"]),
        ("fill_lost", ["ORDER_ACCEPTED", "ORDER_ACCEPTED"]),
        ("order_unanswered", []),
    ],
)
async def test_withheld_message_is_not_told_though_it_happened(
    client: VenueClient, control: Control, fault: str, told: list[str]
) -> None:
    """Silence is no proof that nothing happened: the client must ask."""
    ids = await client.symbol_ids()
    await control.fault(fault)
    client.send(client.market_order(ids["EURUSD"], relativeStopLoss=900), "order")
    early = await client.collect()
    state = await control.step(await begin_ms(control) + 60_000)
    assert kinds(executions(early + await client.collect())) == told
    assert (state["open_positions"], state["unprotected"]) == (1, 0)


async def test_delayed_fill_is_told_late_and_stands_in_the_books_at_once(
    client: VenueClient, control: Control
) -> None:
    """The position exists before its client knows: what is late is the word, not the deed."""
    ids = await client.symbol_ids()
    await control.fault("fill_late", delay_ms=120_000)
    await client.ask(client.market_order(ids["EURUSD"]))
    state = await control.step(await begin_ms(control) + 60_000)
    assert state["open_positions"] == 1
    assert executions(await client.collect()) == []
    await control.step(state["time_ms"] + 120_000)
    assert kinds(executions(await client.collect())) == ["ORDER_FILLED"]


# -- stepping


async def test_control_door_needs_its_token(control: Control) -> None:
    """Whoever steps the venue owns its time."""
    assert (await control.call("GET", "/state", token="guess"))[0] == 401  # noqa: S106 - wrong on purpose
    assert (await control.call("GET", "/nothing"))[0] == 404


async def test_step_plays_what_is_due_and_says_what_comes_next(client: VenueClient, control: Control) -> None:
    """A supervisor learns from the answer alone whether every symbol's next bar has begun."""
    await client.subscribe(*(await client.symbol_ids()).values())
    await client.collect()
    begin = await begin_ms(control)
    state = await control.step(begin + 10)
    assert not any(state["next_bar_quotes"].values())
    state = await control.step(begin + 1_000)
    assert all(state["next_bar_quotes"].values())
    spots = await client.collect()
    assert spots[-1].timestamp == state["last_stamp_ms"] <= state["time_ms"] < state["next_quote_ms"]
    assert (await control.step(begin))["time_ms"] == state["time_ms"]  # time does not run backwards
    end = await control.step(begin + 400 * M5_MS * 7)
    assert end["next_quote_ms"] is None
    assert (await control.call("POST", "/step", {"until_ms": 2**60}))[0] == 400


async def a_day_of_trading(folder: Path) -> dict[str, Any]:
    """Trade every symbol now and then, by a fixed plan, and return the books."""
    settings = a_setting(folder, requests_per_s=10_000)
    async with serve(settings) as venue, logged_in(venue.ready) as client:
        control = Control(venue.ready)
        ids = await client.symbol_ids()
        begin = await begin_ms(control)
        for turn in range(60):
            symbol = list(ids)[turn % 5]
            volume = 100 if symbol == "XAUUSD" else 100_000
            distance = {"USDJPY": 5_000, "XAUUSD": 100_000}.get(symbol, 40)
            await client.ask(
                client.market_order(
                    ids[symbol],
                    "SELL" if turn % 3 else "BUY",
                    volume,
                    relativeStopLoss=distance,
                    relativeTakeProfit=2 * distance,
                    clientOrderId=f"t{turn}",
                )
            )
            await control.step(begin + turn * M5_MS)
        return await control.get("/ledger")


async def test_same_steps_and_same_orders_give_the_same_books(tmp_path: Path) -> None:
    """Nothing in the venue depends on the machine, the clock or the sockets."""
    first, second = await a_day_of_trading(tmp_path / "a"), await a_day_of_trading(tmp_path / "b")
    assert first == second
    assert len(first["deals"]) > 60
    deposit, *moves = first["balance_changes"]
    net = sum(
        deal["gross_cents"] + deal["swap_cents"] + deal["round_trip_commission_cents"]
        for deal in first["deals"]
        if deal["gross_cents"] is not None
    )
    assert moves[-1]["balance_cents"] == deposit["balance_cents"] + net
    assert {position["close_reason"] for position in first["positions"]} >= {"STOP", "TARGET"}


async def test_ledger_tells_only_what_changed_since(client: VenueClient, control: Control) -> None:
    """An auditor that polls reads each change once."""
    ids = await client.symbol_ids()
    before = (await control.get("/ledger"))["revision"]
    await client.ask(client.market_order(ids["EURUSD"]))
    news = await control.get(f"/ledger?since={before}")
    assert (len(news["orders"]), news["balance_changes"]) == (1, [])
    assert (await control.get(f"/ledger?since={news['revision']}"))["orders"] == []
