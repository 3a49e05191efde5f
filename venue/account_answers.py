"""Answers about who a client is, the account, its symbols and its books."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from google.protobuf.message import Message

from venue.credentials import ACCESS_TOKEN_LIFE_S
from venue.money import MONEY_DIGITS, conversion_chain
from venue.protocol import messages, model
from venue.records import Deal, Order
from venue.session import AnswerTo, Request, RequestError, Session, symbol_name

VERSION = "91"
BROKER = "TradeGuard simulated venue"
LEVERAGE_SCALE = 100  # leverage is told in cents
ROWS_MAX = 1_000  # of a list of orders or deals


def application_auth(session: Session, request: Request) -> Iterable[Message]:
    """Let the application in."""
    if session.is_known:
        raise RequestError("CH_CLIENT_ALREADY_AUTHENTICATED", "Application is already authorized")
    if not session.floor.credentials.is_client(request.clientId, request.clientSecret):
        raise RequestError("CH_CLIENT_AUTH_FAILURE", "clientId or clientSecret is incorrect")
    session.is_known = True
    return [messages.ProtoOAApplicationAuthRes()]


def version(session: Session, _: Request) -> Iterable[Message]:
    """Say which version of the protocol is spoken."""
    return [messages.ProtoOAVersionRes(version=VERSION)]


def account_list(session: Session, request: Request) -> Iterable[Message]:
    """List the accounts under a token: there is one."""
    _check_token(session, request.accessToken)
    account = model.ProtoOACtidTraderAccount(
        ctidTraderAccountId=session.account_id,
        isLive=False,
        traderLogin=session.floor.credentials.trader_login,
    )
    return [
        messages.ProtoOAGetAccountListByAccessTokenRes(
            accessToken=request.accessToken,
            permissionScope=model.SCOPE_TRADE,
            ctidTraderAccount=[account],
        )
    ]


def account_auth(session: Session, request: Request) -> Iterable[Message]:
    """Let a known application work with the account."""
    _check_token(session, request.accessToken)
    if request.ctidTraderAccountId != session.account_id:
        raise RequestError("CH_CTID_TRADER_ACCOUNT_NOT_FOUND", "No such account under this token")
    if session.is_authorized:
        raise RequestError("ALREADY_LOGGED_IN", "Trading account is already authorized in this channel")
    session.is_authorized = True
    return [messages.ProtoOAAccountAuthRes(ctidTraderAccountId=session.account_id)]


def refresh_token(session: Session, request: Request) -> Iterable[Message]:
    """Give a new pair of tokens for the refresh token; the old access token is void."""
    if not session.floor.credentials.rotate(request.refreshToken):
        raise RequestError("CH_ACCESS_TOKEN_INVALID", "The refresh token is not valid")
    credentials = session.floor.credentials
    session.host.end_logins("The token was refreshed")
    return [
        messages.ProtoOARefreshTokenRes(
            accessToken=credentials.access_token,
            tokenType="bearer",
            expiresIn=ACCESS_TOKEN_LIFE_S,
            refreshToken=credentials.refresh_token,
        )
    ]


def account_logout(session: Session, _: Request) -> Iterable[Message]:
    """Leave the account; the connection stays."""
    session.leave()
    return [
        messages.ProtoOAAccountLogoutRes(ctidTraderAccountId=session.account_id),
        messages.ProtoOAAccountDisconnectEvent(ctidTraderAccountId=session.account_id),
    ]


def _check_token(session: Session, token: str) -> None:
    if not session.floor.credentials.is_token(token):
        raise RequestError("CH_ACCESS_TOKEN_INVALID", "The access token is not valid")


def asset_list(session: Session, _: Request) -> Iterable[Message]:
    """List the currencies and metals."""
    assets = [
        model.ProtoOAAsset(assetId=number, name=name, displayName=name, digits=MONEY_DIGITS)
        for name, number in session.floor.directory.asset_ids.items()
    ]
    return [messages.ProtoOAAssetListRes(ctidTraderAccountId=session.account_id, asset=assets)]


def symbols_list(session: Session, _: Request) -> Iterable[Message]:
    """List the symbols."""
    symbols = [session.floor.translator.light_symbol(symbol) for symbol in session.floor.directory.contracts]
    return [messages.ProtoOASymbolsListRes(ctidTraderAccountId=session.account_id, symbol=symbols)]


def symbol_by_id(session: Session, request: Request) -> Iterable[Message]:
    """Return the terms of the symbols asked for, in the order asked."""
    symbols = [session.floor.translator.symbol(symbol_name(session, number)) for number in request.symbolId]
    return [messages.ProtoOASymbolByIdRes(ctidTraderAccountId=session.account_id, symbol=symbols)]


def symbols_for_conversion(session: Session, request: Request) -> Iterable[Message]:
    """Return the symbols that lead from one asset to another."""
    directory = session.floor.directory
    first, last = (directory.assets.get(n) for n in (request.firstAssetId, request.lastAssetId))
    chain = conversion_chain(directory.contracts, first, last) if first and last else None
    if chain is None:
        raise RequestError("INVALID_REQUEST", "No symbols convert these assets")
    symbols = [session.floor.translator.light_symbol(step.symbol) for step in chain]
    return [messages.ProtoOASymbolsForConversionRes(ctidTraderAccountId=session.account_id, symbol=symbols)]


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
        accessRights=model.FULL_ACCESS,
        depositAssetId=session.floor.directory.asset_ids[matching.terms.deposit_asset],
        swapFree=True,
        leverageInCents=matching.terms.leverage * LEVERAGE_SCALE,
        totalMarginCalculationType=model.SUM,
        maxLeverage=matching.terms.leverage,
        traderLogin=session.floor.credentials.trader_login,
        accountType=model.HEDGED,
        brokerName=BROKER,
        isLimitedRisk=False,
        moneyDigits=MONEY_DIGITS,
    )


def reconcile(session: Session, _: Request) -> Iterable[Message]:
    """Return the open positions and the orders that wait for their fill."""
    matching, translator = session.floor.exchange.matching, session.floor.translator
    return [
        messages.ProtoOAReconcileRes(
            ctidTraderAccountId=session.account_id,
            position=[translator.position(each) for each in matching.positions.values()],
            order=[translator.order(each) for each in matching.orders.values()],
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


def order_list(session: Session, request: Request) -> Iterable[Message]:
    """Return the orders last changed in a window, newest first."""
    orders = session.floor.ledger.between(Order, request.fromTimestamp, request.toTimestamp, ROWS_MAX + 1)
    return [
        messages.ProtoOAOrderListRes(
            ctidTraderAccountId=session.account_id,
            order=[session.floor.translator.order(order) for order in orders[:ROWS_MAX]],
            hasMore=len(orders) > ROWS_MAX,
        )
    ]


def deal_list(session: Session, request: Request) -> Iterable[Message]:
    """Return the deals of a window, newest first."""
    rows = min(request.maxRows or ROWS_MAX, ROWS_MAX)
    deals = session.floor.ledger.between(Deal, request.fromTimestamp, request.toTimestamp, rows + 1)
    return [
        messages.ProtoOADealListRes(
            ctidTraderAccountId=session.account_id,
            deal=[session.floor.translator.deal(deal) for deal in deals[:rows]],
            hasMore=len(deals) > rows,
        )
    ]


def deals_of_position(session: Session, request: Request) -> Iterable[Message]:
    """Return all deals of one position."""
    deals = session.floor.ledger.of_position(Deal, request.positionId)
    return [
        messages.ProtoOADealListByPositionIdRes(
            ctidTraderAccountId=session.account_id,
            deal=[session.floor.translator.deal(deal) for deal in deals],
            hasMore=False,
        )
    ]


def orders_of_position(session: Session, request: Request) -> Iterable[Message]:
    """Return all orders of one position."""
    orders = session.floor.ledger.of_position(Order, request.positionId)
    return [
        messages.ProtoOAOrderListByPositionIdRes(
            ctidTraderAccountId=session.account_id,
            order=[session.floor.translator.order(order) for order in orders],
            hasMore=False,
        )
    ]


def order_details(session: Session, request: Request) -> Iterable[Message]:
    """Return one order with its deals."""
    order = session.floor.ledger.find(Order, request.orderId)
    if order is None:
        raise RequestError("ORDER_NOT_FOUND", f"Order not found with id {request.orderId}")
    deals = session.floor.ledger.of_position(Deal, order.position_id)
    return [
        messages.ProtoOAOrderDetailsRes(
            ctidTraderAccountId=session.account_id,
            order=session.floor.translator.order(order),
            deal=[session.floor.translator.deal(deal) for deal in deals if deal.order_id == order.order_id],
        )
    ]


ANSWERS: Mapping[str, AnswerTo] = {
    "ProtoOAApplicationAuthReq": application_auth,
    "ProtoOAVersionReq": version,
    "ProtoOAGetAccountListByAccessTokenReq": account_list,
    "ProtoOAAccountAuthReq": account_auth,
    "ProtoOARefreshTokenReq": refresh_token,
    "ProtoOAAccountLogoutReq": account_logout,
    "ProtoOAAssetListReq": asset_list,
    "ProtoOASymbolsListReq": symbols_list,
    "ProtoOASymbolByIdReq": symbol_by_id,
    "ProtoOASymbolsForConversionReq": symbols_for_conversion,
    "ProtoOATraderReq": trader,
    "ProtoOAReconcileReq": reconcile,
    "ProtoOAGetPositionUnrealizedPnLReq": unrealized,
    "ProtoOAOrderListReq": order_list,
    "ProtoOADealListReq": deal_list,
    "ProtoOADealListByPositionIdReq": deals_of_position,
    "ProtoOAOrderListByPositionIdReq": orders_of_position,
    "ProtoOAOrderDetailsReq": order_details,
}
