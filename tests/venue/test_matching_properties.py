"""What holds for the matching core whatever is asked of it: prices, volumes, money, the same bytes again."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.venue.core import BALANCE_CENTS, T0, a_core, executions, reborn
from venue.book import CONTRACTS
from venue.calendar import HOUR_MS
from venue.calm import Calm
from venue.liquidity import Liquidity
from venue.matching import Matching
from venue.money import Quote
from venue.records import CloseReason, Deal, Execution, Order, OrderKind, RefusedError, Side, TimeInForce
from venue.rules import OrderChange, OrderRequest
from venue.terms import AccountKind, Charges, Swap, Tier
from venue.ticks import tick_points

SLIPPAGE_TICKS = 3
SYMBOLS = ("EURUSD", "USDJPY", "XAUUSD")
CHARGES = {
    "EURUSD": Charges(swap=Swap(Decimal("-0.7"), Decimal("0.3")), tiers=(Tier(5_000, 100), Tier(20_000, 30))),
    "XAUUSD": Charges(swap=Swap(Decimal(-25), Decimal(10)), min_commission=Decimal("0.5")),
}
Action = tuple[str, Any]

ticks = st.integers(1, 60)
actions = st.one_of(
    st.tuples(
        st.just("quote"), st.tuples(st.sampled_from(SYMBOLS), st.integers(-80, 80), st.integers(1, 12))
    ),
    st.tuples(
        st.just("order"),
        st.fixed_dictionaries(
            {
                "symbol": st.sampled_from(SYMBOLS),
                "side": st.sampled_from(Side),
                "steps": st.integers(1, 6),
                "kind": st.sampled_from([kind for kind in OrderKind if kind != "STOP_LOSS_TAKE_PROFIT"]),
                "offset": ticks,
                "stop": st.none() | ticks,
                "target": st.none() | ticks,
                "trailing": st.booleans(),
                "how": st.none() | st.sampled_from([TimeInForce.FILL_OR_KILL, TimeInForce.GOOD_TILL_CANCEL]),
            }
        ),
    ),
    st.tuples(st.sampled_from(["close", "cancel", "change", "amend"]), st.tuples(st.integers(0, 9), ticks)),
    st.tuples(st.just("night"), st.none()),
)
plans = st.lists(actions, min_size=5, max_size=40)


@dataclass
class Run:
    """A plan carried out: what happened, at which quote."""

    core: Matching
    now_ms: int = T0
    told: list[tuple[Execution, Quote]] = field(default_factory=list)
    records: list[object] = field(default_factory=list)

    def quote(self, symbol: str, move: int = 0, spread: int = 3) -> None:
        tick = tick_points(CONTRACTS[symbol])
        self.now_ms += 500
        bid = self.core.quotes[symbol].bid + move * tick
        quote = Quote(self.now_ms, bid, bid + spread * tick)
        happened = self.core.on_quote(symbol, *quote)
        for each in executions(happened):
            self.told.append((each, self.core.quotes[each.order.symbol]))

    def act(self, action: Action) -> None:
        kind, how = action
        try:
            getattr(self, f"_{kind}")(how)
        except RefusedError:
            return

    def _quote(self, how: tuple[str, int, int]) -> None:
        self.quote(*how)

    def _night(self, _: None) -> None:
        self.now_ms += 20 * HOUR_MS
        for symbol in SYMBOLS:
            self.quote(symbol)

    def _order(self, how: dict[str, Any]) -> None:
        symbol, side, kind = how["symbol"], how["side"], how["kind"]
        tick, quote = tick_points(CONTRACTS[symbol]), self.core.quotes[symbol]
        market = quote.ask if side is Side.BUY else quote.bid
        away = side.sign * how["offset"] * tick
        stops = kind in (OrderKind.STOP, OrderKind.STOP_LIMIT)
        ranged = kind in (OrderKind.MARKET_RANGE, OrderKind.STOP_LIMIT)
        self.core.submit(
            OrderRequest(
                symbol=symbol,
                side=side,
                volume_cents=how["steps"] * int(CONTRACTS[symbol].step_volume_units * 100),
                kind=kind,
                limit_points=market - away if kind is OrderKind.LIMIT else None,
                trigger_points=market + away if stops else None,
                base_points=market if kind is OrderKind.MARKET_RANGE else None,
                range_points=how["offset"] * tick if ranged else None,
                relative_stop_points=how["stop"] and how["stop"] * tick,
                relative_target_points=how["target"] and how["target"] * tick,
                trailing=how["trailing"],
                time_in_force=how["how"],
            ),
            self.now_ms,
            market_open=True,
        )

    def _close(self, how: tuple[int, int]) -> None:
        positions = list(self.core.positions.values())
        if positions:
            position = positions[how[0] % len(positions)]
            step = int(CONTRACTS[position.symbol].step_volume_units * 100)
            volume = min(position.volume_cents, how[1] % 4 * step + step)
            self.core.close(position.position_id, volume, self.now_ms, market_open=True)

    def _cancel(self, how: tuple[int, int]) -> None:
        orders = list(self.core.orders)
        if orders:
            self.core.cancel(orders[how[0] % len(orders)], self.now_ms)

    def _change(self, how: tuple[int, int]) -> None:
        orders = list(self.core.orders.values())
        if orders:
            order = orders[how[0] % len(orders)]
            distance = how[1] * tick_points(CONTRACTS[order.symbol])
            self.core.amend_order(order.order_id, OrderChange(relative_stop_points=distance), self.now_ms)

    def _amend(self, how: tuple[int, int]) -> None:
        positions = list(self.core.positions.values())
        if positions:
            position = positions[how[0] % len(positions)]
            quote = self.core.quotes[position.symbol]
            price = quote.bid if position.side is Side.BUY else quote.ask
            stop = price - position.side.sign * how[1] * tick_points(CONTRACTS[position.symbol])
            self.core.amend(position.position_id, stop, None, self.now_ms, trailing=how[0] % 2 == 0)


class Restless(Calm):
    """Looks at every quote as if it could change something."""

    def holds(self, symbol: str, quote: Quote) -> bool:
        return False


def carried_out(
    plan: list[Action],
    seed: int,
    kind: AccountKind,
    *,
    dies_after: int | None = None,
    restless: bool = False,
) -> Run:
    """Carry out a plan; perhaps with the process dying once and coming back from its books."""
    liquidity = Liquidity(seed, slippage_ticks_max=SLIPPAGE_TICKS, partial_fraction=0.4)
    terms = {"kind": kind, "charges": CHARGES, "conversion_fee": Decimal("0.007")}
    run = Run(a_core(liquidity, deposit_cents=BALANCE_CENTS, **terms))
    if restless:
        run.core._calm = Restless(run.core.terms, run.core.book, run.core.valuer)
    for number, action in enumerate(plan):
        if number == dies_after:
            run.records = run.core.take_changes()
            run.core.book.note(*run.records)
            run.core = reborn(run.core, liquidity)
        run.act(action)
    run.records += run.core.take_changes()
    return run


@settings(max_examples=60, deadline=None)
@given(plan=plans, seed=st.integers(0, 2**32), kind=st.sampled_from(AccountKind))
def test_no_fill_lies_outside_its_quote_and_the_slippage(
    plan: list[Action], seed: int, kind: AccountKind
) -> None:
    """The price of a fill is the quote's own side, worse by the slippage's bound at most, never better."""
    for told, quote in carried_out(plan, seed, kind).told:
        if told.deal is None:
            continue
        order, side = told.order, told.order.side
        worse = side.sign * (told.deal.price_points - (quote.ask if side is Side.BUY else quote.bid))
        assert 0 <= worse <= SLIPPAGE_TICKS * tick_points(CONTRACTS[order.symbol])
        if order.kind is OrderKind.LIMIT:
            assert worse == 0
            assert side.sign * (told.deal.price_points - (order.limit_points or 0)) <= 0
        if told.position.close_reason is CloseReason.STOP and told.position.stop_points is not None:
            reached = told.deal.price_points - told.position.stop_points
            assert told.position.side.sign * reached <= 0 or order.is_triggered


@settings(max_examples=60, deadline=None)
@given(plan=plans, seed=st.integers(0, 2**32), kind=st.sampled_from(AccountKind))
def test_volume_and_money_are_conserved(plan: list[Action], seed: int, kind: AccountKind) -> None:
    """What was bought and not sold is open; what the balance holds is the deposit and every deal's result."""
    run = carried_out(plan, seed, kind)
    deals = [record for record in run.records if isinstance(record, Deal)]
    net: dict[str, int] = defaultdict(int)
    of_order: dict[int, int] = defaultdict(int)
    for deal in deals:
        net[deal.symbol] += deal.side.sign * deal.volume_cents
        of_order[deal.order_id] += deal.volume_cents
    for position in run.core.positions.values():
        net[position.symbol] -= position.side.sign * position.volume_cents
    assert not any(net.values())
    orders = {record.order_id: record for record in run.records if isinstance(record, Order)}
    for order in orders.values():
        if order.kind is not OrderKind.STOP_LOSS_TAKE_PROFIT:
            assert order.executed_cents == of_order[order.order_id] <= order.volume_cents

    closing = [deal for deal in deals if deal.gross_cents is not None]
    results = [
        (deal.gross_cents or 0)
        + (deal.swap_cents or 0)
        + (deal.round_trip_commission_cents or 0)
        + (deal.conversion_fee_cents or 0)
        for deal in closing
    ]
    assert run.core.balance_cents == BALANCE_CENTS + sum(results)
    open_commission = sum(position.commission_cents for position in run.core.positions.values())
    round_trips = sum(deal.round_trip_commission_cents or 0 for deal in closing)
    assert sum(deal.commission_cents for deal in deals) == round_trips + open_commission
    assert run.core.equity_cents() == run.core.balance_cents + sum(
        value.net_cents for value in run.core.valuations()
    )


