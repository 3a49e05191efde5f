"""What a fill does: it opens a position, makes it larger, or closes it in part or in full. Pure.

Each method returns what happened, in the order in which the venue tells it: the fill, the margins of
other positions that moved with it, then the protective order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

from venue.costs import conversion_fee_cents
from venue.money import average_points
from venue.open_book import OpenBook
from venue.records import (
    CloseReason,
    Deal,
    DealStatus,
    Execution,
    ExecutionKind,
    Happening,
    MarginMoved,
    Order,
    OrderKind,
    OrderStatus,
    Position,
    PositionStatus,
)
from venue.terms import AccountKind
from venue.triggers import closing_price
from venue.valuation import Valuer

ProtectionDelay = Callable[[int], "int | None"]

_DONE = {
    OrderStatus.CANCELLED: ExecutionKind.CANCELLED,
    OrderStatus.EXPIRED: ExecutionKind.EXPIRED,
    OrderStatus.REJECTED: ExecutionKind.REJECTED,
}


class Positions:
    """The open positions of an account and their protective orders."""

    def __init__(self, book: OpenBook, valuer: Valuer, protection_delay_ms: ProtectionDelay) -> None:
        self._book = book
        self._valuer = valuer
        self._protection_delay_ms = protection_delay_ms

    def target_of(self, order: Order) -> Position | None:
        """Return the open position on which an order acts, None if it opens one or there is none left."""
        if order.closing or self._valuer.terms.kind is AccountKind.HEDGED:
            return self._book.positions.get(order.position_id)
        return next(iter(self._book.of_symbol(order.symbol)), None)

    # -- the end of an order -------------------------------------------------------------------

    def end(self, order: Order, status: OrderStatus, now_ms: int, error_code: str = "") -> Execution:
        """End an order that waits; what it has filled so far stays."""
        ended = replace(order, status=status, updated_ms=now_ms, error_code=error_code)
        self._book.end_order(ended)
        position = self._book.positions.get(order.position_id)
        if position is None:
            position = replace(empty_position(ended), status=PositionStatus.CLOSED)
        by_server = status is not OrderStatus.CANCELLED
        return Execution(_DONE[status], now_ms, ended, position, by_server=by_server, error_code=error_code)

    # -- fills ---------------------------------------------------------------------------------

    def fill(
        self, order: Order, price: int, volume_cents: int, now_ms: int, reason: CloseReason
    ) -> list[Happening]:
        """Fill an order, or a part of it, at a price."""
        target = self.target_of(order)
        if target is None:
            return self._open(order, price, volume_cents, now_ms)
        if target.side is order.side:
            return self._enlarge(order, target, price, volume_cents, now_ms)
        part = min(volume_cents, target.volume_cents)
        happened = self._reduce(order, target, price, part, now_ms, reason)
        if part < volume_cents and not order.closing:
            turned = self._book.orders[order.order_id]
            happened += self._open(turned, price, volume_cents - part, now_ms)
        return happened

    def _open(self, order: Order, price: int, volume_cents: int, now_ms: int) -> list[Happening]:
        if order.joins or order.executed_cents:  # its number was another position's
            order = replace(order, position_id=self._book.take_position_id(), joins=False)
        base_rate = self._valuer.base_rate(order.symbol)
        filled = _progressed(order, price, volume_cents, now_ms)
        deal = self._deal(order, filled, price, volume_cents, now_ms)
        position = replace(
            empty_position(filled),
            status=PositionStatus.OPEN,
            opened_volume_cents=volume_cents,
            volume_cents=volume_cents,
            entry_points=price,
            opened_ms=now_ms,
            updated_ms=now_ms,
            commission_cents=deal.commission_cents,
            margin_rate=float(base_rate),
            usd_rate=float(self._valuer.usd_rate(order.symbol)),
        )
        return self._after_entry(filled, position, deal, now_ms)

    def _enlarge(
        self, order: Order, position: Position, price: int, volume_cents: int, now_ms: int
    ) -> list[Happening]:
        order = replace(order, position_id=position.position_id)
        filled = _progressed(order, price, volume_cents, now_ms)
        deal = self._deal(order, filled, price, volume_cents, now_ms)
        total = position.volume_cents + volume_cents

        def average(before: float, now: float) -> float:
            return (before * position.volume_cents + now * volume_cents) / total

        position = replace(
            position,
            opened_volume_cents=position.opened_volume_cents + volume_cents,
            volume_cents=total,
            entry_points=average_points(position.entry_points, position.volume_cents, price, volume_cents),
            updated_ms=now_ms,
            commission_cents=position.commission_cents + deal.commission_cents,
            margin_rate=average(position.margin_rate, deal.margin_rate),
            usd_rate=average(position.usd_rate, deal.base_to_usd_rate),
        )
        return self._after_entry(filled, position, deal, now_ms)

    def _after_entry(self, filled: Order, position: Position, deal: Deal, now_ms: int) -> list[Happening]:
        """Book an entry, and give the position the levels that its order asks for."""
        stop, target = levels_of(filled, position, self._valuer.terms.contracts[filled.symbol].digits)
        asks = stop is not None or target is not None
        if not asks:
            stop, target = position.stop_points, position.target_points
        late_ms = self._protection_delay_ms(now_ms) if asks else None
        if asks:
            position = replace(position, trailing=filled.trailing, trigger_method=filled.trigger_method)
        if late_ms:
            position = replace(
                position,
                due_protection_ms=now_ms + late_ms,
                due_stop_points=stop,
                due_target_points=target,
            )
        self._book.put_position(position)
        self._settle(filled)
        self._book.note(deal)
        moved = self._move_margins(position, now_ms)
        position = self._book.positions[position.position_id]
        happened: list[Happening] = [_told(filled, position, deal), *moved]
        if late_ms == 0 or (not asks and position.position_id in self._book.protective):
            happened.append(self.protect(position, stop, target, now_ms, by_server=True))
        return happened

    def _reduce(
        self,
        order: Order,
        position: Position,
        price: int,
        volume_cents: int,
        now_ms: int,
        reason: CloseReason,
    ) -> list[Happening]:
        """Close a position, or a part of it, at a price."""
        share = Fraction(volume_cents, position.volume_cents)
        filled = _progressed(order, price, volume_cents, now_ms)
        if order.closing and volume_cents == position.volume_cents:
            filled = replace(filled, status=OrderStatus.FILLED)  # there is no more to close
        filled = replace(filled, position_id=position.position_id)
        deal = self._deal(order, filled, price, volume_cents, now_ms)
        opening_commission = round(position.commission_cents * share)
        swap = round(position.swap_cents * share)
        deal = self._closing_deal(deal, position, opening_commission, swap, reason)
        rest = replace(
            position,
            volume_cents=position.volume_cents - volume_cents,
            commission_cents=position.commission_cents - opening_commission,
            swap_cents=position.swap_cents - swap,
            updated_ms=now_ms,
        )
        if rest.volume_cents == 0:
            rest = replace(
                rest,
                status=PositionStatus.CLOSED,
                closed_ms=now_ms,
                close_reason=reason,
                used_margin_cents=0,
            )
        self._book.put_position(rest)
        self._settle(filled)
        self._book.note(deal)
        moved = self._move_margins(rest, now_ms)
        rest = self._book.positions.get(rest.position_id, rest)
        happened: list[Happening] = [_told(filled, rest, deal), *moved]
        return happened + self._after_reduction(filled, rest, now_ms)

    def _closing_deal(
        self, deal: Deal, position: Position, opening_commission: int, swap: int, reason: CloseReason
    ) -> Deal:
        """Return a deal with the result of its round trip, which is now in the balance."""
        gross, rate = self._valuer.result(position, deal.price_points, deal.volume_cents)
        terms = self._valuer.terms
        converts = terms.contracts[deal.symbol].quote_asset != terms.deposit_asset
        fee = conversion_fee_cents(gross, terms.conversion_fee) if converts else 0
        costs = opening_commission + deal.commission_cents
        delta = gross + swap + costs + fee
        self._book.move_balance(delta, deal.executed_ms, f"CLOSE_BY_{reason}", deal.deal_id)
        return replace(
            deal,
            entry_points=position.entry_points,
            gross_cents=gross,
            swap_cents=swap,
            round_trip_commission_cents=costs,
            conversion_fee_cents=fee,
            balance_cents=self._book.balance_cents,
            balance_version=self._book.balance_version,
            quote_to_deposit_rate=float(rate),
        )

    def _after_reduction(self, filled: Order, rest: Position, now_ms: int) -> list[Happening]:
        """Shrink the protective order of what is left, or end all that belonged to what is gone."""
        protective = self._book.protective.get(rest.position_id)
        if rest.status is PositionStatus.OPEN:
            if protective is None:
                return []
            return [self.protect(rest, rest.stop_points, rest.target_points, now_ms, by_server=True)]
        if protective is not None:
            del self._book.protective[rest.position_id]
            if protective.order_id != filled.order_id:
                cancelled = replace(protective, status=OrderStatus.CANCELLED, updated_ms=now_ms)
                self._book.note(cancelled)
        half_filled = [
            order
            for order in self._book.orders_on(rest.position_id)
            if order.executed_cents and order.order_id != filled.order_id
        ]
        return [self.end(order, OrderStatus.CANCELLED, now_ms) for order in half_filled]

    def _settle(self, order: Order) -> None:
        """Put an order back where it stood, or take it out if it is done."""
        if order.status is not OrderStatus.ACCEPTED:
            self._book.end_order(order)
        elif order.kind is OrderKind.STOP_LOSS_TAKE_PROFIT:
            self._book.put_protective(order)
        else:
            self._book.put_order(order)

    def _move_margins(self, of: Position, now_ms: int) -> list[MarginMoved]:
        """Count the margins of a symbol's side anew; tell those that moved, but for the position in hand."""
        moved = self._valuer.margins_moved(of.symbol, of.side)
        for position in moved:
            self._book.put_position(position)
        return [MarginMoved(now_ms, each) for each in moved if each.position_id != of.position_id]

    def _deal(self, order: Order, filled: Order, price: int, volume_cents: int, now_ms: int) -> Deal:
        complete = filled.status is OrderStatus.FILLED
        return Deal(
            deal_id=self._book.take_deal_id(),
            order_id=filled.order_id,
            position_id=filled.position_id,
            symbol=filled.symbol,
            side=filled.side,
            asked_cents=order.left_cents,
            volume_cents=volume_cents,
            price_points=price,
            created_ms=filled.arrived_ms,
            executed_ms=now_ms,
            commission_cents=self._valuer.commission_cents(filled.symbol, price, volume_cents),
            margin_rate=float(self._valuer.base_rate(filled.symbol)),
            base_to_usd_rate=float(self._valuer.usd_rate(filled.symbol)),
            status=DealStatus.FILLED if complete else DealStatus.PARTIALLY_FILLED,
        )

    # -- protection ----------------------------------------------------------------------------

    def protect(
        self, position: Position, stop: int | None, target: int | None, now_ms: int, *, by_server: bool
    ) -> Execution:
        """Give a position these levels, with a new protective order or in place of the old levels."""
        standing = self._book.protective.get(position.position_id)
        kind = ExecutionKind.ACCEPTED if standing is None else ExecutionKind.REPLACED
        order = standing or self._protective_order(position, now_ms)
        trailing = position.trailing and stop is not None
        order = replace(
            order,
            volume_cents=position.volume_cents,
            executed_cents=0,
            is_touched=order.is_touched and by_server,
            is_triggered=order.is_triggered and by_server,
            stop_points=stop,
            target_points=target,
            trailing=trailing,
            trigger_method=position.trigger_method,
            updated_ms=now_ms,
        )
        kept = position.trail_points if stop == position.stop_points else None
        position = replace(
            position,
            stop_points=stop,
            target_points=target,
            trailing=trailing,
            trail_points=(kept or self._trail_points(position, stop)) if trailing else None,
            protective_order_id=order.order_id,
            due_protection_ms=None,
            due_stop_points=None,
            due_target_points=None,
            updated_ms=now_ms,
        )
        self._book.put_protective(order)
        self._book.put_position(position)
        self._book.note_stops(position, now_ms)
        return Execution(kind, now_ms, order, position, by_server=by_server)

    def _protective_order(self, position: Position, now_ms: int) -> Order:
        return Order(
            order_id=self._book.take_order_id(),
            position_id=position.position_id,
            symbol=position.symbol,
            side=position.side.opposite,
            kind=OrderKind.STOP_LOSS_TAKE_PROFIT,
            status=OrderStatus.ACCEPTED,
            volume_cents=position.volume_cents,
            arrived_ms=now_ms,
            due_ms=now_ms,
            updated_ms=now_ms,
            closing=True,
            label=position.label,
            comment=position.comment,
        )

    def _trail_points(self, position: Position, stop: int | None) -> int | None:
        if stop is None:
            return None
        price = closing_price(position.side, self._book.quotes[position.symbol])
        return max(position.side.sign * (price - stop), 1)


