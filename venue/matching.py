"""The matching core: one hedged account, its orders and positions, against a run of quotes. Pure.

The caller says what time it is and which quote comes; every method returns what happened, and
`take_changes` the records to be written. A market order fills at the first quote of its symbol that
comes `latency_ms` or more after it arrived, on its side of the spread. A stop or a target fills at the
first quote that reaches it, at that quote's price: after a gap this is worse or better than the level.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction

from shared.contracts import POINTS_PER_UNIT, Contract
from shared.errors import UnavailableError
from venue.money import CENTS, Quote, cost_cents, deposit_rate, result_in_quote, rounded_cents
from venue.records import (
    BalanceChange,
    CloseReason,
    Deal,
    Execution,
    ExecutionKind,
    Order,
    OrderKind,
    OrderStatus,
    Position,
    PositionStatus,
    Record,
    RefusedError,
    Side,
    StopChange,
)
from venue.rules import MarketRequest, check_distance, check_level, check_texts, check_volume

FIRST_ORDER_ID = 500_001
FIRST_POSITION_ID = 300_001
FIRST_DEAL_ID = 700_001

NOTHING: tuple[Execution, ...] = ()


@dataclass(frozen=True, slots=True)
class Terms:
    """The rules of the account that do not change while it lives."""

    contracts: Mapping[str, Contract]
    deposit_asset: str = "USD"
    leverage: int = 100
    latency_ms: int = 130
    commission: bool = True


@dataclass(frozen=True, slots=True)
class Valuation:
    """A position at the last quotes, in cents; net leaves out what closing will cost."""

    position_id: int
    gross_cents: int
    net_cents: int


def at_once(now_ms: int) -> int | None:
    """Return how many ms after its fill, which is now, a protective order follows; None would be never."""
    return 0


class Matching:
    """The account and its open orders and positions."""

    def __init__(self, terms: Terms, *, protection_delay_ms: Callable[[int], int | None] = at_once) -> None:
        self.terms = terms
        self.quotes: dict[str, Quote] = {}
        self.orders: dict[int, Order] = {}  # market orders that wait for their fill
        self.positions: dict[int, Position] = {}  # open ones
        self.protective: dict[int, Order] = {}  # by position
        self.balance_cents = 0
        self.balance_version = 0
        self._protection_delay_ms = protection_delay_ms
        self._changes: list[Record] = []
        self._next_order_id = FIRST_ORDER_ID
        self._next_position_id = FIRST_POSITION_ID
        self._next_deal_id = FIRST_DEAL_ID
        self._next_change_id = 1

    # -- books ---------------------------------------------------------------------------------

    def restore(
        self,
        *,
        orders: Iterable[Order],
        positions: Iterable[Position],
        balance: BalanceChange,
        last_ids: tuple[int, int, int, int],
    ) -> None:
        """Take up the open part of the books again; `last_ids` are of orders, positions, deals, stops."""
        for order in orders:
            if order.kind is OrderKind.MARKET:
                self.orders[order.order_id] = order
            else:
                self.protective[order.position_id] = order
        self.positions = {position.position_id: position for position in positions}
        self.balance_cents, self.balance_version = balance.balance_cents, balance.balance_version
        self._next_order_id = max(self._next_order_id, last_ids[0] + 1)
        self._next_position_id = max(self._next_position_id, last_ids[1] + 1)
        self._next_deal_id = max(self._next_deal_id, last_ids[2] + 1)
        self._next_change_id = max(self._next_change_id, last_ids[3] + 1)

    def deposit(self, amount_cents: int, now_ms: int) -> None:
        """Put money into the account."""
        self._move_balance(amount_cents, now_ms, "DEPOSIT")

    def take_changes(self) -> list[Record]:
        """Return the records that are new or changed since the last call."""
        changes, self._changes = self._changes, []
        return changes

    @property
    def unprotected(self) -> list[Position]:
        """The open positions without a stop loss."""
        return [position for position in self.positions.values() if position.stop_points is None]

    # -- valuation -----------------------------------------------------------------------------

    def valuations(self) -> list[Valuation]:
        """Return every open position at the side that would close it now."""
        return [self._value(position) for position in self.positions.values()]

    def equity_cents(self) -> int:
        """Return the balance with the unrealised net result of every position."""
        return self.balance_cents + sum(value.net_cents for value in self.valuations())

    def used_margin_cents(self) -> int:
        """Return the margin of the open positions and of the orders that will open one."""
        held = sum(position.used_margin_cents for position in self.positions.values())
        waiting = (order for order in self.orders.values() if not order.closing)
        return held + sum(self.margin_cents(order.symbol, order.volume_cents) for order in waiting)

    def margin_cents(self, symbol: str, volume_cents: int) -> int:
        """Return the margin that a position of this volume would bind now."""
        units = Fraction(volume_cents, CENTS)
        return cost_cents(units * self._base_rate(symbol) / self.terms.leverage)

    def _base_rate(self, symbol: str) -> Fraction:
        """Return deposit currency for one unit of the symbol's base, at the dearer side."""
        contract = self.terms.contracts[symbol]
        return self._rate(contract.base_asset, high=True)

    def _rate(self, asset: str, *, high: bool) -> Fraction:
        return deposit_rate(asset, self.terms.deposit_asset, self.terms.contracts, self.quotes, high=high)

    def _value(self, position: Position) -> Valuation:
        quote = self.quotes[position.symbol]
        price = quote.bid if position.side is Side.BUY else quote.ask
        gross, _ = self._result(position, price, position.volume_cents)
        net = gross + position.swap_cents + position.commission_cents
        return Valuation(position.position_id, gross, net)

    def _result(self, position: Position, exit_points: int, volume_cents: int) -> tuple[int, Fraction]:
        """Return the gross result in cents, and the rate: a gain at the lower side, a loss at the higher."""
        amount = result_in_quote(position.side, position.entry_points, exit_points, volume_cents)
        contract = self.terms.contracts[position.symbol]
        rate = self._rate(contract.quote_asset, high=amount < 0)
        return rounded_cents(amount * rate), rate

    def _commission_cents(self, symbol: str, price_points: int, volume_cents: int) -> int:
        """Return one side's commission, a negative number."""
        if not self.terms.commission:
            return 0
        contract = self.terms.contracts[symbol]
        rate = self._rate(contract.quote_asset, high=True)
        usd_rate = Decimal(rate.numerator) / Decimal(rate.denominator)
        price = Decimal(price_points) / POINTS_PER_UNIT
        per_unit = contract.commission_per_unit(price, usd_rate=usd_rate)
        return -cost_cents(Fraction(per_unit) * Fraction(volume_cents, CENTS))

    # -- requests ------------------------------------------------------------------------------

    def submit(self, request: MarketRequest, now_ms: int, *, market_open: bool) -> tuple[Execution, ...]:
        """Accept a market order. A repeated client order id is accepted again, as at the real venue.

        Raises:
            RefusedError: the request breaks a rule; nothing happened.
        """
        check_texts(request)
        contract = self.terms.contracts.get(request.symbol)
        if contract is None:
            raise RefusedError("SYMBOL_NOT_FOUND", f"Symbol not found: {request.symbol}")
        check_volume(contract, request.volume_cents)
        check_distance(contract, "SL", request.relative_stop_points)
        check_distance(contract, "TP", request.relative_target_points)
        self._check_market(request.symbol, market_open=market_open)
        self._check_reach(request)
        self._check_money(request)
        order = Order(
            order_id=self._take_order_id(),
            position_id=self._take_position_id(),
            symbol=request.symbol,
            side=request.side,
            kind=OrderKind.MARKET,
            status=OrderStatus.ACCEPTED,
            volume_cents=request.volume_cents,
            arrived_ms=now_ms,
            due_ms=now_ms + max(1, self.terms.latency_ms),
            updated_ms=now_ms,
            client_order_id=request.client_order_id,
            label=request.label,
            comment=request.comment,
            relative_stop_points=request.relative_stop_points,
            relative_target_points=request.relative_target_points,
        )
        return (self._accept(order, empty_position(order), now_ms),)

    def close(
        self, position_id: int, volume_cents: int, now_ms: int, *, market_open: bool
    ) -> tuple[Execution, ...]:
        """Accept an order that closes a position, or a part of it, at the next quote.

        Raises:
            RefusedError: the request breaks a rule; nothing happened.
        """
        position = self._free_position(position_id)
        if volume_cents != position.volume_cents:
            check_volume(self.terms.contracts[position.symbol], volume_cents)
        if volume_cents > position.volume_cents:
            raise RefusedError(
                "TRADING_BAD_VOLUME", f"Close volume {volume_cents} is bigger than the position's"
            )
        self._check_market(position.symbol, market_open=market_open)
        order = Order(
            order_id=self._take_order_id(),
            position_id=position_id,
            symbol=position.symbol,
            side=position.side.opposite,
            kind=OrderKind.MARKET,
            status=OrderStatus.ACCEPTED,
            volume_cents=volume_cents,
            arrived_ms=now_ms,
            due_ms=now_ms + max(1, self.terms.latency_ms),
            updated_ms=now_ms,
            closing=True,
            label=position.label,
            comment=position.comment,
        )
        return (self._accept(order, position, now_ms),)

    def amend(
        self, position_id: int, stop_points: int | None, target_points: int | None, now_ms: int
    ) -> tuple[Execution, ...]:
        """Set both levels of a position; a level left out is removed.

        Raises:
            RefusedError: the request breaks a rule; nothing happened.
        """
        position = self._free_position(position_id)
        if stop_points is None and target_points is None:
            raise RefusedError("INVALID_REQUEST", "Nothing to amend.")
        contract = self.terms.contracts[position.symbol]
        quote = self.quotes[position.symbol]
        check_level(contract, position.side, quote, "SL", stop_points)
        check_level(contract, position.side, quote, "TP", target_points)
        return (self._protect(position, stop_points, target_points, now_ms, by_server=False),)

    def _check_market(self, symbol: str, *, market_open: bool) -> None:
        if not market_open:
            raise RefusedError("MARKET_CLOSED", f"Market is closed for {symbol}")
        if symbol not in self.quotes:
            raise RefusedError("NO_QUOTES", f"No quotes for {symbol}")

    def _check_reach(self, request: MarketRequest) -> None:
        """Refuse a distance that would set a level at zero or below: it protects from nothing."""
        distances = (request.relative_stop_points or 0, request.relative_target_points or 0)
        if max(distances) >= self.quotes[request.symbol].bid:
            raise RefusedError("TRADING_BAD_STOPS", "A relative SL or TP is as large as the price itself")

    def _check_money(self, request: MarketRequest) -> None:
        try:
            required = self.margin_cents(request.symbol, request.volume_cents)
            free = self.equity_cents() - self.used_margin_cents()
        except UnavailableError as error:
            raise RefusedError("NO_QUOTES", str(error)) from error
        if required > free:
            raise RefusedError(
                "NOT_ENOUGH_MONEY", f"Required margin {required / CENTS:.2f}, free margin {free / CENTS:.2f}"
            )

    def _free_position(self, position_id: int) -> Position:
        position = self.positions.get(position_id)
        if position is None:
            raise RefusedError("POSITION_NOT_FOUND", f"Position not found with id {position_id}")
        if any(order.closing and order.position_id == position_id for order in self.orders.values()):
            raise RefusedError("PENDING_EXECUTION", f"Position {position_id} has an order under execution")
        return position

    # -- time and quotes -----------------------------------------------------------------------

    def due_protections_ms(self) -> list[int]:
        """Return when the protective orders come that are late."""
        due = (position.due_protection_ms for position in self.positions.values())
        return [due_ms for due_ms in due if due_ms is not None]

    def on_time(self, now_ms: int) -> tuple[Execution, ...]:
        """Set the protective orders that were late and are due by now."""
        late = [
            position
            for position in self.positions.values()
            if position.due_protection_ms is not None and position.due_protection_ms <= now_ms
        ]
        return tuple(
            self._protect(
                position, position.due_stop_points, position.due_target_points, now_ms, by_server=True
            )
            for position in late
        )

    def on_quote(self, symbol: str, time_ms: int, bid: int, ask: int) -> tuple[Execution, ...]:
        """Take a quote: stops and targets first, then the orders that waited for it."""
        quote = Quote(time_ms, bid, ask)
        self.quotes[symbol] = quote
        if not self.positions and not self.orders:
            return NOTHING
        happened = list(self.on_time(time_ms))
        for position in [each for each in self.positions.values() if each.symbol == symbol]:
            reason = _reached(position, quote)
            if reason is not None:
                order = self.protective[position.position_id]
                happened.extend(self._close(order, position, quote, reason))
        for order in [each for each in self.orders.values() if each.symbol == symbol]:
            if time_ms >= order.due_ms:
                happened.extend(self._fill(order, quote))
        return tuple(happened)

    def _accept(self, order: Order, position: Position, now_ms: int) -> Execution:
        self.orders[order.order_id] = order
        self._changes.append(order)
        return Execution(ExecutionKind.ACCEPTED, now_ms, order, position)

    def _fill(self, order: Order, quote: Quote) -> list[Execution]:
        del self.orders[order.order_id]
        if not order.closing:
            return self._open(order, quote)
        position = self.positions.get(order.position_id)
        if position is not None:
            return self._close(order, position, quote, CloseReason.CLIENT)
        rejected = replace(
            order, status=OrderStatus.REJECTED, updated_ms=quote.time_ms, error_code="POSITION_NOT_OPEN"
        )
        self._changes.append(rejected)
        gone = replace(empty_position(order), status=PositionStatus.CLOSED)
        return [
            Execution(ExecutionKind.REJECTED, quote.time_ms, rejected, gone, error_code=rejected.error_code)
        ]

    def _open(self, order: Order, quote: Quote) -> list[Execution]:
        now_ms, price = quote.time_ms, quote.ask if order.side is Side.BUY else quote.bid
        filled = _filled(order, price, now_ms)
        base_rate = float(self._base_rate(order.symbol))
        deal = self._deal(filled, price, now_ms, base_rate)
        position = replace(
            empty_position(order),
            status=PositionStatus.OPEN,
            opened_volume_cents=order.volume_cents,
            volume_cents=order.volume_cents,
            entry_points=price,
            opened_ms=now_ms,
            updated_ms=now_ms,
            commission_cents=deal.commission_cents,
            used_margin_cents=self.margin_cents(order.symbol, order.volume_cents),
            margin_rate=base_rate,
        )
        stop = _level(price, order.side, order.relative_stop_points, towards=-1)
        target = _level(price, order.side, order.relative_target_points, towards=1)
        wanted = stop is not None or target is not None
        delay_ms = self._protection_delay_ms(now_ms) if wanted else None
        if delay_ms:
            position = replace(
                position,
                due_protection_ms=now_ms + delay_ms,
                due_stop_points=stop,
                due_target_points=target,
            )
        self._put(position)
        self._changes += [filled, deal]
        happened = [Execution(ExecutionKind.FILLED, now_ms, filled, position, deal)]
        if delay_ms == 0:
            happened.append(self._protect(position, stop, target, now_ms, by_server=True))
        return happened

    def _protect(
        self, position: Position, stop: int | None, target: int | None, now_ms: int, *, by_server: bool
    ) -> Execution:
        """Give a position these levels, with a new protective order or in place of the old levels."""
        standing = self.protective.get(position.position_id)
        if standing is None:
            kind = ExecutionKind.ACCEPTED
            order = Order(
                order_id=self._take_order_id(),
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
                stop_points=stop,
                target_points=target,
            )
        else:
            kind = ExecutionKind.REPLACED
            order = replace(
                standing,
                volume_cents=position.volume_cents,
                stop_points=stop,
                target_points=target,
                updated_ms=now_ms,
            )
        position = replace(
            position,
            stop_points=stop,
            target_points=target,
            protective_order_id=order.order_id,
            due_protection_ms=None,
            due_stop_points=None,
            due_target_points=None,
            updated_ms=now_ms,
        )
        self.protective[position.position_id] = order
        self._changes.append(order)
        self._put(position)
        self._note_stops(position, now_ms)
        return Execution(kind, now_ms, order, position, by_server=by_server)

    def _close(self, order: Order, position: Position, quote: Quote, reason: CloseReason) -> list[Execution]:
        """Close a position, or the part that the order names, at this quote."""
        now_ms, price = quote.time_ms, quote.bid if position.side is Side.BUY else quote.ask
        volume = min(order.volume_cents, position.volume_cents)
        filled = _filled(order, price, now_ms, volume)
        share = Fraction(volume, position.volume_cents)
        opening_commission = round(position.commission_cents * share)
        swap = round(position.swap_cents * share)
        gross, rate = self._result(position, price, volume)
        deal = self._deal(filled, price, now_ms, float(self._base_rate(order.symbol)))
        costs = opening_commission + deal.commission_cents
        self._move_balance(gross + swap + costs, now_ms, f"CLOSE_BY_{reason}", deal.deal_id)
        deal = replace(
            deal,
            entry_points=position.entry_points,
            gross_cents=gross,
            swap_cents=swap,
            round_trip_commission_cents=costs,
            balance_cents=self.balance_cents,
            balance_version=self.balance_version,
            quote_to_deposit_rate=float(rate),
        )
        rest = replace(
            position,
            volume_cents=position.volume_cents - volume,
            commission_cents=position.commission_cents - opening_commission,
            swap_cents=position.swap_cents - swap,
            used_margin_cents=position.used_margin_cents - round(position.used_margin_cents * share),
            updated_ms=now_ms,
        )
        self._changes += [filled, deal]
        if rest.volume_cents > 0:
            return self._after_partial_close(filled, rest, deal, now_ms)
        return [self._after_full_close(filled, rest, deal, reason)]

    def _after_partial_close(self, filled: Order, rest: Position, deal: Deal, now_ms: int) -> list[Execution]:
        """Keep the rest, and shrink its protective order."""
        self._put(rest)
        happened = [Execution(ExecutionKind.FILLED, now_ms, filled, rest, deal)]
        if rest.position_id in self.protective:
            happened.append(self._protect(rest, rest.stop_points, rest.target_points, now_ms, by_server=True))
        return happened

    def _after_full_close(self, filled: Order, rest: Position, deal: Deal, reason: CloseReason) -> Execution:
        """Take the position out of the open ones, and its protective order with it."""
        now_ms = deal.executed_ms
        closed = replace(rest, status=PositionStatus.CLOSED, closed_ms=now_ms, close_reason=reason)
        protective = self.protective.pop(closed.position_id, None)
        if protective is not None and protective.order_id != filled.order_id:
            self._changes.append(replace(protective, status=OrderStatus.CANCELLED, updated_ms=now_ms))
        del self.positions[closed.position_id]
        self._changes.append(closed)
        by_server = filled.kind is OrderKind.STOP_LOSS_TAKE_PROFIT
        return Execution(ExecutionKind.FILLED, now_ms, filled, closed, deal, by_server=by_server)

    # -- records -------------------------------------------------------------------------------

    def _deal(self, filled: Order, price: int, now_ms: int, base_rate: float) -> Deal:
        deal_id, self._next_deal_id = self._next_deal_id, self._next_deal_id + 1
        return Deal(
            deal_id=deal_id,
            order_id=filled.order_id,
            position_id=filled.position_id,
            symbol=filled.symbol,
            side=filled.side,
            volume_cents=filled.executed_cents,
            price_points=price,
            created_ms=filled.arrived_ms,
            executed_ms=now_ms,
            commission_cents=self._commission_cents(filled.symbol, price, filled.executed_cents),
            margin_rate=base_rate,
            base_to_usd_rate=base_rate,
        )

    def _put(self, position: Position) -> None:
        self.positions[position.position_id] = position
        self._changes.append(position)

    def _note_stops(self, position: Position, now_ms: int) -> None:
        change = StopChange(
            self._next_change_id, position.position_id, now_ms, position.stop_points, position.target_points
        )
        self._next_change_id += 1
        self._changes.append(change)

    def _move_balance(self, delta_cents: int, now_ms: int, reason: str, deal_id: int | None = None) -> None:
        self.balance_cents += delta_cents
        self.balance_version += 1
        self._changes.append(
            BalanceChange(self.balance_version, now_ms, delta_cents, self.balance_cents, reason, deal_id)
        )

    def _take_order_id(self) -> int:
        self._next_order_id += 1
        return self._next_order_id - 1

    def _take_position_id(self) -> int:
        self._next_position_id += 1
        return self._next_position_id - 1


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


def _filled(order: Order, price: int, now_ms: int, volume_cents: int | None = None) -> Order:
    return replace(
        order,
        status=OrderStatus.FILLED,
        executed_cents=order.volume_cents if volume_cents is None else volume_cents,
        execution_points=price,
        updated_ms=now_ms,
    )


def _level(price: int, side: Side, distance: int | None, *, towards: int) -> int | None:
    return None if distance is None else price + towards * side.sign * distance


def _reached(position: Position, quote: Quote) -> CloseReason | None:
    """Return the level that this quote reaches, seen from the side that closes the position."""
    sign = position.side.sign
    price = quote.bid if sign > 0 else quote.ask
    if position.stop_points is not None and sign * (price - position.stop_points) <= 0:
        return CloseReason.STOP
    if position.target_points is not None and sign * (price - position.target_points) >= 0:
        return CloseReason.TARGET
    return None
