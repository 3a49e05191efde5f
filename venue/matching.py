"""The matching core: one account, its orders and positions, against a run of quotes. Pure.

The caller says what time it is and which quote comes; every method returns what happened, and
`take_changes` the records to be written. An order that takes the market's price fills at the first quote
of its symbol that comes `latency_ms` or more after it arrived, on its side of the spread; a limit, a stop
or a target at the first quote that reaches it, at that quote's price: after a gap this is worse or better
than the level. How much of it fills, and how much worse, is for `venue.liquidity` to say.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from venue.calm import Calm
from venue.intake import Intake
from venue.liquidity import Liquidity
from venue.margin_watch import MarginWatch
from venue.money import CENTS, Quote
from venue.nights import Nights
from venue.open_book import OpenBook
from venue.positions import Positions, ProtectionDelay
from venue.records import (
    BalanceChange,
    BalanceMoved,
    CloseReason,
    Execution,
    Happening,
    MarginCall,
    Order,
    OrderKind,
    OrderStatus,
    Position,
    Record,
    RefusedError,
    StopTrailed,
    TimeInForce,
    TriggerMethod,
)
from venue.rules import OrderChange, OrderRequest
from venue.terms import Terms
from venue.triggers import (
    Judgement,
    closing_price,
    is_at_or_beyond,
    judge,
    seen,
    slipped_price,
    trade_price,
)
from venue.valuation import Valuation, Valuer

NOTHING: tuple[Happening, ...] = ()


def at_once(now_ms: int) -> int | None:
    """Return how many ms after its fill, which is now, a protective order follows; None would be never."""
    return 0


class Matching:
    """The account and its open orders and positions."""

    def __init__(
        self,
        terms: Terms,
        *,
        liquidity: Liquidity | None = None,
        protection_delay_ms: ProtectionDelay = at_once,
    ) -> None:
        self.terms = terms
        self.book = OpenBook()
        self.valuer = Valuer(terms, self.book)
        self._liquidity = liquidity or Liquidity()
        self._positions = Positions(self.book, self.valuer, protection_delay_ms)
        self._intake = Intake(terms, self.book, self.valuer, self._positions)
        self._nights = Nights(terms, self.book, self.valuer)
        self._margin = MarginWatch(
            terms, self.book, self.valuer, self._intake, self._positions, self._price_of
        )
        self._calm = Calm(terms, self.book, self.valuer)
        self._due: tuple[tuple[int, int], int | None] = ((-1, 0), None)  # of which books, and when
        self._steps = {
            symbol: int(contract.step_volume_units * CENTS) for symbol, contract in terms.contracts.items()
        }
        self._ticks = {symbol: 10 ** (5 - contract.digits) for symbol, contract in terms.contracts.items()}

    # -- books ---------------------------------------------------------------------------------

    def restore(
        self,
        *,
        now_ms: int,
        orders: Iterable[Order],
        positions: Iterable[Position],
        margin_calls: Iterable[MarginCall],
        balance: BalanceChange,
        last_ids: tuple[int, int, int, int],
    ) -> None:
        """Take up the open part of the books again, with all done that was due by `now_ms`.

        `last_ids` are of orders, positions, deals, stops.
        """
        self._nights.restore(now_ms)
        self.book.restore(
            orders=orders,
            positions=positions,
            margin_calls=margin_calls,
            balance=balance,
            last_ids=last_ids,
        )

    def deposit(self, amount_cents: int, now_ms: int) -> BalanceMoved:
        """Put money into the account; a negative amount takes it out.

        Raises:
            RefusedError: more would be taken out than is free.
        """
        if amount_cents < 0:
            free = self.equity_cents() - self.used_margin_cents()
            if -amount_cents > min(free, self.book.balance_cents):
                raise RefusedError("NOT_ENOUGH_MONEY", f"Free margin {free / CENTS:.2f}")
        reason = "DEPOSIT" if amount_cents >= 0 else "WITHDRAW"
        change = self.book.move_balance(amount_cents, now_ms, reason)
        return BalanceMoved(now_ms, change, self.equity_cents())

    def take_changes(self) -> list[Record]:
        """Return the records that are new or changed since the last call."""
        return self.book.take_changes()

    @property
    def quotes(self) -> dict[str, Quote]:
        """The last quote of every symbol."""
        return self.book.quotes

    @property
    def orders(self) -> dict[int, Order]:
        """The clients' orders that wait."""
        return self.book.orders

    @property
    def positions(self) -> dict[int, Position]:
        """The open positions."""
        return self.book.positions

    @property
    def protective(self) -> dict[int, Order]:
        """The protective orders, by position."""
        return self.book.protective

    @property
    def balance_cents(self) -> int:
        """The balance."""
        return self.book.balance_cents

    @property
    def balance_version(self) -> int:
        """How often the balance has moved."""
        return self.book.balance_version

    @property
    def unprotected(self) -> list[Position]:
        """The open positions without a stop loss."""
        return [position for position in self.positions.values() if position.stop_points is None]

    # -- valuation -----------------------------------------------------------------------------

    def valuations(self) -> list[Valuation]:
        """Return every open position at the side that would close it now."""
        return self.valuer.valuations()

    def equity_cents(self) -> int:
        """Return the balance with the unrealised net result of every position."""
        return self.valuer.equity_cents()

    def used_margin_cents(self) -> int:
        """Return the margin of the open positions and of the orders that will open one."""
        return self.valuer.used_margin_cents()

    # -- requests ------------------------------------------------------------------------------

    def submit(self, request: OrderRequest, now_ms: int, *, market_open: bool) -> tuple[Execution, ...]:
        """Accept an order. A repeated client order id is accepted again, as at the real venue.

        Raises:
            RefusedError: the request breaks a rule; nothing happened. So for the next four.
        """
        return self._intake.submit(request, now_ms, market_open=market_open)

    def amend_order(self, order_id: int, change: OrderChange, now_ms: int) -> tuple[Execution, ...]:
        """Change an order that waits for its price; what is left out stays as it is."""
        return self._intake.amend_order(order_id, change, now_ms)

    def cancel(self, order_id: int, now_ms: int) -> tuple[Execution, ...]:
        """Take back an order that waits for its price."""
        return self._intake.cancel(order_id, now_ms)

    def close(
        self, position_id: int, volume_cents: int, now_ms: int, *, market_open: bool
    ) -> tuple[Execution, ...]:
        """Accept an order that closes a position, or a part of it, at the next quote."""
        return self._intake.close(position_id, volume_cents, now_ms, market_open=market_open)

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
        return self._intake.amend(
            position_id,
            stop_points,
            target_points,
            now_ms,
            trailing=trailing,
            trigger_method=trigger_method,
        )

    def set_margin_call(self, call_id: int, threshold_percent: float, now_ms: int) -> MarginCall:
        """Say at which margin level the client wants to be told.

        Raises:
            RefusedError: there is no such margin call, or the level makes no sense.
        """
        return self._margin.set_call(call_id, threshold_percent, now_ms)

    # -- time ----------------------------------------------------------------------------------

    def next_due_ms(self) -> int | None:
        """Return when something happens without a quote: a late protection, an expiry, the day's end."""
        books = self.book.version, self._nights.next_roll_ms
        if self._due[0] != books:
            self._due = books, self._first_due_ms()
        return self._due[1]

    def _first_due_ms(self) -> int | None:
        due = [self._nights.next_roll_ms] if self.positions and not self.terms.swap_free else []
        due += [at for each in self.positions.values() if (at := each.due_protection_ms) is not None]
        due += [at for each in self.orders.values() if (at := each.expires_ms) is not None]
        return min(due, default=None)

    def on_time(self, now_ms: int) -> tuple[Happening, ...]:
        """Do what is due by now without a quote."""
        happened: list[Happening] = []
        if now_ms >= self._nights.next_roll_ms:
            happened += self._nights.end(now_ms)
        due_ms = self.next_due_ms()
        if due_ms is None or now_ms < due_ms:
            return tuple(happened)
        for position in list(self.positions.values()):
            if position.due_protection_ms is not None and position.due_protection_ms <= now_ms:
                happened.append(
                    self._positions.protect(
                        position, position.due_stop_points, position.due_target_points, now_ms, by_server=True
                    )
                )
        for order in list(self.orders.values()):
            if order.expires_ms is not None and order.expires_ms <= now_ms:
                happened.append(self._positions.end(order, OrderStatus.EXPIRED, now_ms))
        return tuple(happened)

    # -- quotes --------------------------------------------------------------------------------

    def on_quote(self, symbol: str, time_ms: int, bid: int, ask: int) -> tuple[Happening, ...]:
        """Take a quote: what was due first, then stops and targets, then the orders that waited for it."""
        book, quote = self.book, Quote(time_ms, bid, ask)
        if not book.positions and not book.orders:
            book.quotes[symbol] = quote
            return NOTHING
        if self._calm.is_old():
            self._calm.look(self.next_due_ms())
        if self._calm.holds(symbol, quote):
            book.quotes[symbol] = quote
            return NOTHING
        happened = list(self.on_time(time_ms))  # at the last quote before
        book.quotes[symbol] = quote
        for position in book.of_symbol(symbol):
            happened += self._watch(position, quote)
        for order in list(book.orders.values()):
            if order.symbol == symbol and time_ms >= order.due_ms and order.order_id in book.orders:
                happened += self._meet(order, quote)
        happened += self._margin.look(time_ms)
        self._calm.look(self.next_due_ms())
        return tuple(happened)

    def _watch(self, position: Position, quote: Quote) -> list[Happening]:
        """Close a position whose level this quote reaches; else let its stop follow the price."""
        order = self.protective.get(position.position_id)
        if order is None:
            return []
        if position.stop_points is not None:
            watched = order if order.is_triggered else seen(order, position.stop_points, quote)
            if watched is not order:
                self.book.put_protective(watched)
                order = watched
            if order.is_triggered:
                return self._take(order, quote, CloseReason.STOP)
        price = closing_price(position.side, quote)
        if position.target_points is not None and is_at_or_beyond(
            position.side, price, position.target_points
        ):
            return self._take(order, quote, CloseReason.TARGET)
        if position.trailing:
            return self._trail(position, order, quote)
        return []

    def _trail(self, position: Position, order: Order, quote: Quote) -> list[Happening]:
        stop, distance, sign = position.stop_points, position.trail_points, position.side.sign
        if stop is None or distance is None:
            return []
        moved = closing_price(position.side, quote) - sign * distance
        if sign * (moved - stop) <= 0:
            return []
        order = replace(order, stop_points=moved, updated_ms=quote.time_ms)
        position = replace(position, stop_points=moved, updated_ms=quote.time_ms)
        self.book.put_protective(order)
        self.book.put_position(position)
        self.book.note_stops(position, quote.time_ms)
        return [StopTrailed(quote.time_ms, position, order)]

    def _meet(self, order: Order, quote: Quote) -> list[Happening]:
        """Let an order meet a quote of its symbol."""
        end = self._positions.end
        needs_position = order.closing or (order.joins and self._intake.is_hedged)
        if needs_position and order.position_id not in self.positions:
            return [end(order, OrderStatus.REJECTED, quote.time_ms, "POSITION_NOT_OPEN")]
        judgement, judged = judge(order, quote)
        if judged is not order:
            self.book.put_order(judged)
        if judgement is Judgement.WAITS:
            return []
        if judgement is Judgement.MISSES:
            if judged.kind is OrderKind.MARKET_RANGE:
                return [end(judged, OrderStatus.REJECTED, quote.time_ms, "TRADING_BAD_PRICES")]
            return [end(judged, OrderStatus.CANCELLED, quote.time_ms)]
        if judged.kind.is_pending and not judged.executed_cents:
            lacking = self._intake.lacking_money(judged.symbol, judged.left_cents, judged.side)
            if lacking is not None:
                return [end(judged, OrderStatus.REJECTED, quote.time_ms, lacking.code)]
        return self._take(judged, quote, CloseReason.CLIENT)

    def _take(self, order: Order, quote: Quote, reason: CloseReason) -> list[Happening]:
        """Fill as much of an order as this quote offers."""
        offered = self._liquidity.offered_cents(
            order.order_id, quote.time_ms, order.left_cents, self._steps[order.symbol]
        )
        if order.time_in_force is TimeInForce.FILL_OR_KILL and offered < order.left_cents:
            return [self._positions.end(order, OrderStatus.CANCELLED, quote.time_ms)]
        if reason is CloseReason.TARGET:
            price = trade_price(order.side, quote)
        else:
            price = self._price_of(order, quote.time_ms)
        happened = self._positions.fill(order, price, offered, quote.time_ms, reason)
        rest = self.orders.get(order.order_id)
        if rest is not None and rest.time_in_force is TimeInForce.IMMEDIATE_OR_CANCEL:
            happened.append(self._positions.end(rest, OrderStatus.CANCELLED, quote.time_ms))
        return happened

    def _price_of(self, order: Order, now_ms: int) -> int:
        """Return the price at which an order that takes any would fill now."""
        slippage = self._liquidity.slippage_ticks(order.order_id, now_ms)
        return slipped_price(order, self.quotes[order.symbol], slippage * self._ticks[order.symbol])
