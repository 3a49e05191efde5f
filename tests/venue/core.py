"""The matching core of the tests: an account with its deposit and a quote of every symbol."""

from __future__ import annotations

from dataclasses import replace

from venue.book import CONTRACTS
from venue.liquidity import Liquidity
from venue.matching import Matching
from venue.records import (
    BalanceChange,
    Deal,
    Execution,
    ExecutionKind,
    Happening,
    MarginCall,
    Order,
    OrderStatus,
    Position,
    PositionStatus,
    Side,
    StopChange,
)
from venue.rules import OrderRequest
from venue.terms import Terms

T0 = 1_736_430_000_000  # Thursday 2025-01-09 13:40 UTC
BALANCE_CENTS = 1_000_000
QUOTES = (
    ("EURUSD", 109_996, 110_004),
    ("GBPUSD", 127_000, 127_012),
    ("USDJPY", 15_000_000, 15_001_000),
    ("USDCHF", 88_000, 88_013),
    ("XAUUSD", 290_000_000, 290_030_000),
)


def a_core(
    liquidity: Liquidity | None = None, *, deposit_cents: int = BALANCE_CENTS, **terms: object
) -> Matching:
    """Return an account with money in it, at T0."""
    core = Matching(replace(Terms(CONTRACTS), **terms), liquidity=liquidity)
    core.deposit(deposit_cents, T0)
    for symbol, bid, ask in QUOTES:
        core.on_quote(symbol, T0, bid, ask)
    return core


def reborn(core: Matching, liquidity: Liquidity | None = None, **terms: object) -> Matching:
    """Return the account as it comes back from its books, perhaps under other terms."""
    records = core.take_changes()
    orders = {each.order_id: each for each in records if isinstance(each, Order)}
    positions = {each.position_id: each for each in records if isinstance(each, Position)}
    again = Matching(replace(core.terms, **terms), liquidity=liquidity)
    again.quotes.update(core.quotes)
    again.restore(
        now_ms=max(quote.time_ms for quote in core.quotes.values()),
        orders=[each for each in orders.values() if each.status is OrderStatus.ACCEPTED],
        positions=[each for each in positions.values() if each.status is PositionStatus.OPEN],
        margin_calls=[each for each in records if isinstance(each, MarginCall)],
        balance=[each for each in records if isinstance(each, BalanceChange)][-1],
        last_ids=(
            max(orders, default=0),
            max([*positions, *(each.position_id for each in orders.values())], default=0),
            max((each.deal_id for each in records if isinstance(each, Deal)), default=0),
            max((each.change_id for each in records if isinstance(each, StopChange)), default=0),
        ),
    )
    return again


def a_request(**fields: object) -> OrderRequest:
    """Return a market order that buys half a lot of euros, but for `fields`."""
    return replace(OrderRequest("EURUSD", Side.BUY, 5_000_000), **fields)


def submitted(core: Matching, now_ms: int = T0, **fields: object) -> Order:
    """Return the order that a request became."""
    (accepted,) = core.submit(a_request(**fields), now_ms, market_open=True)
    assert accepted.kind is ExecutionKind.ACCEPTED
    return accepted.order


def opened(core: Matching, bid: int, ask: int, **fields: object) -> tuple[Happening, ...]:
    """Submit an order and let it fill at these prices."""
    order = submitted(core, **fields)
    return core.on_quote(order.symbol, T0 + 1_000, bid, ask)


def the_position(core: Matching) -> Position:
    """Return the only open position."""
    (position,) = core.positions.values()
    return position


def executions(happened: tuple[Happening, ...]) -> list[Execution]:
    """Return what happened to orders."""
    return [each for each in happened if isinstance(each, Execution)]


def kinds(happened: tuple[Happening, ...]) -> list[ExecutionKind]:
    """Return the kinds of what happened to orders."""
    return [each.kind for each in executions(happened)]


def the_deals(happened: tuple[Happening, ...]) -> list[Deal]:
    """Return the fills."""
    return [each.deal for each in executions(happened) if each.deal is not None]


def the_deal(happened: tuple[Happening, ...]) -> Deal:
    """Return the only fill."""
    (deal,) = the_deals(happened)
    return deal
