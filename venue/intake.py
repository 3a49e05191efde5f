"""What clients may ask of an account: orders, changes of them, closings, levels. Pure.

Each method either returns what the request led to at once, or raises and leaves everything as it was.
"""

from __future__ import annotations

from dataclasses import replace

from shared.errors import UnavailableError
from venue.money import CENTS, Quote
from venue.open_book import OpenBook
from venue.positions import Positions, empty_position
from venue.records import (
    Execution,
    ExecutionKind,
    Order,
    OrderKind,
    OrderStatus,
    Position,
    RefusedError,
    Side,
    TimeInForce,
    TriggerMethod,
)
from venue.rules import (
    OrderChange,
    OrderRequest,
    check_expiry,
    check_level,
    check_order_levels,
    check_prices,
    check_reach,
    check_texts,
    check_volume,
)
from venue.terms import Access, AccountKind, Terms
from venue.valuation import Valuer

_USUAL_TIME_IN_FORCE = {
    OrderKind.MARKET: TimeInForce.IMMEDIATE_OR_CANCEL,
    OrderKind.MARKET_RANGE: TimeInForce.IMMEDIATE_OR_CANCEL,
}


class Intake:
    """Takes requests, or refuses them."""

    def __init__(self, terms: Terms, book: OpenBook, valuer: Valuer, positions: Positions) -> None:
        self._terms = terms
        self._book = book
        self._valuer = valuer
        self._positions = positions

    # -- orders --------------------------------------------------------------------------------

    def submit(self, request: OrderRequest, now_ms: int, *, market_open: bool) -> tuple[Execution, ...]:
        """Accept an order. A repeated client order id is accepted again, as at the real venue."""
        check_texts(request)
        if request.symbol not in self._terms.contracts:
            raise RefusedError("SYMBOL_NOT_FOUND", f"Symbol not found: {request.symbol}")
        joined = self._joined(request)
        if joined is not None and joined.side is not request.side and self.is_hedged:
            return self.close(joined.position_id, request.volume_cents, now_ms, market_open=market_open)
        self._check_access(reduces=joined is not None and joined.side is not request.side)
        order = self._order(request, now_ms)
        self._check(order, now_ms)
        if not order.kind.is_pending and order.time_in_force is not TimeInForce.MARKET_ON_OPEN:
            self._check_open(order.symbol, market_open=market_open)
        if not order.kind.is_pending:
            self._check_money(order, joined)
        shared_id = joined.position_id if joined is not None else self._awaited_id(order.symbol)
        order = replace(
            order,
            order_id=self._book.take_order_id(),
            position_id=self._book.take_position_id() if shared_id is None else shared_id,
            joins=shared_id is not None,
        )
        return (self._accept(order, joined or empty_position(order), now_ms),)

    @property
    def is_hedged(self) -> bool:
        """Whether every order opens its own position."""
        return self._terms.kind is AccountKind.HEDGED

    def _joined(self, request: OrderRequest) -> Position | None:
        """Return the open position that an order acts on, None if it is to open one."""
        if request.position_id is None:
            return None if self.is_hedged else next(iter(self._book.of_symbol(request.symbol)), None)
        position = self._free_position(request.position_id)
        if position.symbol != request.symbol:
            raise RefusedError("INVALID_REQUEST", "positionId is a position of another symbol")
        if request.kind is not OrderKind.MARKET:
            raise RefusedError("INVALID_REQUEST", "positionId goes with MARKET orders only")
        return position

    def _awaited_id(self, symbol: str) -> int | None:
        """Return the number of the position that another order of a netted account is to open."""
        if self.is_hedged:
            return None
        return next((each.position_id for each in self._book.orders.values() if each.symbol == symbol), None)

    def _order(self, request: OrderRequest, now_ms: int) -> Order:
        usual = _USUAL_TIME_IN_FORCE.get(request.kind, TimeInForce.GOOD_TILL_CANCEL)
        return Order(
            order_id=0,
            position_id=0,
            symbol=request.symbol,
            side=request.side,
            kind=request.kind,
            status=OrderStatus.ACCEPTED,
            volume_cents=request.volume_cents,
            arrived_ms=now_ms,
            due_ms=now_ms + max(1, self._terms.latency_ms),
            updated_ms=now_ms,
            client_order_id=request.client_order_id,
            label=request.label,
            comment=request.comment,
            time_in_force=request.time_in_force or usual,
            expires_ms=request.expires_ms,
            limit_points=request.limit_points,
            trigger_points=request.trigger_points,
            base_points=request.base_points,
            range_points=request.range_points,
            trigger_method=request.trigger_method,
            relative_stop_points=request.relative_stop_points,
            relative_target_points=request.relative_target_points,
            stop_points=request.stop_points,
            target_points=request.target_points,
            trailing=request.trailing,
        )

    def _check(self, order: Order, now_ms: int) -> None:
        """Refuse an order that breaks a rule."""
        contract = self._terms.contracts[order.symbol]
        check_volume(contract, order.volume_cents)
        check_order_levels(contract, order)
        quote = self._quote(order.symbol)
        check_reach(quote.bid, order.relative_stop_points, order.relative_target_points)
        check_prices(contract, order, quote)
        check_expiry(order, now_ms)

    def amend_order(self, order_id: int, change: OrderChange, now_ms: int) -> tuple[Execution, ...]:
        """Change an order that waits for its price; what is left out stays as it is."""
        order = self._waiting(order_id, "UNABLE_TO_AMEND_ORDER")
        if change == OrderChange():
            raise RefusedError("INVALID_REQUEST", "Nothing to amend.")
        changed = changed_order(order, change, now_ms)
        if changed.volume_cents <= order.executed_cents:
            raise RefusedError("TRADING_BAD_VOLUME", "The volume is not above what is filled already")
        self._check(changed, now_ms)
        self._book.put_order(changed)
        position = self._book.positions.get(order.position_id) or empty_position(changed)
        return (Execution(ExecutionKind.REPLACED, now_ms, changed, position),)

    def cancel(self, order_id: int, now_ms: int) -> tuple[Execution, ...]:
        """Take back an order that waits for its price."""
        order = self._waiting(order_id, "UNABLE_TO_CANCEL_ORDER")
        return (self._positions.end(order, OrderStatus.CANCELLED, now_ms),)

    def _waiting(self, order_id: int, code: str) -> Order:
        order = self._book.orders.get(order_id)
        if order is None:
            if any(each.order_id == order_id for each in self._book.protective.values()):
                raise RefusedError(code, f"Order {order_id} holds the levels of a position: amend that")
            raise RefusedError("ORDER_NOT_FOUND", f"Order not found with id {order_id}")
        if not order.kind.is_pending:
            raise RefusedError(code, f"Order {order_id} is under execution")
        return order

    # -- positions -----------------------------------------------------------------------------

    def close(
        self, position_id: int, volume_cents: int, now_ms: int, *, market_open: bool
    ) -> tuple[Execution, ...]:
        """Accept an order that closes a position, or a part of it, at the next quote."""
        position = self._free_position(position_id)
        self._check_access(reduces=True)
        if volume_cents != position.volume_cents:
            check_volume(self._terms.contracts[position.symbol], volume_cents)
        if volume_cents > position.volume_cents:
            raise RefusedError(
                "TRADING_BAD_VOLUME", f"Close volume {volume_cents} is bigger than the position's"
            )
        self._check_open(position.symbol, market_open=market_open)
        due_ms = now_ms + max(1, self._terms.latency_ms)
        order = self._closing_order(position, volume_cents, now_ms, due_ms)
        return (self._accept(order, position, now_ms),)

    def stop_out_order(self, position: Position, now_ms: int) -> Order:
        """Return the venue's own order that closes a position for want of margin."""
        order = self._closing_order(position, position.volume_cents, now_ms, now_ms)
        return replace(order, is_stop_out=True)

    def _closing_order(self, position: Position, volume_cents: int, now_ms: int, due_ms: int) -> Order:
        return Order(
            order_id=self._book.take_order_id(),
            position_id=position.position_id,
            symbol=position.symbol,
            side=position.side.opposite,
            kind=OrderKind.MARKET,
            status=OrderStatus.ACCEPTED,
            volume_cents=volume_cents,
            arrived_ms=now_ms,
            due_ms=due_ms,
            updated_ms=now_ms,
            closing=True,
            joins=True,
            label=position.label,
            comment=position.comment,
        )

    def amend(
        self,
        position_id: int,
        stop_points: int | None,
        target_points: int | None,
        now_ms: int,
        *,
        trailing: bool = False,
        trigger_method: TriggerMethod = TriggerMethod.TRADE,
    ) -> tuple[Execution, ...]:
        """Set both levels of a position; a level left out is removed."""
        position = self._free_position(position_id)
        self._check_access(reduces=True)
        if stop_points is None and target_points is None:
            raise RefusedError("INVALID_REQUEST", "Nothing to amend.")
        if trailing and stop_points is None:
            raise RefusedError("TRADING_BAD_STOPS", "A trailing stop needs a stop loss")
        contract = self._terms.contracts[position.symbol]
        quote = self._quote(position.symbol)
        check_level(contract, position.side, quote, "SL", stop_points)
        check_level(contract, position.side, quote, "TP", target_points)
        position = replace(position, trailing=trailing, trigger_method=trigger_method)
        return (self._positions.protect(position, stop_points, target_points, now_ms, by_server=False),)

    def _free_position(self, position_id: int) -> Position:
        position = self._book.positions.get(position_id)
        if position is None:
            raise RefusedError("POSITION_NOT_FOUND", f"Position not found with id {position_id}")
        if any(order.closing for order in self._book.orders_on(position_id)):
            raise RefusedError("PENDING_EXECUTION", f"Position {position_id} has an order under execution")
        return position

    # -- what every request must keep to ---------------------------------------------------------

    def _accept(self, order: Order, position: Position, now_ms: int) -> Execution:
        self._book.put_order(order)
        return Execution(ExecutionKind.ACCEPTED, now_ms, order, position)

    def _check_access(self, *, reduces: bool) -> None:
        if self._terms.access is Access.NO_TRADING:
            raise RefusedError("TRADING_NOT_ALLOWED", "The account may not trade")
        if self._terms.access is Access.CLOSE_ONLY and not reduces:
            raise RefusedError("TRADING_NOT_ALLOWED", "The account may only close positions")

    def _quote(self, symbol: str) -> Quote:
        quote = self._book.quotes.get(symbol)
        if quote is None:
            raise RefusedError("NO_QUOTES", f"No quotes for {symbol}")
        return quote

    def _check_open(self, symbol: str, *, market_open: bool) -> None:
        if not market_open:
            raise RefusedError("MARKET_CLOSED", f"Market is closed for {symbol}")
        self._quote(symbol)

    def _check_money(self, order: Order, joined: Position | None) -> None:
        """Refuse an order whose margin is not free. What reduces a netted position needs none."""
        volume = order.volume_cents
        if joined is not None and joined.side is not order.side:
            volume = max(0, volume - joined.volume_cents)
        lacking = self.lacking_money(order.symbol, volume, order.side)
        if lacking is not None:
            raise lacking

    def lacking_money(self, symbol: str, volume_cents: int, side: Side) -> RefusedError | None:
        """Return why a volume cannot be opened now, None if it can."""
        try:
            required = self._valuer.margin_cents(symbol, volume_cents, side)
            free = self._valuer.equity_cents() - self._valuer.used_margin_cents()
        except UnavailableError as error:
            return RefusedError("NO_QUOTES", str(error))
        if required <= free or required == 0:
            return None
        return RefusedError(
            "NOT_ENOUGH_MONEY", f"Required margin {required / CENTS:.2f}, free margin {free / CENTS:.2f}"
        )


def changed_order(order: Order, change: OrderChange, now_ms: int) -> Order:
    """Return an order with what is to be otherwise; a level of one kind takes the place of the other."""
    given = {name: value for name in OrderChange.__slots__ if (value := getattr(change, name)) is not None}
    for absolute, relative in (
        ("stop_points", "relative_stop_points"),
        ("target_points", "relative_target_points"),
    ):
        if absolute in given:
            given.setdefault(relative, None)
        elif relative in given:
            given[absolute] = None
    if change.expires_ms is not None:
        given["time_in_force"] = TimeInForce.GOOD_TILL_DATE
    if change.trigger_points is not None or change.trigger_method is not None:
        given |= {"is_touched": False, "is_triggered": False}
    return replace(order, updated_ms=now_ms, **given)
