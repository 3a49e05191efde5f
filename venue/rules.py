"""What a trading request must keep to, and the words in which the venue refuses it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from shared.contracts import POINTS_PER_UNIT, Contract
from venue.money import CENTS, Quote
from venue.records import Order, OrderKind, RefusedError, Side, TimeInForce, TriggerMethod
from venue.triggers import touches

LABEL_LENGTH_MAX = 100
COMMENT_LENGTH_MAX = 512
CLIENT_ORDER_ID_LENGTH_MAX = 50


@dataclass(frozen=True, slots=True)
class OrderRequest:
    """A client asks for an order; relative distances are counted from the fill, all prices in points."""

    symbol: str
    side: Side
    volume_cents: int
    kind: OrderKind = OrderKind.MARKET
    client_order_id: str = ""
    label: str = ""
    comment: str = ""
    position_id: int | None = None
    time_in_force: TimeInForce | None = None  # None: as usual for its kind
    expires_ms: int | None = None
    limit_points: int | None = None
    trigger_points: int | None = None
    base_points: int | None = None
    range_points: int | None = None
    trigger_method: TriggerMethod = TriggerMethod.TRADE
    stop_points: int | None = None
    target_points: int | None = None
    relative_stop_points: int | None = None
    relative_target_points: int | None = None
    trailing: bool = False


@dataclass(frozen=True, slots=True)
class OrderChange:
    """What a client wants otherwise in an order that waits; None leaves a thing as it is."""

    volume_cents: int | None = None
    limit_points: int | None = None
    trigger_points: int | None = None
    range_points: int | None = None
    expires_ms: int | None = None
    stop_points: int | None = None
    target_points: int | None = None
    relative_stop_points: int | None = None
    relative_target_points: int | None = None
    trailing: bool | None = None
    trigger_method: TriggerMethod | None = None


def check_texts(request: OrderRequest) -> None:
    """Refuse texts that are longer than the venue keeps."""
    for name, text, limit in (
        ("label", request.label, LABEL_LENGTH_MAX),
        ("comment", request.comment, COMMENT_LENGTH_MAX),
        ("clientOrderId", request.client_order_id, CLIENT_ORDER_ID_LENGTH_MAX),
    ):
        if len(text) > limit:
            raise RefusedError("INVALID_REQUEST", f"{name} is longer than {limit} characters")


def check_volume(contract: Contract, volume_cents: int) -> None:
    """Refuse a volume outside the contract's bounds or off its grid."""

    def lots(cents: Decimal | int) -> str:
        return f"{Decimal(cents) / CENTS / contract.lot_units:.2f}"

    smallest, largest = contract.min_volume_units * CENTS, contract.max_volume_units * CENTS
    said = f"Order volume = {lots(volume_cents)} is"
    if volume_cents < smallest:
        raise RefusedError(
            "TRADING_BAD_VOLUME", f"{said} smaller than minimum allowed volume = {lots(smallest)}."
        )
    if volume_cents > largest:
        raise RefusedError(
            "TRADING_BAD_VOLUME", f"{said} bigger than maximum allowed volume = {lots(largest)}"
        )
    step = contract.step_volume_units * CENTS
    if (volume_cents - smallest) % step:
        raise RefusedError("TRADING_BAD_VOLUME", f"{said} not a multiple of step volume = {lots(step)}")


def check_distance(contract: Contract, name: str, distance: int | None) -> None:
    """Refuse a distance from the fill that is off the grid or too small."""
    if distance is None:
        return
    tick = int(contract.tick * POINTS_PER_UNIT)
    if distance <= 0 or distance % tick:
        raise RefusedError(
            "TRADING_BAD_STOPS", f"Relative {name} = {distance} should be a positive multiple of {tick}"
        )
    if distance < contract.min_stop_distance * POINTS_PER_UNIT:
        raise RefusedError(
            "PROTECTION_IS_TOO_CLOSE_TO_MARKET", f"Relative {name} = {distance} is too close to market"
        )


def check_reach(price: int, *distances: int | None) -> None:
    """Refuse a distance that would set a level at zero or below: it protects from nothing."""
    if max(distance or 0 for distance in distances) >= price:
        raise RefusedError("TRADING_BAD_STOPS", "A relative SL or TP is as large as the price itself")


