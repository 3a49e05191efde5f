"""The venue's messages in our words. Pure: message objects in, plain values out.

Quotes and bars come in 1/100,000 of a price unit, volumes in cents of a unit, money by the message's own
money digits; optional fields that are absent are not zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Any

from services.gateway.bars import BAR_MS
from services.gateway.orders import close_reason, our_label
from services.gateway.slices import Bar
from services.gateway.terms import UnclearError, money, units_of
from shared.account import Position
from shared.contracts import Contract
from shared.messages import Direction, ExecutionKind
from shared.streams import from_milliseconds

M5 = 5  # the venue's number of the period
PRICES_KEPT = 16_384  # quotes go back and forth over the same prices, and a Decimal is slow to make

_BUY = 1
_PROTECTIVE = 4  # order type STOP_LOSS_TAKE_PROFIT
_POSITION_OPEN = 1
_ORDER_ACCEPTED, _ORDER_FILLED = 1, 2
_ENTRY_EVENTS = {  # execution types of an order that opens
    2: ExecutionKind.ACCEPTED,
    3: ExecutionKind.FILLED,
    5: ExecutionKind.REJECTED,
    6: ExecutionKind.REJECTED,
    7: ExecutionKind.REJECTED,
    11: ExecutionKind.PARTIALLY_FILLED,
}
_TYPE_NAMES = {5: "CANCELLED", 6: "EXPIRED", 7: "REJECTED"}
_FILLED = 3
_SET = (2, 4)  # a protective order that is accepted, or replaced


@dataclass(frozen=True, slots=True)
class VenueEvent:
    """What one execution event says of one of our orders, or of a foreign position."""

    kind: ExecutionKind | None  # None: nothing happened to the order, but the position may have changed
    client_order_id: str | None  # None: not ours
    symbol: str
    time_ms: int
    order_id: int | None = None
    position_id: int | None = None
    position: Position | None = None  # as it is open now
    position_gone: bool = False
    position_ms: int = 0  # when the venue changed the position
    price: Decimal | None = None
    volume_units: Decimal | None = None
    pnl: Decimal | None = None
    balance: Decimal | None = None
    balance_version: int = 0  # the larger, the newer; 0: the venue does not count
    reason: str = ""
    is_unclear: bool = False  # it lacks something, or has something newer than we know: the books say more


@lru_cache(maxsize=PRICES_KEPT)
def price_of(points: int, digits: int) -> Decimal:
    """Return a price on the symbol's digits from 1/100,000 of a price unit."""
    return Decimal(round(points, digits - 5) // 10 ** (5 - digits)).scaleb(-digits)


def rounded(price: float, digits: int) -> Decimal:
    """Return a price that came as a double, on the symbol's digits."""
    return Decimal(repr(price)).quantize(Decimal(1).scaleb(-digits))


def history_bar(symbol: str, trendbar: Any) -> Bar[int]:  # noqa: ANN401
    """Return a bar of a history, in points."""
    low = trendbar.low
    return Bar(
        symbol=symbol,
        open_time_ms=trendbar.utcTimestampInMinutes * 60_000,
        open=low + trendbar.deltaOpen,
        high=low + trendbar.deltaHigh,
        low=low,
        close=low + trendbar.deltaClose,
        volume=trendbar.volume,
    )


def live_bar(symbol: str, spot: Any) -> Bar[int] | None:  # noqa: ANN401
    """Return the forming bar of a spot event, or None: its close is the event's bid, never its own field."""
    for bar in spot.trendbar:
        if bar.period == M5 and spot.HasField("bid"):
            low = bar.low
            return Bar(
                symbol=symbol,
                open_time_ms=bar.utcTimestampInMinutes * 60_000,
                open=low + bar.deltaOpen,
                high=low + bar.deltaHigh,
                low=low,
                close=spot.bid,
                volume=bar.volume,
            )
    return None


def position_of(position: Any, contracts: Mapping[int, Contract], book: str) -> Position:  # noqa: ANN401
    """Return an open position in our words.

    Raises:
        UnclearError: its price or its amounts cannot be read.
    """
    if not position.HasField("price"):
        raise UnclearError(f"position {position.positionId} does not say its price")
    trade = position.tradeData
    contract = contracts.get(trade.symbolId)
    digits = contract.digits if contract else 5
    return Position(
        position_id=position.positionId,
        symbol=contract.symbol if contract else f"#{trade.symbolId}",
        direction=Direction.LONG if trade.tradeSide == _BUY else Direction.SHORT,
        volume_units=units_of(trade.volume),
        entry_price=rounded(position.price, digits),
        entry_time=from_milliseconds(trade.openTimestamp),
        stop_loss_price=rounded(position.stopLoss, digits) if position.HasField("stopLoss") else None,
        take_profit_price=rounded(position.takeProfit, digits) if position.HasField("takeProfit") else None,
        used_margin=money(position.usedMargin, position),
        costs=money(position.swap + position.commission, position),
        client_order_id=our_label(book, trade.label),
    )


def event_of(event: Any, contracts: Mapping[int, Contract], book: str) -> VenueEvent | None:  # noqa: ANN401
    """Return what an execution event says, or None when it is about neither order, position nor money.

    One whose amounts cannot be read says nothing but that: what happened stands in the venue's books.
    """
    try:
        if not event.HasField("order"):
            return _without_order(event, contracts, book)
        return _with_order(event, contracts, book)
    except UnclearError:
        return VenueEvent(kind=None, client_order_id=None, symbol="", time_ms=0, is_unclear=True)


def _with_order(event: Any, contracts: Mapping[int, Contract], book: str) -> VenueEvent:  # noqa: ANN401
    order, trade = event.order, event.order.tradeData
    contract = contracts.get(trade.symbolId)
    digits = contract.digits if contract else 5
    position = event.position if event.HasField("position") else None
    labels = [order.clientOrderId, trade.label, position.tradeData.label if position else ""]
    is_open = position is not None and _is(position, "positionStatus", _POSITION_OPEN)
    ours = next((label for label in labels if our_label(book, label)), None)
    closing = order.closingOrder or order.orderType == _PROTECTIVE
    kind = _closing_kind(event, is_open=is_open) if closing else _entry_kind(event)
    deal = event.deal if event.HasField("deal") else None
    detail = deal.closePositionDetail if deal is not None and deal.HasField("closePositionDetail") else None
    price = rounded(deal.executionPrice, digits) if deal is not None and deal.executionPrice else None
    reason = event.errorCode or _TYPE_NAMES.get(event.executionType, "")
    is_gone, pnl = kind is ExecutionKind.CLOSED, _net_pnl(detail)
    if is_gone and price is not None:
        reason = _why_closed(order, price, digits)
    lacks_position = kind is ExecutionKind.FILLED and not is_open
    is_half = (is_gone and pnl is None) or (lacks_position and price is None)
    return VenueEvent(
        kind=None if is_half else kind,  # an end without its result, a fill without its price
        client_order_id=ours,
        symbol=contract.symbol if contract else f"#{trade.symbolId}",
        time_ms=deal.executionTimestamp if deal is not None else order.utcLastUpdateTimestamp,
        order_id=order.orderId,
        position_id=position.positionId if position else (order.positionId or None),
        position=position_of(position, contracts, book) if is_open else None,
        position_gone=is_gone,
        position_ms=_changed_ms(event),
        price=price,
        volume_units=units_of(deal.filledVolume) if deal is not None else None,
        pnl=pnl,
        balance=money(detail.balance, detail) if detail is not None else None,
        balance_version=detail.balanceVersion if detail is not None else 0,
        reason=reason,
        is_unclear=is_half or lacks_position or _is_newer_than_we_know(event),
    )


def _is_newer_than_we_know(event: Any) -> bool:  # noqa: ANN401
    """Whether one of the enums that say what happened has a later value: it reads as absent."""
    is_known = event.HasField("executionType") and event.order.HasField("orderType")
    return not is_known or (event.HasField("position") and not event.position.HasField("positionStatus"))


def _without_order(event: Any, contracts: Mapping[int, Contract], book: str) -> VenueEvent | None:  # noqa: ANN401
    """Return what a swap, a deposit or a withdrawal changes."""
    position = event.position if event.HasField("position") else None
    cash = event.depositWithdraw if event.HasField("depositWithdraw") else None
    if position is None and cash is None:
        return None
    is_open = position is not None and _is(position, "positionStatus", _POSITION_OPEN)
    held = position_of(position, contracts, book) if is_open else None
    return VenueEvent(
        kind=None,
        client_order_id=held.client_order_id if held else None,
        symbol=held.symbol if held else "",
        time_ms=cash.changeBalanceTimestamp if cash is not None else _changed_ms(event),
        position_id=position.positionId if position is not None else None,
        position=held,
        position_ms=_changed_ms(event),
        balance=money(cash.balance, cash) if cash is not None else None,
        balance_version=cash.balanceVersion if cash is not None else 0,
    )


def _changed_ms(event: Any) -> int:  # noqa: ANN401
    """Return when an event's position was changed; without a stamp of its own it is the order's or deal's."""
    stamps = [event.position.utcLastUpdateTimestamp, event.order.utcLastUpdateTimestamp]
    return int(next((stamp for stamp in (*stamps, event.deal.executionTimestamp) if stamp), 0))


def _is(message: Any, field: str, *values: int) -> bool:  # noqa: ANN401
    """Whether an enum field has one of these values; one newer than our definitions reads as the first."""
    return message.HasField(field) and getattr(message, field) in values


def _entry_kind(event: Any) -> ExecutionKind | None:  # noqa: ANN401
    kind = _ENTRY_EVENTS.get(event.executionType) if event.HasField("executionType") else None
    if kind is ExecutionKind.REJECTED and event.order.executedVolume:
        return ExecutionKind.FILLED  # the rest of it was cancelled: what was filled is a position
    return kind


def _closing_kind(event: Any, *, is_open: bool) -> ExecutionKind | None:  # noqa: ANN401
    if _is(event, "executionType", _FILLED):
        known = not event.HasField("position") or event.position.HasField("positionStatus")
        return ExecutionKind.CLOSED if known and not is_open else None
    stands = is_open and event.position.HasField("stopLoss")
    if _is(event.order, "orderType", _PROTECTIVE) and _is(event, "executionType", *_SET) and stands:
        return ExecutionKind.PROTECTED
    return None


def _why_closed(order: Any, price: Decimal, digits: int) -> str:  # noqa: ANN401
    if order.orderType != _PROTECTIVE:
        return "STOP_OUT" if order.isStopOut else "CLOSED_BY_ORDER"
    stop = rounded(order.stopPrice, digits) if order.HasField("stopPrice") else None
    target = rounded(order.limitPrice, digits) if order.HasField("limitPrice") else None
    return close_reason(price, stop, target, stop_out=order.isStopOut)


def _net_pnl(detail: Any) -> Decimal | None:  # noqa: ANN401
    if detail is None:
        return None
    total = detail.grossProfit + detail.swap + detail.commission + detail.pnlConversionFee
    return money(total, detail)


@dataclass(frozen=True, slots=True)
class OrderFound:
    """An order as the venue's list has it."""

    client_order_id: str
    order_id: int
    position_id: int | None
    is_filled: bool
    is_open: bool
    price: Decimal | None
    volume_units: Decimal
    time_ms: int
    close_reason: str  # of an order that closed a position; "" else


def order_found(order: Any, contracts: Mapping[int, Contract]) -> OrderFound:  # noqa: ANN401
    """Return an entry of the venue's order list."""
    contract = contracts.get(order.tradeData.symbolId)
    digits = contract.digits if contract else 5
    is_open = not order.HasField("orderStatus") or order.orderStatus == _ORDER_ACCEPTED  # unknown: not ended
    price = rounded(order.executionPrice, digits) if order.executionPrice else None
    closing = order.closingOrder or _is(order, "orderType", _PROTECTIVE)
    return OrderFound(
        client_order_id=order.clientOrderId,
        order_id=order.orderId,
        position_id=order.positionId or None,
        is_filled=_is(order, "orderStatus", _ORDER_FILLED) or (bool(order.executedVolume) and not is_open),
        is_open=is_open,
        price=price,
        volume_units=units_of(order.executedVolume or order.tradeData.volume),
        time_ms=order.utcLastUpdateTimestamp,
        close_reason=_why_closed(order, price, digits) if closing and price is not None else "",
    )


@dataclass(frozen=True, slots=True)
class CloseFound:
    """A deal that closed a position, as the venue's list has it."""

    position_id: int
    order_id: int
    price: Decimal
    volume_units: Decimal
    pnl: Decimal
    balance: Decimal
    time_ms: int


def close_found(deal: Any, contracts: Mapping[int, Contract]) -> CloseFound | None:  # noqa: ANN401
    """Return a closing deal of the venue's list, or None for one that opened.

    Raises:
        UnclearError: its amounts cannot be read.
    """
    if not deal.HasField("closePositionDetail"):
        return None
    contract = contracts.get(deal.symbolId)
    detail = deal.closePositionDetail
    pnl = _net_pnl(detail)
    return CloseFound(
        position_id=deal.positionId,
        order_id=deal.orderId,
        price=rounded(deal.executionPrice, contract.digits if contract else 5),
        volume_units=units_of(deal.filledVolume),
        pnl=pnl if pnl is not None else Decimal(0),
        balance=money(detail.balance, detail),
        time_ms=deal.executionTimestamp,
    )


def close_ms(bar: Bar[int]) -> int:
    """Return when a bar is complete."""
    return bar.open_time_ms + BAR_MS
