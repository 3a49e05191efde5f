"""Answers about what has been: orders, deals and moves of money, newest first, a page at a time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from google.protobuf.message import Message

from venue.calendar import DAY_MS
from venue.offsets import offsets
from venue.protocol import messages, model
from venue.records import BalanceChange, Deal, Order
from venue.session import AnswerTo, Request, RequestError, Session
from venue.translation import price

ROWS_MAX = 1_000  # of one page; assumed
CASH_FLOW_WINDOW_MS_MAX = 7 * DAY_MS  # as documented


def order_list(session: Session, request: Request) -> Iterable[Message]:
    """Return the orders last changed in a window, newest first."""
    _check_window(request)
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
    _check_window(request)
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
    """Return the deals of one position in a window, newest first."""
    _check_window(request)
    deals = [
        deal
        for deal in session.floor.ledger.of_position(Deal, request.positionId)
        if request.fromTimestamp <= deal.executed_ms <= request.toTimestamp
    ]
    return [
        messages.ProtoOADealListByPositionIdRes(
            ctidTraderAccountId=session.account_id,
            deal=[session.floor.translator.deal(deal) for deal in deals[:ROWS_MAX]],
            hasMore=int(len(deals) > ROWS_MAX),  # the official package has a number here
        )
    ]


def orders_of_position(session: Session, request: Request) -> Iterable[Message]:
    """Return the orders of one position, newest first; a window is taken by their last change."""
    until_ms = request.toTimestamp if request.HasField("toTimestamp") else None
    orders = [
        order
        for order in session.floor.ledger.of_position(Order, request.positionId)
        if order.updated_ms >= request.fromTimestamp and (until_ms is None or order.updated_ms <= until_ms)
    ]
    return [
        messages.ProtoOAOrderListByPositionIdRes(
            ctidTraderAccountId=session.account_id,
            order=[session.floor.translator.order(order) for order in orders[:ROWS_MAX]],
            hasMore=len(orders) > ROWS_MAX,
        )
    ]


def order_details(session: Session, request: Request) -> Iterable[Message]:
    """Return one order with its deals."""
    order = session.floor.ledger.find(Order, request.orderId)
    if order is None:
        raise RequestError("ORDER_NOT_FOUND", f"Order not found with id {request.orderId}")
    deals = session.floor.ledger.of_order(order.order_id)
    return [
        messages.ProtoOAOrderDetailsRes(
            ctidTraderAccountId=session.account_id,
            order=session.floor.translator.order(order),
            deal=[session.floor.translator.deal(deal) for deal in deals],
        )
    ]


def deal_offsets(session: Session, request: Request) -> Iterable[Message]:
    """Return which deals closed what a deal opened, and which it closed itself."""
    deal = session.floor.ledger.find(Deal, request.dealId)
    if deal is None:
        raise RequestError("ENTITY_NOT_FOUND", f"Deal not found with id {request.dealId}")
    closed_by, closes = offsets(deal, session.floor.ledger.of_position(Deal, deal.position_id))
    return [
        messages.ProtoOADealOffsetListRes(
            ctidTraderAccountId=session.account_id,
            offsetBy=[_offset(other, volume) for other, volume in closed_by],
            offsetting=[_offset(other, volume) for other, volume in closes],
        )
    ]


def _offset(deal: Deal, volume_cents: int) -> model.ProtoOADealOffset:
    return model.ProtoOADealOffset(
        dealId=deal.deal_id,
        volume=volume_cents,
        executionTimestamp=deal.executed_ms,
        executionPrice=price(deal.price_points),
    )


def cash_flow(session: Session, request: Request) -> Iterable[Message]:
    """Return the deposits and withdrawals of a week at most, newest first."""
    _check_window(request)
    if request.toTimestamp - request.fromTimestamp > CASH_FLOW_WINDOW_MS_MAX:
        raise RequestError("INCORRECT_BOUNDARIES", "fromTimestamp to toTimestamp is more than a week")
    changes = session.floor.ledger.between(
        BalanceChange, request.fromTimestamp, request.toTimestamp, limit=None
    )
    return [
        messages.ProtoOACashFlowHistoryListRes(
            ctidTraderAccountId=session.account_id,
            depositWithdraw=[
                session.floor.translator.deposit(change) for change in changes if change.deal_id is None
            ],
        )
    ]


def _check_window(request: Request) -> None:
    if request.fromTimestamp > request.toTimestamp:
        raise RequestError("INCORRECT_BOUNDARIES", "fromTimestamp is after toTimestamp")


ANSWERS: Mapping[str, AnswerTo] = {
    "ProtoOAOrderListReq": order_list,
    "ProtoOADealListReq": deal_list,
    "ProtoOADealListByPositionIdReq": deals_of_position,
    "ProtoOAOrderListByPositionIdReq": orders_of_position,
    "ProtoOAOrderDetailsReq": order_details,
    "ProtoOADealOffsetListReq": deal_offsets,
    "ProtoOACashFlowHistoryListReq": cash_flow,
}
