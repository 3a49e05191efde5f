"""Answers to those who trade: what a request asks for, said to the exchange."""

from __future__ import annotations

from collections.abc import Mapping

from venue.exchange import Answer
from venue.protocol import model
from venue.records import RefusedError, Side
from venue.rules import MarketRequest
from venue.session import AnswerTo, Request, Session, symbol_name
from venue.translation import points

PRICE_MAX = 10**9
ABSOLUTE_LEVELS = "SL/TP in absolute values are allowed only for order types: [LIMIT, STOP, STOP_LIMIT]"


def new_order(session: Session, request: Request) -> Answer:
    """Take a market order, the only kind there is."""
    if request.HasField("stopLoss") or request.HasField("takeProfit"):
        raise RefusedError("INVALID_REQUEST", ABSOLUTE_LEVELS)
    if request.orderType != model.MARKET:
        raise RefusedError("INVALID_REQUEST", "This venue takes MARKET orders only")
    if request.HasField("positionId"):
        raise RefusedError("INVALID_REQUEST", "A hedged account adds to no position: leave positionId out")
    if request.trailingStopLoss or request.guaranteedStopLoss:
        raise RefusedError("INVALID_REQUEST", "Trailing and guaranteed stops are not offered")
    return session.floor.exchange.submit(
        MarketRequest(
            symbol=symbol_name(session, request.symbolId),
            side=Side(model.ProtoOATradeSide.Name(request.tradeSide)),
            volume_cents=request.volume,
            client_order_id=request.clientOrderId,
            label=request.label,
            comment=request.comment,
            relative_stop_points=_given(request, "relativeStopLoss"),
            relative_target_points=_given(request, "relativeTakeProfit"),
        )
    )


def close_position(session: Session, request: Request) -> Answer:
    """Take a request to close a position or a part of it."""
    return session.floor.exchange.close(request.positionId, request.volume)


def amend_position(session: Session, request: Request) -> Answer:
    """Take a request to set a position's levels; one that is left out is removed."""
    stop, target = (_given_points(request, name) for name in ("stopLoss", "takeProfit"))
    return session.floor.exchange.amend(request.positionId, stop, target)


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
    "ProtoOAClosePositionReq": close_position,
    "ProtoOAAmendPositionSLTPReq": amend_position,
}
