"""Requests about the account and the past over real sockets: right fields, pages and limits."""

from __future__ import annotations

from typing import Any

import pytest

from tests.venue.client import Control, VenueClient, logged_in
from tests.venue.conftest import a_setting
from venue.calendar import DAY_MS, M5_MS
from venue.main import RunningVenue, serve
from venue.protocol import flag_of, messages, model, set_later_field

RETURN_PROTECTION_ORDERS = 3
HAS_MORE = 7


async def now_ms(control: Control) -> int:
    return int((await control.get("/state"))["time_ms"])


async def traded(client: VenueClient, control: Control, *volumes: int) -> list[Any]:
    """Open a position and close it in parts of these volumes; return its deals, oldest first."""
    ids = await client.symbol_ids()
    await client.ask(client.market_order(ids["EURUSD"], volume=sum(volumes)))
    await control.step(await now_ms(control) + M5_MS)
    reconciled = await client.ask(messages.ProtoOAReconcileReq(ctidTraderAccountId=client.account_id))
    (position,) = reconciled.position
    for volume in volumes:
        await client.ask(
            messages.ProtoOAClosePositionReq(
                ctidTraderAccountId=client.account_id, positionId=position.positionId, volume=volume
            )
        )
        await control.step(await now_ms(control) + M5_MS)
    events = await client.collect()
    return [event.deal for event in events if getattr(event, "deal", None) and event.deal.dealId]


async def test_deal_offsets_say_which_deal_closed_which(client: VenueClient, control: Control) -> None:
    """An entry closed in two parts is offset by both, each with its own volume."""
    entry, first, second = await traded(client, control, 200_000, 300_000)
    account = client.account_id

    async def offsets(deal: Any) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        answer = await client.ask(
            messages.ProtoOADealOffsetListReq(ctidTraderAccountId=account, dealId=deal.dealId)
        )
        by, of = (
            [(each.dealId, each.volume) for each in side] for side in (answer.offsetBy, answer.offsetting)
        )
        return by, of

    assert await offsets(entry) == ([(first.dealId, 200_000), (second.dealId, 300_000)], [])
    assert await offsets(second) == ([], [(entry.dealId, 300_000)])
    unknown = messages.ProtoOADealOffsetListReq(ctidTraderAccountId=account, dealId=1)
    assert (await client.ask(unknown)).errorCode == "ENTITY_NOT_FOUND"


async def test_expected_margin_is_what_an_order_binds(client: VenueClient, control: Control) -> None:
    """The answer before the order and the position's margin after it are one number."""
    ids = await client.symbol_ids()
    account = client.account_id
    answer = await client.ask(
        messages.ProtoOAExpectedMarginReq(
            ctidTraderAccountId=account, symbolId=ids["USDCHF"], volume=[100_000, 300_000]
        )
    )
    small, large = answer.margin
    assert (small.volume, small.buyMargin, large.sellMargin) == (100_000, 1_000, 3_000)
    await client.ask(client.market_order(ids["USDCHF"], volume=300_000))
    await control.step(await now_ms(control) + M5_MS)
    reconciled = await client.ask(messages.ProtoOAReconcileReq(ctidTraderAccountId=account))
    assert reconciled.position[0].usedMargin == large.buyMargin


async def test_leverage_comes_in_tiers_under_the_symbols_number(client: VenueClient) -> None:
    """Volumes in cents of a dollar, each tier less leverage than the one below."""
    ids = await client.symbol_ids()
    account = client.account_id
    full = await client.ask(
        messages.ProtoOASymbolByIdReq(ctidTraderAccountId=account, symbolId=[ids["XAUUSD"]])
    )
    leverage_id = full.symbol[0].leverageId
    answer = await client.ask(
        messages.ProtoOAGetDynamicLeverageByIDReq(ctidTraderAccountId=account, leverageId=leverage_id)
    )
    tiers = [(tier.volume, tier.leverage) for tier in answer.leverage.tiers]
    assert tiers == [(100_000_000, 200), (500_000_000, 50), (2_000_000_000, 20)]
    unknown = messages.ProtoOAGetDynamicLeverageByIDReq(ctidTraderAccountId=account, leverageId=1)
    assert (await client.ask(unknown)).errorCode == "ENTITY_NOT_FOUND"


