"""When an order may fill at a quote, and how far its price may go. Pure."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum

from venue.money import Quote
from venue.records import Order, OrderKind, Side, TriggerMethod

_OPPOSITE = frozenset({TriggerMethod.OPPOSITE, TriggerMethod.DOUBLE_OPPOSITE})
_DOUBLE = frozenset({TriggerMethod.DOUBLE_TRADE, TriggerMethod.DOUBLE_OPPOSITE})


class Judgement(StrEnum):
    """What a quote means for an order."""

    WAITS = "WAITS"
    FILLS = "FILLS"
    MISSES = "MISSES"  # it had to fill at this quote, and cannot


def trade_price(side: Side, quote: Quote) -> int:
    """Return the price at which an order of this side trades: a buyer pays the ask."""
    return quote.ask if side is Side.BUY else quote.bid


def closing_price(side: Side, quote: Quote) -> int:
    """Return the price at which a position of this side is closed."""
    return quote.bid if side is Side.BUY else quote.ask


def is_at_or_beyond(side: Side, price: int, level: int) -> bool:
    """Tell whether a price has risen to a level (BUY) or fallen to it (SELL)."""
    return side.sign * (price - level) >= 0


def is_of_opposite(method: TriggerMethod) -> bool:
    """Tell whether a trigger watches the other side than the one on which its order would fill."""
    return method in _OPPOSITE


def touches(side: Side, method: TriggerMethod, level: int, quote: Quote) -> bool:
    """Tell whether this quote is at or beyond the level of a stop order of this side."""
    watched = side.opposite if is_of_opposite(method) else side
    return is_at_or_beyond(side, trade_price(watched, quote), level)


def seen(order: Order, level: int, quote: Quote) -> Order:
    """Return a stop order as it is after a quote: triggered, touched once, or as if it never was."""
    touched = touches(order.side, order.trigger_method, level, quote)
    triggers = touched and (order.is_touched or order.trigger_method not in _DOUBLE)
    if (touched, triggers) == (order.is_touched, order.is_triggered):
        return order
    return replace(order, is_touched=touched, is_triggered=triggers)


def judge(order: Order, quote: Quote) -> tuple[Judgement, Order]:
    """Return what a quote means for a client's order, and the order as it is after it."""
    if order.trigger_points is not None and not order.is_triggered:
        order = seen(order, order.trigger_points, quote)
        if not order.is_triggered:
            return Judgement.WAITS, order
    worst = worst_price(order)
    price = trade_price(order.side, quote)
    if worst is None or is_at_or_beyond(order.side.opposite, price, worst):
        return Judgement.FILLS, order
    if order.kind is OrderKind.MARKET_RANGE or order.must_fill_at_once:
        return Judgement.MISSES, order
    return Judgement.WAITS, order


def worst_price(order: Order) -> int | None:
    """Return the last price at which an order still trades, None if it takes any."""
    if order.kind is OrderKind.LIMIT:
        return order.limit_points
    base = order.base_points if order.kind is OrderKind.MARKET_RANGE else order.trigger_points
    if base is None or order.range_points is None:
        return None
    return base + order.side.sign * order.range_points


def slipped_price(order: Order, quote: Quote, slippage_points: int) -> int:
    """Return the price of a fill: the quote's, made worse by the slippage, but not beyond the last price."""
    price = trade_price(order.side, quote)
    worst = worst_price(order)
    if order.kind is OrderKind.LIMIT:
        return price
    slipped = max(price + order.side.sign * slippage_points, 1)
    if worst is not None and not is_at_or_beyond(order.side.opposite, slipped, worst):
        return worst
    return slipped
