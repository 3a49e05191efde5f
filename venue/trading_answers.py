"""Answers to those who trade: what a request asks for, said to the exchange."""

from __future__ import annotations

from collections.abc import Mapping

from venue.exchange import Answer
from venue.protocol import model
from venue.records import OrderKind, RefusedError, Side, TimeInForce, TriggerMethod
from venue.rules import OrderChange, OrderRequest
from venue.session import AnswerTo, Request, Session, symbol_name
from venue.ticks import tick_points
from venue.translation import points

PRICE_MAX = 10**9
ABSOLUTE_LEVELS = "SL/TP in absolute values are allowed only for order types: [LIMIT, STOP, STOP_LIMIT]"


def new_order(session: Session, request: Request) -> Answer:
    """Take an order of any kind but the venue's own."""
    name = model.ProtoOAOrderType.Name(request.orderType)
    if name not in OrderKind.__members__ or name == OrderKind.STOP_LOSS_TAKE_PROFIT:
        raise RefusedError("INVALID_REQUEST", f"Orders of type {name} are the venue's own")
    kind = OrderKind(name)
    if not kind.is_pending and (request.HasField("stopLoss") or request.HasField("takeProfit")):
        raise RefusedError("INVALID_REQUEST", ABSOLUTE_LEVELS)
    _refuse_guarantees(request)
    symbol = symbol_name(session, request.symbolId)
    return session.floor.exchange.submit(
        OrderRequest(
            symbol=symbol,
            side=Side(model.ProtoOATradeSide.Name(request.tradeSide)),
            volume_cents=request.volume,
            kind=kind,
            client_order_id=request.clientOrderId,
            label=request.label,
            comment=request.comment,
            position_id=_given(request, "positionId"),
            time_in_force=_time_in_force(request, kind),
            expires_ms=_given(request, "expirationTimestamp"),
            limit_points=_given_points(request, "limitPrice"),
            trigger_points=_given_points(request, "stopPrice"),
            base_points=_given_points(request, "baseSlippagePrice"),
            range_points=_range_points(session, symbol, request),
            trigger_method=_trigger_method(request, "stopTriggerMethod") or TriggerMethod.TRADE,
            stop_points=_given_points(request, "stopLoss"),
            target_points=_given_points(request, "takeProfit"),
            relative_stop_points=_given(request, "relativeStopLoss"),
            relative_target_points=_given(request, "relativeTakeProfit"),
            trailing=request.trailingStopLoss,
        )
    )


def amend_order(session: Session, request: Request) -> Answer:
    """Take a request to change an order that waits for its price."""
    _refuse_guarantees(request)
    exchange = session.floor.exchange
    order = exchange.matching.orders.get(request.orderId)
    return exchange.amend_order(
        request.orderId,
        OrderChange(
            volume_cents=_given(request, "volume"),
            limit_points=_given_points(request, "limitPrice"),
            trigger_points=_given_points(request, "stopPrice"),
            range_points=_range_points(session, order.symbol, request) if order else None,
            expires_ms=_given(request, "expirationTimestamp"),
            stop_points=_given_points(request, "stopLoss"),
            target_points=_given_points(request, "takeProfit"),
            relative_stop_points=_given(request, "relativeStopLoss"),
            relative_target_points=_given(request, "relativeTakeProfit"),
            trailing=request.trailingStopLoss if request.HasField("trailingStopLoss") else None,
            trigger_method=_trigger_method(request, "stopTriggerMethod"),
        ),
    )


def cancel_order(session: Session, request: Request) -> Answer:
    """Take a request to take back an order."""
    return session.floor.exchange.cancel(request.orderId)


def close_position(session: Session, request: Request) -> Answer:
    """Take a request to close a position or a part of it."""
    return session.floor.exchange.close(request.positionId, request.volume)


def amend_position(session: Session, request: Request) -> Answer:
    """Take a request to set a position's levels; one that is left out is removed."""
    _refuse_guarantees(request)
    stop, target = (_given_points(request, name) for name in ("stopLoss", "takeProfit"))
    return session.floor.exchange.amend(
        request.positionId,
        stop,
        target,
        trailing=request.trailingStopLoss,
        trigger_method=_trigger_method(request, "stopLossTriggerMethod") or TriggerMethod.TRADE,
    )


def _refuse_guarantees(request: Request) -> None:
    if request.guaranteedStopLoss:
        raise RefusedError("INVALID_REQUEST", "Guaranteed stops are not offered")


def _time_in_force(request: Request, kind: OrderKind) -> TimeInForce | None:
    """Return what was asked for; a MARKET order that says nothing is done at its first quote."""
    if not request.HasField("timeInForce"):
        return None
    asked = TimeInForce(model.ProtoOATimeInForce.Name(request.timeInForce))
    if asked is TimeInForce.MARKET_ON_OPEN and kind is not OrderKind.MARKET:
        raise RefusedError("INVALID_REQUEST", "MARKET_ON_OPEN goes with MARKET orders only")
    return asked


def _trigger_method(request: Request, field: str) -> TriggerMethod | None:
    if not request.HasField(field):
        return None
    return TriggerMethod(model.ProtoOAOrderTriggerMethod.Name(getattr(request, field)))


def _range_points(session: Session, symbol: str, request: Request) -> int | None:
    """Return slippageInPoints, whose point is the symbol's own tick, in the venue's points."""
    ticks = _given(request, "slippageInPoints")
    return None if ticks is None else ticks * tick_points(session.floor.directory.contracts[symbol])


def _given_points(request: Request, field: str) -> int | None:
    if not request.HasField(field):
        return None
    value = getattr(request, field)
    if not 0 < value < PRICE_MAX:  # neither is NaN
        raise RefusedError("INVALID_REQUEST", f"{field} is not a price")
    return points(value)


def _given(request: Request, field: str) -> int | None:
    return int(getattr(request, field)) if request.HasField(field) else None


ANSWERS: Mapping[str, AnswerTo] = {
    "ProtoOANewOrderReq": new_order,
    "ProtoOAAmendOrderReq": amend_order,
    "ProtoOACancelOrderReq": cancel_order,
    "ProtoOAClosePositionReq": close_position,
    "ProtoOAAmendPositionSLTPReq": amend_position,
}