def levels_of(order: Order, position: Position, digits: int) -> tuple[int | None, int | None]:
    """Return the levels that an order asks for its position: absolute, or counted from the entry."""
    tick = 10 ** (5 - digits)
    entry = round(position.entry_points / tick) * tick
    sign = position.side.sign
    stop, target = order.stop_points, order.target_points
    if order.relative_stop_points is not None:
        stop = entry - sign * order.relative_stop_points
    if order.relative_target_points is not None:
        target = entry + sign * order.relative_target_points
    return stop, target


def empty_position(order: Order) -> Position:
    """Return the position of an order that has not filled."""
    return Position(
        position_id=order.position_id,
        symbol=order.symbol,
        side=order.side,
        status=PositionStatus.CREATED,
        opening_order_id=order.order_id,
        opened_volume_cents=0,
        volume_cents=0,
        entry_points=0,
        opened_ms=order.arrived_ms,
        updated_ms=order.arrived_ms,
        label=order.label,
        comment=order.comment,
    )


def _progressed(order: Order, price: int, volume_cents: int, now_ms: int) -> Order:
    """Return an order after a fill."""
    executed = order.executed_cents + volume_cents
    return replace(
        order,
        status=OrderStatus.FILLED if executed >= order.volume_cents else OrderStatus.ACCEPTED,
        executed_cents=executed,
        execution_points=average_points(
            order.execution_points or 0, order.executed_cents, price, volume_cents
        ),
        updated_ms=now_ms,
    )


def _told(filled: Order, position: Position, deal: Deal) -> Execution:
    complete = filled.status is OrderStatus.FILLED
    kind = ExecutionKind.FILLED if complete else ExecutionKind.PARTIALLY_FILLED
    by_server = filled.kind is OrderKind.STOP_LOSS_TAKE_PROFIT or filled.is_stop_out
    return Execution(kind, deal.executed_ms, filled, position, deal, by_server=by_server)
