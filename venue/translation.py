"""The venue's records as Open API messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf.message import Message

from shared.contracts import POINTS_PER_UNIT, CommissionKind, Contract
from venue.bars import Bar
from venue.calendar import DAY_MS, MINUTE_MS, next_roll_ms
from venue.depth import Change
from venue.directory import (
    FOREX_CATEGORY_ID,
    METALS_CATEGORY_ID,
    SCHEDULE_TIME_ZONE,
    Directory,
    holidays,
    schedule,
)
from venue.money import CENTS, MONEY_DIGITS
from venue.periods import Period
from venue.playback import Spot
from venue.protocol import messages, model
from venue.records import (
    BalanceChange,
    BalanceMoved,
    Deal,
    DealStatus,
    Execution,
    MarginCall,
    MarginCalled,
    MarginMoved,
    Notice,
    Order,
    OrderKind,
    Position,
    PositionStatus,
    Side,
    StopTrailed,
    SwapCharged,
)
from venue.terms import Charges, Terms
from venue.ticks import tick_points

FIRST_MARGIN_CALL = int(model.MARGIN_LEVEL_THRESHOLD_1)
_DEAL_STATUS = {DealStatus.FILLED: model.FILLED, DealStatus.PARTIALLY_FILLED: model.PARTIALLY_FILLED}
_RATE_SCALE = 10**8  # of a precise commission rate
_FEE_SCALE = 10**4  # of the conversion fee: 1 is 0.01 %
_PERCENT_SCALE = 10**5  # of one that is a percentage
_COMMISSION_TYPES = {
    CommissionKind.USD_PER_MILLION_USD: model.USD_PER_MILLION_USD,
    CommissionKind.USD_PER_LOT: model.USD_PER_LOT,
    CommissionKind.PERCENTAGE_OF_VALUE: model.PERCENTAGE_OF_VALUE,
    CommissionKind.QUOTE_CCY_PER_LOT: model.QUOTE_CCY_PER_LOT,
}


def price(points: float) -> float:
    """Return a price in price units; the average of several fills has more digits than a quote."""
    value = points / POINTS_PER_UNIT
    return round(value, 5) if points == int(points) else value


def points(value: float) -> int:
    """Return a price in points."""
    return round(value * POINTS_PER_UNIT)


def trendbar(bar: Bar, period: int | None = None) -> model.ProtoOATrendbar:
    """Return a bar: of history (with its close, without its period) or live (the other way round)."""
    message = model.ProtoOATrendbar(
        volume=bar.volume,
        low=bar.low,
        deltaOpen=bar.open - bar.low,
        deltaHigh=bar.high - bar.low,
        utcTimestampInMinutes=bar.open_ms // MINUTE_MS,
    )
    if period is None:
        message.deltaClose = bar.close - bar.low
    else:
        message.period = period
    return message


class Translator:
    """Records to messages; knows the account and the venue's numbers."""

    def __init__(self, directory: Directory, account_id: int) -> None:
        self._directory = directory
        self._account_id = account_id

    def execution(self, execution: Execution) -> messages.ProtoOAExecutionEvent:
        """Return an execution event."""
        event = messages.ProtoOAExecutionEvent(
            ctidTraderAccountId=self._account_id,
            executionType=model.ProtoOAExecutionType.Value(execution.kind),
            position=self.position(execution.position),
            order=self.order(execution.order),
        )
        if execution.deal is not None:
            event.deal.CopyFrom(self.deal(execution.deal))
        if execution.error_code:
            event.errorCode = execution.error_code
        if execution.by_server:
            event.isServerEvent = True
        return event

    def notice(self, notice: Notice) -> Message:
        """Return what is told beside executions."""
        account_id = self._account_id
        match notice:
            case SwapCharged():
                return messages.ProtoOAExecutionEvent(  # type: ignore[no-any-return] # generated, untyped
                    ctidTraderAccountId=account_id,
                    executionType=model.SWAP,
                    position=self.position(notice.position),
                    isServerEvent=True,
                )
            case BalanceMoved():
                return messages.ProtoOAExecutionEvent(  # type: ignore[no-any-return] # generated, untyped
                    ctidTraderAccountId=account_id,
                    executionType=model.DEPOSIT_WITHDRAW,
                    depositWithdraw=self.deposit(notice.change, notice.equity_cents),
                    isServerEvent=True,
                )
            case StopTrailed():
                return messages.ProtoOATrailingSLChangedEvent(  # type: ignore[no-any-return] # generated
                    ctidTraderAccountId=account_id,
                    positionId=notice.position.position_id,
                    orderId=notice.order.order_id,
                    stopPrice=price(notice.position.stop_points or 0),
                    utcLastUpdateTimestamp=notice.at_ms,
                )
            case MarginMoved():
                return messages.ProtoOAMarginChangedEvent(  # type: ignore[no-any-return] # generated
                    ctidTraderAccountId=account_id,
                    positionId=notice.position.position_id,
                    usedMargin=notice.position.used_margin_cents,
                    moneyDigits=MONEY_DIGITS,
                )
            case MarginCalled():
                return messages.ProtoOAMarginCallTriggerEvent(  # type: ignore[no-any-return] # generated
                    ctidTraderAccountId=account_id, marginCall=self.margin_call(notice.call)
                )

    def deposit(self, change: BalanceChange, equity_cents: int | None = None) -> model.ProtoOADepositWithdraw:
        """Return a move of the balance that no deal made; the equity after it, where it is known."""
        return model.ProtoOADepositWithdraw(
            operationType=model.BALANCE_WITHDRAW if change.delta_cents < 0 else model.BALANCE_DEPOSIT,
            balanceHistoryId=change.balance_version,
            balance=change.balance_cents,
            delta=change.delta_cents,
            changeBalanceTimestamp=change.at_ms,
            balanceVersion=change.balance_version,
            equity=equity_cents,
            moneyDigits=MONEY_DIGITS,
        )

    def margin_call(self, call: MarginCall) -> model.ProtoOAMarginCall:
        """Return a margin call; the level is a fraction, 1 for 100 %."""
        return model.ProtoOAMarginCall(
            marginCallType=FIRST_MARGIN_CALL + call.call_id - 1,
            marginLevelThreshold=call.threshold_percent / 100,
            utcLastUpdateTimestamp=call.updated_ms,
        )

    def order(self, order: Order) -> model.ProtoOAOrder:
        """Return an order; levels in price units, distances in points."""
        protective = order.kind is OrderKind.STOP_LOSS_TAKE_PROFIT
        own_stop = order.stop_points if protective else order.trigger_points
        own_limit = order.target_points if protective else order.limit_points
        message = model.ProtoOAOrder(
            orderId=order.order_id,
            tradeData=self._trade_data(order, order.volume_cents, order.arrived_ms),
            orderType=model.ProtoOAOrderType.Value(order.kind),
            orderStatus=model.ProtoOAOrderStatus.Value(f"ORDER_STATUS_{order.status}"),
            executedVolume=order.executed_cents,
            utcLastUpdateTimestamp=order.updated_ms,
            closingOrder=order.closing,
            timeInForce=model.ProtoOATimeInForce.Value(order.time_in_force),
            positionId=order.position_id,
            expirationTimestamp=order.expires_ms,
            trailingStopLoss=order.trailing,
            stopTriggerMethod=model.ProtoOAOrderTriggerMethod.Value(order.trigger_method),
            isStopOut=order.is_stop_out,
        )
        if order.client_order_id:
            message.clientOrderId = order.client_order_id
        if order.execution_points is not None:
            message.executionPrice = price(order.execution_points)
        for field, level in (
            ("stopPrice", own_stop),
            ("limitPrice", own_limit),
            ("baseSlippagePrice", order.base_points),
            ("stopLoss", None if protective else order.stop_points),
            ("takeProfit", None if protective else order.target_points),
        ):
            if level is not None:
                setattr(message, field, price(level))
        if order.range_points is not None:
            message.slippageInPoints = order.range_points // self._tick_points(order.symbol)
        if order.relative_stop_points is not None:
            message.relativeStopLoss = order.relative_stop_points
        if order.relative_target_points is not None:
            message.relativeTakeProfit = order.relative_target_points
        return message

    def position(self, position: Position) -> model.ProtoOAPosition:
        """Return a position; a closed one has neither volume nor price."""
        closed = position.status is PositionStatus.CLOSED
        message = model.ProtoOAPosition(
            positionId=position.position_id,
            tradeData=self._trade_data(position, position.volume_cents, position.opened_ms),
            positionStatus=model.ProtoOAPositionStatus.Value(f"POSITION_STATUS_{position.status}"),
            swap=position.swap_cents,
            price=0.0 if closed else price(position.entry_points),
            utcLastUpdateTimestamp=position.updated_ms,
            commission=position.commission_cents,
            marginRate=position.margin_rate,
            usedMargin=position.used_margin_cents,
            moneyDigits=MONEY_DIGITS,
            guaranteedStopLoss=False,
            trailingStopLoss=position.trailing,
            stopLossTriggerMethod=model.ProtoOAOrderTriggerMethod.Value(position.trigger_method),
        )
        if position.stop_points is not None and not closed:
            message.stopLoss = price(position.stop_points)
        if position.target_points is not None and not closed:
            message.takeProfit = price(position.target_points)
        return message

    def deal(self, deal: Deal) -> model.ProtoOADeal:
        """Return a deal, with the round trip's result if it closes."""
        message = model.ProtoOADeal(
            dealId=deal.deal_id,
            orderId=deal.order_id,
            positionId=deal.position_id,
            volume=deal.asked_cents,
            filledVolume=deal.volume_cents,
            symbolId=self._directory.symbol_ids[deal.symbol],
            createTimestamp=deal.created_ms,
            executionTimestamp=deal.executed_ms,
            utcLastUpdateTimestamp=deal.executed_ms,
            executionPrice=price(deal.price_points),
            tradeSide=model.ProtoOATradeSide.Value(deal.side),
            dealStatus=_DEAL_STATUS[deal.status],
            marginRate=deal.margin_rate,
            commission=deal.commission_cents,
            baseToUsdConversionRate=deal.base_to_usd_rate,
            moneyDigits=MONEY_DIGITS,
        )
        if deal.entry_points is not None:
            message.closePositionDetail.CopyFrom(
                model.ProtoOAClosePositionDetail(
                    entryPrice=price(deal.entry_points),
                    grossProfit=deal.gross_cents,
                    swap=deal.swap_cents,
                    commission=deal.round_trip_commission_cents,
                    balance=deal.balance_cents,
                    quoteToDepositConversionRate=deal.quote_to_deposit_rate,
                    closedVolume=deal.volume_cents,
                    balanceVersion=deal.balance_version,
                    moneyDigits=MONEY_DIGITS,
                    pnlConversionFee=deal.conversion_fee_cents,
                )
            )
        return message

    def light_symbol(self, symbol: str) -> model.ProtoOALightSymbol:
        """Return what the list of symbols says of one."""
        contract = self._directory.contracts[symbol]
        return model.ProtoOALightSymbol(
            symbolId=self._directory.symbol_ids[symbol],
            symbolName=symbol,
            enabled=True,
            baseAssetId=self._directory.asset_ids[contract.base_asset],
            quoteAssetId=self._directory.asset_ids[contract.quote_asset],
            symbolCategoryId=METALS_CATEGORY_ID if contract.base_asset == "XAU" else FOREX_CATEGORY_ID,
            description=f"{contract.base_asset} against {contract.quote_asset}",
        )

    def symbol(self, symbol: str, terms: Terms, now_ms: int) -> model.ProtoOASymbol:
        """Return a symbol's terms; the day's end is told in UTC, as it falls today."""
        contract = self._directory.contracts[symbol]
        percentage = contract.commission_kind is CommissionKind.PERCENTAGE_OF_VALUE
        rate = contract.commission_rate * (_PERCENT_SCALE if percentage else _RATE_SCALE)
        distance = int(contract.min_stop_distance / contract.tick)
        return model.ProtoOASymbol(
            symbolId=self._directory.symbol_ids[symbol],
            digits=contract.digits,
            pipPosition=contract.pip_position,
            enableShortSelling=True,
            guaranteedStopLoss=False,
            leverageId=self._directory.leverage_id(symbol),
            pnlConversionFeeRate=int(terms.conversion_fee * _FEE_SCALE),
            **_swap_fields(terms, symbol, now_ms),
            **_min_commission_fields(terms.charges_of(symbol)),
            minVolume=_cents(contract, "min_volume_units"),
            maxVolume=_cents(contract, "max_volume_units"),
            stepVolume=_cents(contract, "step_volume_units"),
            lotSize=_cents(contract, "lot_units"),
            schedule=[
                model.ProtoOAInterval(startSecond=start, endSecond=end) for start, end in schedule(symbol)
            ],
            scheduleTimeZone=SCHEDULE_TIME_ZONE,
            holiday=[
                model.ProtoOAHoliday(
                    holidayId=number,
                    name=name,
                    scheduleTimeZone=SCHEDULE_TIME_ZONE,
                    holidayDate=day,
                    isRecurring=True,
                    startSecond=start,
                    endSecond=end,
                )
                for number, (name, day, start, end) in enumerate(holidays(now_ms), start=1)
            ],
            commissionType=_COMMISSION_TYPES[contract.commission_kind],
            preciseTradingCommissionRate=int(rate),
            slDistance=distance,
            tpDistance=distance,
            distanceSetIn=model.SYMBOL_DISTANCE_IN_POINTS,
            tradingMode=model.ENABLED,
        )

    def _tick_points(self, symbol: str) -> int:
        return tick_points(self._directory.contracts[symbol])

    def _trade_data(
        self, record: Order | Position, volume_cents: int, open_ms: int
    ) -> model.ProtoOATradeData:
        return model.ProtoOATradeData(
            symbolId=self._directory.symbol_ids[record.symbol],
            volume=volume_cents,
            tradeSide=model.ProtoOATradeSide.Value(record.side),
            openTimestamp=open_ms,
            label=record.label or None,
            comment=record.comment or None,
            guaranteedStopLoss=False,
        )