def check_grid(contract: Contract, name: str, level: int | None) -> None:
    """Refuse a price with more digits than the symbol has."""
    if level is not None and level % int(contract.tick * POINTS_PER_UNIT):
        raise RefusedError("INVALID_REQUEST", f"{name} has more than {contract.digits} digits")


def check_level(contract: Contract, side: Side, quote: Quote, name: str, level: int | None) -> None:
    """Refuse a level of a position on the wrong side of the price that would close it."""
    closing, market = ("BID", quote.bid) if side is Side.BUY else ("ASK", quote.ask)
    check_level_at(contract, side, f"current {closing}", market, name, level)


def check_level_at(
    contract: Contract, side: Side, price_name: str, price: int, name: str, level: int | None
) -> None:
    """Refuse a level that lies on the wrong side of a price, or too close to it."""
    if level is None:
        return
    check_grid(contract, name, level)
    above = (name == "TP") == (side is Side.BUY)
    distance = level - price if above else price - level
    shown_price, shown = (f"{points / POINTS_PER_UNIT:.{contract.digits}f}" for points in (price, level))
    if distance < 0:
        raise RefusedError(
            "TRADING_BAD_STOPS",
            f"New {name} for {side} position should be {'>=' if above else '<='} {price_name} price."
            f" {price_name}: {shown_price}, {name}: {shown}",
        )
    if distance < contract.min_stop_distance * POINTS_PER_UNIT:
        raise RefusedError(
            "PROTECTION_IS_TOO_CLOSE_TO_MARKET", f"New {name} = {shown} is too close to {shown_price}"
        )


def check_prices(contract: Contract, order: Order, quote: Quote) -> None:
    """Refuse an order whose own prices are missing, off the grid, or on the wrong side of the market."""
    needed = {
        OrderKind.LIMIT: (("limitPrice", order.limit_points),),
        OrderKind.STOP: (("stopPrice", order.trigger_points),),
        OrderKind.STOP_LIMIT: (
            ("stopPrice", order.trigger_points),
            ("slippageInPoints", order.range_points),
        ),
        OrderKind.MARKET_RANGE: (
            ("baseSlippagePrice", order.base_points),
            ("slippageInPoints", order.range_points),
        ),
    }.get(order.kind, ())
    for name, value in needed:
        if value is None:
            raise RefusedError("INVALID_REQUEST", f"A {order.kind} order needs {name}")
        check_grid(contract, name, value)
    if order.range_points is not None and order.range_points < 0:
        raise RefusedError("INVALID_REQUEST", "slippageInPoints is negative")
    if order.trigger_points is not None and touches(
        order.side, order.trigger_method, order.trigger_points, quote
    ):
        raise RefusedError("TRADING_BAD_PRICES", "The market is at or beyond stopPrice already")


def check_order_levels(contract: Contract, order: Order) -> None:
    """Refuse levels of an order that waits which its position could not have."""
    for name, absolute, relative in (
        ("SL", order.stop_points, order.relative_stop_points),
        ("TP", order.target_points, order.relative_target_points),
    ):
        if absolute is not None and relative is not None:
            raise RefusedError("INVALID_REQUEST", f"{name} is given twice: absolute and relative")
        price = order.limit_points if order.limit_points is not None else order.trigger_points
        if absolute is not None and price is not None:
            check_level_at(contract, order.side, "order's", price, name, absolute)
        check_distance(contract, name, relative)
        if price is not None:
            check_reach(price, relative)
    if order.trailing and order.stop_points is None and order.relative_stop_points is None:
        raise RefusedError("TRADING_BAD_STOPS", "A trailing stop needs a stop loss")


def check_expiry(order: Order, now_ms: int) -> None:
    """Refuse a date of expiry that is missing, over, or not asked for."""
    dated = order.time_in_force is TimeInForce.GOOD_TILL_DATE
    if dated != (order.expires_ms is not None):
        raise RefusedError(
            "TRADING_BAD_EXPIRATION_DATE", "expirationTimestamp goes with GOOD_TILL_DATE and nothing else"
        )
    if order.expires_ms is not None and order.expires_ms <= now_ms:
        raise RefusedError("TRADING_BAD_EXPIRATION_DATE", "expirationTimestamp is over")