async def test_margin_calls_are_three_and_can_be_moved(client: VenueClient) -> None:
    """The answer, and an event that carries the new level."""
    account = client.account_id
    calls = await client.ask(messages.ProtoOAMarginCallListReq(ctidTraderAccountId=account))
    assert [call.marginCallType for call in calls.marginCall] == [61, 62, 63]
    call = calls.marginCall[1]
    call.marginLevelThreshold = 0.9
    update = messages.ProtoOAMarginCallUpdateReq(ctidTraderAccountId=account, marginCall=call)
    assert isinstance(await client.ask(update), messages.ProtoOAMarginCallUpdateRes)
    event = await client.wait_for(messages.ProtoOAMarginCallUpdateEvent)
    assert event.marginCall.marginLevelThreshold == pytest.approx(0.9)
    call.marginLevelThreshold = 0.1
    assert (await client.ask(update.__class__(ctidTraderAccountId=account, marginCall=call))).errorCode


async def test_cash_flow_lists_deposits_and_withdrawals_of_a_week(
    client: VenueClient, control: Control, venue: RunningVenue
) -> None:
    """What moved the balance and was no deal; more than a week is refused."""
    account = client.account_id
    await traded(client, control, 100_000)
    await venue.exchange.deposit(50_000)
    await venue.exchange.deposit(-20_000)
    told = await client.wait_for(
        messages.ProtoOAExecutionEvent, lambda event: event.HasField("depositWithdraw")
    )
    assert (told.executionType, told.depositWithdraw.delta) == (model.DEPOSIT_WITHDRAW, 50_000)
    now = await now_ms(control)
    window = {"ctidTraderAccountId": account, "toTimestamp": now}
    answer = await client.ask(
        messages.ProtoOACashFlowHistoryListReq(fromTimestamp=now - 7 * DAY_MS, **window)
    )
    moves = [(move.operationType, move.delta) for move in answer.depositWithdraw]
    assert moves == [(1, -20_000), (0, 50_000), (0, 1_000_000)]
    assert answer.depositWithdraw[0].balance == (await control.get("/state"))["balance_cents"]
    long = messages.ProtoOACashFlowHistoryListReq(fromTimestamp=now - 8 * DAY_MS, **window)
    assert (await client.ask(long)).errorCode == "INCORRECT_BOUNDARIES"


async def test_protective_orders_are_listed_only_if_asked_for(client: VenueClient, control: Control) -> None:
    """By a field that the official package does not know, but the server does."""
    ids = await client.symbol_ids()
    await client.ask(client.market_order(ids["EURUSD"], relativeStopLoss=900))
    await control.step(await now_ms(control) + 30_000)
    request = messages.ProtoOAReconcileReq(ctidTraderAccountId=client.account_id)
    assert len((await client.ask(request)).order) == 0
    set_later_field(request, RETURN_PROTECTION_ORDERS)
    (order,) = (await client.ask(request)).order
    assert (order.orderType, order.closingOrder) == (model.STOP_LOSS_TAKE_PROFIT, True)


async def test_lists_of_what_is_traded_fit_together(client: VenueClient) -> None:
    """Every symbol has a category, every category a class."""
    account = client.account_id
    classes = await client.ask(messages.ProtoOAAssetClassListReq(ctidTraderAccountId=account))
    categories = await client.ask(messages.ProtoOASymbolCategoryListReq(ctidTraderAccountId=account))
    symbols = await client.ask(messages.ProtoOASymbolsListReq(ctidTraderAccountId=account))
    assert {each.assetClassId for each in categories.symbolCategory} == {
        each.id for each in classes.assetClass
    }
    assert {each.symbolCategoryId for each in symbols.symbol} == {
        each.id for each in categories.symbolCategory
    }