@settings(max_examples=60, deadline=None)
@given(plan=plans, seed=st.integers(0, 2**32), kind=st.sampled_from(AccountKind), data=st.data())
def test_same_seed_and_actions_give_the_same_bytes_even_over_a_restart(
    plan: list[Action], seed: int, kind: AccountKind, data: st.DataObject
) -> None:
    """Nothing that decides is outside the books: who dies anywhere goes on as if nothing had been."""
    first = carried_out(plan, seed, kind)
    dies_after = data.draw(st.integers(1, len(plan)))
    again = carried_out(plan, seed, kind, dies_after=dies_after)
    assert orjson.dumps(first.records) == orjson.dumps(again.records)


@settings(max_examples=100, deadline=None)
@given(plan=plans, seed=st.integers(0, 2**32), kind=st.sampled_from(AccountKind))
def test_quotes_that_are_passed_over_change_nothing(plan: list[Action], seed: int, kind: AccountKind) -> None:
    """The quick look only saves time: who looks at every quote comes to the same bytes."""
    quick, slow = (carried_out(plan, seed, kind, restless=restless) for restless in (False, True))
    assert orjson.dumps(quick.records) == orjson.dumps(slow.records)


@settings(max_examples=30, deadline=None)
@given(plan=plans, seed=st.integers(0, 2**32))
def test_waiting_orders_and_protection_agree_with_the_positions(plan: list[Action], seed: int) -> None:
    """A protective order is as large as its position, and goes with it; what waits is unfinished."""
    core = carried_out(plan, seed, AccountKind.HEDGED).core
    assert set(core.protective) <= set(core.positions)
    for position_id, order in core.protective.items():
        position = core.positions[position_id]
        assert (order.volume_cents, order.side) == (position.volume_cents, position.side.opposite)
        assert (order.stop_points, order.target_points) == (position.stop_points, position.target_points)
    assert all(order.left_cents > 0 for order in core.orders.values())
    for position in core.positions.values():
        assert position.volume_cents > 0
        assert position.used_margin_cents > 0


@pytest.mark.parametrize("seed", [1, 2])
def test_draws_of_the_liquidity_are_even(seed: int) -> None:
    """Each slippage up to the bound is as likely as the others, and parts come as often as asked."""
    liquidity = Liquidity(seed, slippage_ticks_max=3, partial_fraction=0.25)
    slips = [liquidity.slippage_ticks(order, T0) for order in range(4_000)]
    assert all(abs(slips.count(ticks) / 4_000 - 0.25) < 0.04 for ticks in range(4))
    offers = [liquidity.offered_cents(order, T0, 1_000_000, 100_000) for order in range(4_000)]
    parts = [offer for offer in offers if offer < 1_000_000]
    assert abs(len(parts) / 4_000 - 0.25) < 0.04
    assert set(parts) == {steps * 100_000 for steps in range(1, 10)}
