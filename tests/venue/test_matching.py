"""The matching core: who fills when and at what price, what it costs, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.venue.core import BALANCE_CENTS, T0, a_core, a_request, opened, the_deal
from venue.book import CONTRACTS
from venue.records import CloseReason, Deal, ExecutionKind, PositionStatus, RefusedError, Side
from venue.rules import OrderRequest

MIRROR = 220_000  # points; EURUSD at half of it looks the same from both sides


# -- fills


def test_order_fills_at_the_first_quote_after_the_latency_on_its_side() -> None:
    """An order cannot trade on a price that was gone before it arrived."""
    core = a_core()
    core.submit(a_request(), T0, market_open=True)
    assert core.on_quote("EURUSD", T0 + 129, 110_100, 110_108) == ()
    assert core.on_quote("GBPUSD", T0 + 500, 127_000, 127_012) == ()
    filled = the_deal(core.on_quote("EURUSD", T0 + 600, 110_200, 110_208))
    assert (filled.price_points, filled.executed_ms) == (110_208, T0 + 600)
    core.submit(a_request(side=Side.SELL), T0 + 600, market_open=True)
    assert the_deal(core.on_quote("EURUSD", T0 + 900, 110_300, 110_308)).price_points == 110_300


def test_three_events_lead_from_the_request_to_a_protected_position() -> None:
    """Accepted, filled without levels, then the venue's own protective order: as at the real venue."""
    core = a_core()
    accepted = core.submit(
        a_request(relative_stop_points=100, relative_target_points=200), T0, market_open=True
    )
    assert [each.kind for each in accepted] == [ExecutionKind.ACCEPTED]
    assert accepted[0].position.status is PositionStatus.CREATED
    filled, protected = core.on_quote("EURUSD", T0 + 200, 110_000, 110_008)
    assert (filled.kind, filled.position.stop_points) == (ExecutionKind.FILLED, None)
    assert (protected.kind, protected.by_server) == (ExecutionKind.ACCEPTED, True)
    assert (protected.order.side, protected.order.closing) == (Side.SELL, True)
    assert (protected.position.stop_points, protected.position.target_points) == (109_908, 110_208)


def test_same_client_order_id_twice_opens_two_positions() -> None:
    """The venue does not protect a careless client, so that its books can convict it."""
    core = a_core()
    for _ in range(2):
        core.submit(a_request(client_order_id="TG-1"), T0, market_open=True)
    core.on_quote("EURUSD", T0 + 200, 110_000, 110_008)
    assert len(core.positions) == 2


# -- stops and targets


@pytest.mark.parametrize(
    ("side", "bid", "ask", "reason", "price"),
    [
        (Side.BUY, 109_908, 109_916, CloseReason.STOP, 109_908),
        (Side.BUY, 109_500, 109_508, CloseReason.STOP, 109_500),
        (Side.BUY, 110_208, 110_216, CloseReason.TARGET, 110_208),
        (Side.BUY, 110_900, 110_908, CloseReason.TARGET, 110_900),
        (Side.SELL, 110_092, 110_100, CloseReason.STOP, 110_100),
        (Side.SELL, 110_500, 110_508, CloseReason.STOP, 110_508),
        (Side.SELL, 109_792, 109_800, CloseReason.TARGET, 109_800),
    ],
)
def test_levels_are_watched_on_the_closing_side_and_gaps_fill_at_the_first_quote(
    side: Side, bid: int, ask: int, reason: CloseReason, price: int
) -> None:
    """A long closes on the bid, a short on the ask; beyond a gap only the quoted price is to be had."""
    core = a_core()
    opened(core, 110_000, 110_008, side=side, relative_stop_points=100, relative_target_points=200)
    (closed,) = core.on_quote("EURUSD", T0 + 2_000, bid, ask)
    assert (closed.position.close_reason, the_deal((closed,)).price_points) == (reason, price)
    assert closed.by_server
    assert not core.positions


def test_levels_are_not_reached_by_the_other_side_of_the_spread() -> None:
    """A wide ask does not stop a long, nor a low bid a short."""
    core = a_core()
    opened(core, 110_000, 110_008, relative_stop_points=100, relative_target_points=200)
    assert core.on_quote("EURUSD", T0 + 2_000, 109_909, 110_500) == ()


# -- money


quotes = st.integers(min_value=100_000, max_value=119_000)
volumes = st.integers(min_value=1, max_value=200).map(lambda steps: steps * 100_000)