async def test_swap_terms_and_trader_tell_the_accounts_rules(client: VenueClient) -> None:
    """A client can count a night beforehand: rates, the triple day, and when the day ends in UTC."""
    ids = await client.symbol_ids()
    account = client.account_id
    answer = await client.ask(
        messages.ProtoOASymbolByIdReq(ctidTraderAccountId=account, symbolId=[ids["EURUSD"], ids["XAUUSD"]])
    )
    euro, gold = answer.symbol
    assert (euro.swapLong, euro.swapShort, euro.swapCalculationType) == (-0.85, 0.30, model.PIPS)
    assert (gold.swapLong, gold.swapCalculationType) == (-5.5, model.PERCENTAGE)
    assert (euro.swapRollover3Days, euro.swapPeriod, euro.swapTime) == (model.WEDNESDAY, 24, 22 * 60)
    trader = (await client.ask(messages.ProtoOATraderReq(ctidTraderAccountId=account))).trader
    assert (trader.swapFree, trader.accountType) == (False, model.HEDGED)
    assert trader.registrationTimestamp > 0


async def test_night_is_charged_and_told_by_an_event(client: VenueClient, control: Control) -> None:
    """At 17:00 New York, without a request: the position with its new swap, which its close settles."""
    ids = await client.symbol_ids()
    account = client.account_id
    await client.ask(client.market_order(ids["EURUSD"], volume=10_000_000))
    await control.step(await now_ms(control) + DAY_MS)
    swaps = [
        event
        for event in await client.collect()
        if isinstance(event, messages.ProtoOAExecutionEvent) and event.executionType == model.SWAP
    ]
    (charged,) = swaps
    assert (charged.position.swap, charged.isServerEvent, charged.HasField("order")) == (-850, True, False)
    reconciled = await client.ask(messages.ProtoOAReconcileReq(ctidTraderAccountId=account))
    assert reconciled.position[0].swap == -850


async def test_ticks_come_newest_first_as_differences(client: VenueClient, control: Control) -> None:
    """Summing them up gives the quotes that were streamed."""
    ids = await client.symbol_ids()
    await client.subscribe(ids["GBPUSD"])
    await client.collect()
    since = await now_ms(control) + 1
    await control.step(since + 2 * M5_MS)
    streamed = [(spot.timestamp, spot.bid) for spot in await client.collect() if spot.HasField("bid")]
    request = messages.ProtoOAGetTickDataReq(
        ctidTraderAccountId=client.account_id,
        symbolId=ids["GBPUSD"],
        type=model.BID,
        fromTimestamp=since,
        toTimestamp=since + DAY_MS,
    )
    answer = await client.ask(request)
    time, price, told = 0, 0, []
    for tick in answer.tickData:
        time, price = time + tick.timestamp, price + tick.tick
        told.append((time, price))
    assert told[::-1] == streamed
    assert not answer.hasMore
    request.toTimestamp = since + 8 * DAY_MS
    assert (await client.ask(request)).errorCode == "INCORRECT_BOUNDARIES"


async def test_history_of_another_period_says_whether_there_is_more(client: VenueClient) -> None:
    """The flag that the official package lacks is there for who reads it."""
    ids = await client.symbol_ids()
    request = messages.ProtoOAGetTrendbarsReq(
        ctidTraderAccountId=client.account_id,
        symbolId=ids["EURUSD"],
        period=model.H1,
        fromTimestamp=0,
        toTimestamp=2_000_000_000_000,
        count=5,
    )
    answer = await client.ask(request)
    opens = [bar.utcTimestampInMinutes for bar in answer.trendbar]
    assert (len(opens), {open_ % 60 for open_ in opens}) == (5, {0})
    assert flag_of(answer, HAS_MORE)
    request.count = 1_000
    assert not flag_of(await client.ask(request), HAS_MORE)


