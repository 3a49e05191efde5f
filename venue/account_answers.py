"""Answers about who a client is, and about the account as it stands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from google.protobuf.message import Message

from venue.money import CENTS, MONEY_DIGITS
from venue.protocol import flag_of, messages, model
from venue.records import Side
from venue.session import AnswerTo, Request, RequestError, Session, symbol_name
from venue.translation import FIRST_MARGIN_CALL

BROKER = "TradeGuard simulated venue"
LEVERAGE_SCALE = 100  # leverage is told in cents
RETURN_PROTECTION_ORDERS = 3  # a field of the request that the official package does not know


def trader(session: Session, _: Request) -> Iterable[Message]:
    """Return the account: its balance and its terms."""
    return [messages.ProtoOATraderRes(ctidTraderAccountId=session.account_id, trader=trader_of(session))]


def trader_of(session: Session) -> model.ProtoOATrader:
    """Return the account as the Open API describes it."""
    matching = session.floor.exchange.matching
    return model.ProtoOATrader(
        ctidTraderAccountId=session.account_id,
        balance=matching.balance_cents,
        balanceVersion=matching.balance_version,
        accessRights=model.ProtoOAAccessRights.Value(matching.terms.access),
        depositAssetId=session.floor.directory.asset_ids[matching.terms.deposit_asset],
        swapFree=matching.terms.swap_free,
        leverageInCents=matching.terms.leverage * LEVERAGE_SCALE,
        totalMarginCalculationType=model.ProtoOATotalMarginCalculationType.Value(matching.terms.margin_sum),
        maxLeverage=matching.terms.leverage,
        traderLogin=session.floor.account.trader_login,
        accountType=model.ProtoOAAccountType.Value(matching.terms.kind),
        brokerName=BROKER,
        registrationTimestamp=session.floor.ledger.opened_ms(),
        isLimitedRisk=False,
        moneyDigits=MONEY_DIGITS,
    )


def reconcile(session: Session, request: Request) -> Iterable[Message]:
    """Return the open positions and the orders that wait; protective ones only if asked for."""
    matching, translator = session.floor.exchange.matching, session.floor.translator
    orders = list(matching.orders.values())
    if flag_of(request, RETURN_PROTECTION_ORDERS):
        orders += matching.protective.values()
    return [
        messages.ProtoOAReconcileRes(
            ctidTraderAccountId=session.account_id,
            position=[translator.position(each) for each in matching.positions.values()],
            order=[translator.order(each) for each in orders],
        )
    ]


def unrealized(session: Session, _: Request) -> Iterable[Message]:
    """Return what the open positions are worth at the last quotes."""
    values = [
        model.ProtoOAPositionUnrealizedPnL(
            positionId=value.position_id,
            grossUnrealizedPnL=value.gross_cents,
            netUnrealizedPnL=value.net_cents,
        )
        for value in session.floor.exchange.matching.valuations()
    ]
    return [
        messages.ProtoOAGetPositionUnrealizedPnLRes(
            ctidTraderAccountId=session.account_id, positionUnrealizedPnL=values, moneyDigits=MONEY_DIGITS
        )
    ]


def expected_margin(session: Session, request: Request) -> Iterable[Message]:
    """Return what volumes would bind on each side, on top of what is open."""
    symbol, valuer = symbol_name(session, request.symbolId), session.floor.exchange.matching.valuer
    if not valuer.can_value(symbol):
        raise RequestError("NO_QUOTES", f"No quotes for {symbol}")
    largest = int(session.floor.directory.contracts[symbol].max_volume_units * CENTS)
    if not all(0 < volume <= largest for volume in request.volume):
        raise RequestError("INVALID_REQUEST", f"A volume is above 0 and at most {largest}")
    margins = [
        model.ProtoOAExpectedMargin(
            volume=volume,
            buyMargin=valuer.margin_cents(symbol, volume, Side.BUY),
            sellMargin=valuer.margin_cents(symbol, volume, Side.SELL),
        )
        for volume in request.volume
    ]
    return [
        messages.ProtoOAExpectedMarginRes(
            ctidTraderAccountId=session.account_id, margin=margins, moneyDigits=MONEY_DIGITS
        )
    ]


def margin_call_list(session: Session, _: Request) -> Iterable[Message]:
    """Return the margin levels of which the client is told."""
    calls = session.floor.exchange.matching.book.margin_calls.values()
    return [
        messages.ProtoOAMarginCallListRes(
            marginCall=[session.floor.translator.margin_call(call) for call in calls],
        )
    ]


def margin_call_update(session: Session, request: Request) -> Iterable[Message]:
    """Set a margin level of which the client is told."""
    call = session.floor.exchange.set_margin_call(
        request.marginCall.marginCallType - FIRST_MARGIN_CALL + 1,
        request.marginCall.marginLevelThreshold * 100,
    )
    return [
        messages.ProtoOAMarginCallUpdateRes(),
        messages.ProtoOAMarginCallUpdateEvent(
            ctidTraderAccountId=session.account_id, marginCall=session.floor.translator.margin_call(call)
        ),
    ]


ANSWERS: Mapping[str, AnswerTo] = {
    "ProtoOATraderReq": trader,
    "ProtoOAReconcileReq": reconcile,
    "ProtoOAGetPositionUnrealizedPnLReq": unrealized,
    "ProtoOAExpectedMarginReq": expected_margin,
    "ProtoOAMarginCallListReq": margin_call_list,
    "ProtoOAMarginCallUpdateReq": margin_call_update,
}