@given(entry=quotes, leave=quotes, spread=st.integers(1, 50), volume=volumes)
def test_winning_short_earns_what_the_mirrored_long_earns(
    entry: int, leave: int, spread: int, volume: int
) -> None:
    """Nothing in the venue may favour one direction."""
    results = []
    for side in (Side.BUY, Side.SELL):
        core = a_core(commission=False, leverage=1_000)
        for now, bid in ((T0 + 1_000, entry), (T0 + 2_000, leave)):
            ask = bid + spread
            low, high = (bid, ask) if side is Side.BUY else (MIRROR - ask, MIRROR - bid)
            if now == T0 + 1_000:
                opened(core, low, high, side=side, volume_cents=volume)
            else:
                (position,) = core.positions.values()
                core.close(position.position_id, volume, T0 + 1_000, market_open=True)
                results.append(the_deal(core.on_quote("EURUSD", now, low, high)).gross_cents)
    assert results[0] == results[1]


@given(
    trades=st.lists(
        st.tuples(
            st.sampled_from(["EURUSD", "USDJPY", "USDCHF", "XAUUSD"]),
            st.sampled_from(list(Side)),
            st.integers(-500, 500),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_balance_is_the_deposit_and_every_deal_and_costs_never_raise_it(
    trades: list[tuple[str, Side, int]],
) -> None:
    """Money neither appears nor vanishes: each closing deal says what moved, and ends where it says."""
    with_costs, without = a_core(), a_core(commission=False)
    for core in (with_costs, without):
        now = T0
        for symbol, side, move in trades:
            quote, now = core.quotes[symbol], now + 10_000
            tick = int(CONTRACTS[symbol].tick * 100_000)
            volume = int(CONTRACTS[symbol].min_volume_units * 100)
            core.submit(OrderRequest(symbol, side, volume), now, market_open=True)
            core.on_quote(symbol, now + 1_000, quote.bid, quote.ask)
            (position,) = core.positions.values()
            core.close(position.position_id, volume, now + 1_000, market_open=True)
            core.on_quote(symbol, now + 2_000, quote.bid + move * tick, quote.ask + move * tick)
        deals = [each for each in core.take_changes() if isinstance(each, Deal)]
        closing = [deal for deal in deals if deal.gross_cents is not None]
        net = [
            (deal.gross_cents or 0) + (deal.swap_cents or 0) + (deal.round_trip_commission_cents or 0)
            for deal in closing
        ]
        assert core.balance_cents == BALANCE_CENTS + sum(net)
        assert [deal.balance_cents for deal in closing][-1] == core.balance_cents
        halves = sum(deal.commission_cents for deal in deals)
        assert halves == sum(deal.round_trip_commission_cents or 0 for deal in closing)
    assert with_costs.balance_cents < without.balance_cents


def test_result_in_yen_is_worth_fewer_dollars_when_it_is_a_gain() -> None:
    """The conversion takes the worse side: a gain buys dollars at the ask, a loss at the bid."""
    core = a_core(commission=False)
    opened(core, 15_000_000, 15_001_000, symbol="USDJPY", volume_cents=10_000_000)
    (position,) = core.positions
    core.close(position, 10_000_000, T0 + 1_000, market_open=True)
    deal = the_deal(core.on_quote("USDJPY", T0 + 3_000, 15_101_000, 15_102_000))
    assert deal.gross_cents == round(100_000 * 1.00 / 151.02 * 100)


def test_gold_commission_is_a_percentage_of_value() -> None:
    """Ten ounces at 2,900.30 dollars cost 0.007 percent a side, rounded up to the cent."""
    core = a_core()
    filled = opened(core, 290_000_000, 290_030_000, symbol="XAUUSD", volume_cents=1_000)
    assert the_deal(filled).commission_cents == -204


def test_margin_is_the_value_of_the_base_over_the_leverage() -> None:
    """Dollars are the base of USDJPY already; gold is worth its price."""
    core = a_core()
    assert core.valuer.margin_cents("USDJPY", 7_500_000) == 75_000
    assert core.valuer.margin_cents("XAUUSD", 1_000) == 29_003
    assert core.valuer.margin_cents("EURUSD", 5_000_000) == 55_002


def test_partial_close_keeps_the_rest_protected_with_its_share_of_costs() -> None:
    """What is left open is a position like any other, and its protective order shrinks with it."""
    core = a_core()
    opened(core, 110_000, 110_008, relative_stop_points=100)
    (position_id,) = core.positions
    core.close(position_id, 2_000_000, T0 + 1_000, market_open=True)
    closed, shrunk = core.on_quote("EURUSD", T0 + 2_000, 110_050, 110_058)
    assert (closed.position.volume_cents, shrunk.order.volume_cents) == (3_000_000, 3_000_000)
    assert (shrunk.kind, shrunk.by_server) == (ExecutionKind.REPLACED, True)
    assert core.positions[position_id].commission_cents == -75
    assert core.positions[position_id].stop_points == 109_908


# -- refusals


@pytest.mark.parametrize(
    ("fields", "code", "said"),
    [
        ({"volume_cents": 0}, "TRADING_BAD_VOLUME", "is smaller than minimum allowed volume = 0.01."),
        ({"volume_cents": 150_000}, "TRADING_BAD_VOLUME", "not a multiple"),
        ({"volume_cents": 10**12}, "TRADING_BAD_VOLUME", "is bigger than maximum allowed volume = 1000.00"),
        ({"relative_stop_points": 0}, "TRADING_BAD_STOPS", "SL"),
        ({"symbol": "USDJPY", "relative_target_points": 150}, "TRADING_BAD_STOPS", "multiple of 100"),
        ({"relative_stop_points": 110_000}, "TRADING_BAD_STOPS", "as large as the price"),
        ({"symbol": "EURGBP"}, "SYMBOL_NOT_FOUND", "EURGBP"),
        ({"volume_cents": 100_000_000}, "NOT_ENOUGH_MONEY", "margin"),
        ({"label": "x" * 101}, "INVALID_REQUEST", "label"),
    ],
)
def test_order_that_breaks_a_rule_is_refused_and_leaves_nothing(
    fields: dict[str, object], code: str, said: str
) -> None:
    """A refusal has a code to act on, words to read, and no other effect."""
    core = a_core()
    core.take_changes()
    with pytest.raises(RefusedError, match=said) as refused:
        core.submit(a_request(**fields), T0, market_open=True)
    assert refused.value.code == code
    assert (core.orders, core.take_changes()) == ({}, [])


def test_closed_market_refuses_orders() -> None:
    """An order on Saturday would fill at Sunday's gap."""
    with pytest.raises(RefusedError, match="MARKET_CLOSED"):
        a_core().submit(a_request(), T0, market_open=False)


def test_waiting_orders_hold_their_margin() -> None:
    """Two orders in a row cannot spend the same free margin."""
    core = a_core()
    core.submit(a_request(volume_cents=50_000_000), T0, market_open=True)
    with pytest.raises(RefusedError, match="NOT_ENOUGH_MONEY"):
        core.submit(a_request(volume_cents=50_000_000), T0, market_open=True)


def test_amending_one_level_removes_the_other() -> None:
    """As at the real venue: who names the stop alone loses the target."""
    core = a_core()
    opened(core, 110_000, 110_008, relative_stop_points=100, relative_target_points=200)
    (position_id,) = core.positions
    (replaced,) = core.amend(position_id, 109_950, None, T0 + 1_500)
    assert (replaced.kind, replaced.by_server) == (ExecutionKind.REPLACED, False)
    assert (replaced.position.stop_points, replaced.position.target_points) == (109_950, None)


@pytest.mark.parametrize(
    ("side", "stop", "target", "said"),
    [
        (Side.BUY, 110_001, None, "New SL for BUY position should be <= current BID"),
        (Side.BUY, None, 109_999, r"New TP for BUY .* >= .* current BID: 1.10000, TP: 1.09999"),
        (Side.SELL, 110_007, None, "New SL for SELL position should be >= current ASK"),
        (Side.SELL, None, 110_009, "New TP for SELL position should be <= current ASK"),
        (Side.BUY, None, None, "Nothing to amend."),
    ],
)
def test_amendment_that_makes_no_sense_is_refused(
    side: Side, stop: int | None, target: int | None, said: str
) -> None:
    """A level that would trigger at once is a mistake, not a wish."""
    core = a_core()
    opened(core, 110_000, 110_008, side=side)
    with pytest.raises(RefusedError, match=said):
        core.amend(next(iter(core.positions)), stop, target, T0 + 1_500)


def test_position_with_a_closing_order_under_way_is_not_touched_again() -> None:
    """A second close would meet a position that is gone."""
    core = a_core()
    opened(core, 110_000, 110_008)
    (position_id,) = core.positions
    core.close(position_id, 5_000_000, T0 + 1_000, market_open=True)
    with pytest.raises(RefusedError, match="PENDING_EXECUTION"):
        core.close(position_id, 5_000_000, T0 + 1_000, market_open=True)


def test_close_that_comes_after_the_stop_is_rejected() -> None:
    """Stop and close race within one quote: the stop was there first, and nothing is sold twice."""
    core = a_core()
    opened(core, 110_000, 110_008, relative_stop_points=100)
    (position_id,) = core.positions
    core.close(position_id, 5_000_000, T0 + 1_000, market_open=True)
    stopped, rejected = core.on_quote("EURUSD", T0 + 2_000, 109_000, 109_008)
    assert stopped.position.close_reason is CloseReason.STOP
    assert (rejected.kind, rejected.error_code) == (ExecutionKind.REJECTED, "POSITION_NOT_OPEN")


def test_unknown_position_is_named_in_the_refusal() -> None:
    """The words are those of the real venue, so that a client's parser is tested too."""
    with pytest.raises(RefusedError, match="Position not found with id 12"):
        a_core().amend(12, 109_000, None, T0)