async def test_forming_bars_of_other_periods_end_as_those_of_history(
    client: VenueClient, control: Control
) -> None:
    """Every event with a bid carries one bar a period, and each grows into what is fetched later."""
    ids = await client.symbol_ids()
    account, symbol_id = client.account_id, ids["EURUSD"]
    periods = [model.M1, model.M5, model.M15, model.D1]
    await client.subscribe(symbol_id)
    for period in periods:
        await client.ask(
            messages.ProtoOASubscribeLiveTrendbarReq(
                ctidTraderAccountId=account, period=period, symbolId=symbol_id
            )
        )
    await client.collect()
    until = await now_ms(control) + 47 * 60_000
    await control.step(until)
    last: dict[tuple[int, int], tuple[Any, int]] = {}
    for spot in await client.collect():
        if spot.HasField("bid"):
            assert [bar.period for bar in spot.trendbar] == periods
        for bar in spot.trendbar:
            last[bar.period, bar.utcTimestampInMinutes] = (bar, spot.bid)
    for period in periods:
        history = await client.ask(
            messages.ProtoOAGetTrendbarsReq(
                ctidTraderAccountId=account,
                symbolId=symbol_id,
                period=period,
                fromTimestamp=0,
                toTimestamp=until,
                count=4,
            )
        )
        known = [bar for bar in history.trendbar if (period, bar.utcTimestampInMinutes) in last]
        assert known
        for bar in known:
            live, close = last[period, bar.utcTimestampInMinutes]
            assert (bar.low, bar.deltaOpen, bar.deltaHigh) == (live.low, live.deltaOpen, live.deltaHigh)
            assert bar.low + bar.deltaClose == close
            assert bar.volume // 2 <= live.volume <= bar.volume  # the ask may move alone after the last bid


async def test_depth_begins_whole_and_its_changes_keep_it_at_the_quote(
    client: VenueClient, control: Control
) -> None:
    """What came less what went is three levels a side, the best of them the streamed price."""
    ids = await client.symbol_ids()
    account, symbol_id = client.account_id, ids["XAUUSD"]
    await client.subscribe(symbol_id)
    request = messages.ProtoOASubscribeDepthQuotesReq(ctidTraderAccountId=account, symbolId=[symbol_id])
    await client.ask(request)
    assert (await client.ask(request)).errorCode == "ALREADY_SUBSCRIBED"
    await control.step(await now_ms(control) + 2 * M5_MS)
    standing: dict[int, Any] = {}
    bid = ask = 0
    for event in await client.collect():
        if isinstance(event, messages.ProtoOASpotEvent):
            bid, ask = event.bid or bid, event.ask or ask
        elif isinstance(event, messages.ProtoOADepthEvent):
            for number in event.deletedQuotes:
                del standing[number]
            standing |= {level.id: level for level in event.newQuotes}
            bids = [level.bid for level in standing.values() if level.HasField("bid")]
            asks = [level.ask for level in standing.values() if level.HasField("ask")]
            assert (len(bids), len(asks)) == (3, 3)
            assert (max(bids), min(asks)) == (bid, ask)
    assert standing
    gone = messages.ProtoOAUnsubscribeDepthQuotesReq(ctidTraderAccountId=account, symbolId=[symbol_id])
    await client.ask(gone)
    await control.step(await now_ms(control) + M5_MS)
    assert not any(isinstance(event, messages.ProtoOADepthEvent) for event in await client.collect())


async def test_details_of_an_order_have_its_own_deals_after_a_restart_too(tmp_path: Any) -> None:
    """Entry and close are two orders of one position: each has its own."""
    settings = a_setting(tmp_path / "v")
    async with serve(settings) as venue, logged_in(venue.ready) as client:
        control = Control(venue.ready)
        entry, leave = await traded(client, control, 200_000)
        orders = {deal.orderId for deal in (entry, leave)}
    async with serve(settings) as venue, logged_in(venue.ready) as client:
        for order_id in orders:
            details = await client.ask(
                messages.ProtoOAOrderDetailsReq(ctidTraderAccountId=client.account_id, orderId=order_id)
            )
            assert [deal.orderId for deal in details.deal] == [order_id]