def _swap_fields(terms: Terms, symbol: str, now_ms: int) -> dict[str, Any]:
    swap = terms.charges_of(symbol).swap
    if swap is None:
        return {"swapLong": 0.0, "swapShort": 0.0}
    return {
        "swapLong": float(swap.long),
        "swapShort": float(swap.short),
        "swapCalculationType": model.ProtoOASwapCalculationType.Value(swap.kind),
        "swapRollover3Days": model.MONDAY + swap.triple_weekday,
        "swapPeriod": 24,
        "swapTime": next_roll_ms(now_ms) % DAY_MS // MINUTE_MS,
        "skipSWAPPeriods": 0,
        "chargeSwapAtWeekends": False,
    }


def _min_commission_fields(charges: Charges) -> dict[str, Any]:
    if not charges.min_commission:
        return {}
    return {
        "preciseMinCommission": int(charges.min_commission * _RATE_SCALE),
        "minCommissionType": model.CURRENCY,
        "minCommissionAsset": charges.min_commission_asset,
    }


def _cents(contract: Contract, field: str) -> int:
    return int(getattr(contract, field) * CENTS)


def depth_event(account_id: int, symbol_id: int, change: Change) -> Message:
    """Return what came into the depth of a symbol and what went."""
    return messages.ProtoOADepthEvent(  # type: ignore[no-any-return] # generated, untyped
        ctidTraderAccountId=account_id,
        symbolId=symbol_id,
        newQuotes=[
            model.ProtoOADepthQuote(
                id=level.number,
                size=level.size_cents,
                bid=level.price if level.side is Side.BUY else None,
                ask=level.price if level.side is Side.SELL else None,
            )
            for level in change.came
        ],
        deletedQuotes=change.went,
    )


_PERIODS = {period: model.ProtoOATrendbarPeriod.Value(period) for period in Period}


def spot_event(
    account_id: int,
    symbol_id: int,
    spot: Spot,
    bars: Mapping[Period, Bar],
    *,
    with_stamp: bool,
) -> Message:
    """Return a quote as it is streamed: the sides that moved, and the bars if the bid did."""
    event = messages.ProtoOASpotEvent(ctidTraderAccountId=account_id, symbolId=symbol_id)
    if spot.bid_moved:
        event.bid = spot.bid
        for period, bar in bars.items():
            event.trendbar.append(trendbar(bar, _PERIODS[period]))
    if spot.ask_moved:
        event.ask = spot.ask
    if with_stamp:
        event.timestamp = spot.time_ms
    return event  # type: ignore[no-any-return] # the generated classes carry no types
