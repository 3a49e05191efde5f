"""The open part of an account's books: what stands, and the records that are still to be written. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from venue.money import Quote
from venue.records import (
    BalanceChange,
    MarginCall,
    Order,
    OrderKind,
    Position,
    PositionStatus,
    Record,
    StopChange,
)

FIRST_ORDER_ID = 500_001
FIRST_POSITION_ID = 300_001
FIRST_DEAL_ID = 700_001
MARGIN_CALL_PERCENTS = (100.0, 75.0, 60.0)  # assumed; a client may set others


class OpenBook:
    """Quotes, orders, positions and balance as they stand. Every change leaves its record."""

    def __init__(self) -> None:
        self.quotes: dict[str, Quote] = {}
        self.orders: dict[int, Order] = {}  # of clients, that wait
        self.positions: dict[int, Position] = {}  # open ones
        self.protective: dict[int, Order] = {}  # by position
        self.margin_calls = {
            number: MarginCall(number, percent, 0)
            for number, percent in enumerate(MARGIN_CALL_PERCENTS, start=1)
        }
        self.balance_cents = 0
        self.balance_version = 0
        self.version = 0  # changes with everything that stands
        self._changes: list[Record] = []
        self._next_order_id = FIRST_ORDER_ID
        self._next_position_id = FIRST_POSITION_ID
        self._next_deal_id = FIRST_DEAL_ID
        self._next_change_id = 1

    def restore(
        self,
        *,
        orders: Iterable[Order],
        positions: Iterable[Position],
        margin_calls: Iterable[MarginCall],
        balance: BalanceChange,
        last_ids: tuple[int, int, int, int],
    ) -> None:
        """Take up what stood; `last_ids` are of orders, positions, deals, stops."""
        for order in orders:
            if order.kind is OrderKind.STOP_LOSS_TAKE_PROFIT:
                self.protective[order.position_id] = order
            else:
                self.orders[order.order_id] = order
        self.positions = {position.position_id: position for position in positions}
        self.margin_calls |= {call.call_id: call for call in margin_calls}
        self.balance_cents, self.balance_version = balance.balance_cents, balance.balance_version
        self._next_order_id = max(self._next_order_id, last_ids[0] + 1)
        self._next_position_id = max(self._next_position_id, last_ids[1] + 1)
        self._next_deal_id = max(self._next_deal_id, last_ids[2] + 1)
        self._next_change_id = max(self._next_change_id, last_ids[3] + 1)
        self.version += 1

    def take_changes(self) -> list[Record]:
        """Return the records that are new or changed since the last call."""
        changes, self._changes = self._changes, []
        return changes

    def note(self, *records: Record) -> None:
        """Put records among those to be written."""
        self._changes += records
        self.version += 1

    # -- what stands ---------------------------------------------------------------------------

    def of_symbol(self, symbol: str) -> list[Position]:
        """Return a symbol's open positions, oldest first."""
        return [position for position in self.positions.values() if position.symbol == symbol]

    def orders_on(self, position_id: int) -> Iterator[Order]:
        """Yield the clients' orders that wait and belong to a position."""
        return (order for order in self.orders.values() if order.position_id == position_id)

    def put_order(self, order: Order) -> None:
        """Let a client's order stand as it is now."""
        self.orders[order.order_id] = order
        self.note(order)

    def end_order(self, order: Order) -> None:
        """Take an order that is done out of those that wait."""
        self.orders.pop(order.order_id, None)
        self.note(order)

    def put_protective(self, order: Order) -> None:
        """Let a position's protective order stand as it is now."""
        self.protective[order.position_id] = order
        self.note(order)

    def put_position(self, position: Position) -> None:
        """Let a position stand as it is now, or take it out if it is closed."""
        if position.status is PositionStatus.CLOSED:
            self.positions.pop(position.position_id, None)
        else:
            self.positions[position.position_id] = position
        self.note(position)

    def put_margin_call(self, call: MarginCall) -> None:
        """Let a margin call stand as it is now."""
        self.margin_calls[call.call_id] = call
        self.note(call)

    def note_stops(self, position: Position, now_ms: int) -> None:
        """Write down which levels a position has from now on."""
        number, self._next_change_id = self._next_change_id, self._next_change_id + 1
        self.note(
            StopChange(number, position.position_id, now_ms, position.stop_points, position.target_points)
        )

    def move_balance(
        self, delta_cents: int, now_ms: int, reason: str, deal_id: int | None = None
    ) -> BalanceChange:
        """Add to the balance."""
        self.balance_cents += delta_cents
        self.balance_version += 1
        change = BalanceChange(self.balance_version, now_ms, delta_cents, self.balance_cents, reason, deal_id)
        self.note(change)
        return change

    # -- numbers -------------------------------------------------------------------------------

    def take_order_id(self) -> int:
        """Return the next order's number."""
        self._next_order_id += 1
        return self._next_order_id - 1

    def take_position_id(self) -> int:
        """Return the next position's number."""
        self._next_position_id += 1
        return self._next_position_id - 1

    def take_deal_id(self) -> int:
        """Return the next deal's number."""
        self._next_deal_id += 1
        return self._next_deal_id - 1
