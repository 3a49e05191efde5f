"""A slice's decisions: locks, slots, sizes, and that the same streams give the same decisions."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.executor.control import Control, ControlState
from services.executor.decisions import decide_slice
from services.executor.reservations import Ledger, after_execution
from services.executor.state import ExecutorState
from shared import messages as m
from shared.errors import UnavailableError
from tests.executor.builders import (
    CLOSE,
    INPUTS,
    POLICY,
    a_position,
    a_quote,
    a_slice,
    an_account,
    an_execution,
    an_id,
    reasons,
)
from venue.book import CONTRACTS, SYMBOLS

D = Decimal
LATER = CLOSE + timedelta(minutes=5)


def decided(
    signals: list[m.SignalEmitted],
    account: m.AccountReported | None = None,
    state: ExecutorState | None = None,
) -> tuple[list[m.Message], ExecutorState]:
    return decide_slice(signals, account or an_account(), state or ExecutorState(), CONTRACTS, POLICY, INPUTS)


def after(state: ExecutorState, executions: Iterable[m.ExecutionReported]) -> ExecutorState:
    ledger = state.ledger
    for execution in executions:
        ledger = after_execution(ledger, execution, book="main")
    return state.model_copy(update={"ledger": ledger})


def test_request_carries_all_that_led_to_it() -> None:
    """Whoever opens the stream understands the order without looking anything up."""
    (request,), _ = decided(a_slice("EURUSD"))
    assert isinstance(request, m.OrderRequested)
    assert request.client_order_id == "TG-main-20250106T1005-EURUSD"
    assert request.valid_until == CLOSE + timedelta(seconds=20)
    assert request.volume_units == 47_000
    assert request.bound_by == "RISK"
    assert request.reserved_margin == D("517.04")  # 47,000 at 1.10008, 1:100, rounded up to the cent
    assert request.inputs == INPUTS
    assert request.meta.correlation_id == a_slice()[0].meta.correlation_id


def test_short_is_sized_at_the_bid() -> None:
    """A sale happens at the bid: its margin too."""
    (request,), _ = decided(a_slice("EURUSD", direction=m.Direction.SHORT))
    assert isinstance(request, m.OrderRequested)
    assert request.reserved_margin == D("517.00")


def test_flat_and_blocked_signals_produce_nothing() -> None:
    """They were recorded where they were made."""
    signals = a_slice("EURUSD", verdict=m.Verdict.BLOCK, reason="GUARD_BLOCKED")
    assert decided(signals)[0] == []


def test_decisions_come_in_symbol_order() -> None:
    """The order is part of the decision: who comes first gets the slot."""
    messages, _ = decided(a_slice(*SYMBOLS, risk_fraction=0.002))
    assert [each.symbol for each in messages if isinstance(each, m.OrderRequested)] == list(SYMBOLS)


@pytest.mark.parametrize("owner", [None, "somebody else", an_id("EURUSD", CLOSE)])
def test_position_of_any_owner_locks_its_symbol(owner: str | None) -> None:
    """At most one position a symbol: netting would merge them, hedging double the risk."""
    account = an_account(close=LATER, positions=(a_position(client_order_id=owner),))
    messages, _ = decided(a_slice("EURUSD", close=LATER), account)
    assert reasons(messages) == {"EURUSD": "ASSET_LOCKED"}


@pytest.mark.parametrize("kind", [None, "SENT", "ACCEPTED", "UNKNOWN", "PARTIALLY_FILLED"])
def test_request_that_is_not_settled_locks_its_symbol(kind: str | None) -> None:
    """It may still become a position, and an unknown one most of all."""
    _, state = decided(a_slice("EURUSD"))
    state = after(state, [an_execution(1, kind)] if kind else [])
    account = an_account(close=LATER, execution_number=1 if kind else 0)
    messages, _ = decided(a_slice("EURUSD", close=LATER), account, state)
    assert reasons(messages) == {"EURUSD": "ASSET_LOCKED"}


@pytest.mark.parametrize("kind", ["REJECTED", "EXPIRED", "REFUSED", "NOT_SENT"])
def test_request_that_ended_without_a_position_locks_nothing(kind: str) -> None:
    """Its slot and margin are free again, but its id is never used anew."""
    _, state = decided(a_slice("EURUSD"))
    state = after(state, [an_execution(1, kind)])
    account = an_account(close=LATER, execution_number=1)
    messages, _ = decided(a_slice("EURUSD", close=LATER), account, state)
    assert reasons(messages) == {"EURUSD": "REQUESTED"}
    assert [each.client_order_id for each in messages if isinstance(each, m.OrderRequested)] == [
        an_id(close=LATER)
    ]


def test_signals_of_one_slice_see_each_other() -> None:
    """Two slots are left: the first two in symbol order get them."""
    foreign = tuple(a_position("AUDUSD", number=number, used_margin=D(1)) for number in range(3))
    messages, _ = decided(a_slice(*SYMBOLS), an_account(positions=foreign))
    assert list(reasons(messages).values()) == ["REQUESTED"] * 2 + ["OPEN_POSITIONS"] * 3


def test_each_request_takes_half_of_the_margin_that_is_left() -> None:
    """What the first reserved is gone for the second, before any order was sent."""
    messages, _ = decided(a_slice("EURUSD", "GBPUSD"), an_account(free_margin=D(200)))
    first, second = (each for each in messages if isinstance(each, m.OrderRequested))
    assert (first.volume_units, first.bound_by) == (D(9_000), "FREE_MARGIN")
    assert first.reserved_margin + second.reserved_margin * 2 <= 200
    assert second.bound_by == "FREE_MARGIN"


def test_total_exposure_counts_positions_and_reserved_slots() -> None:
    """Twenty times equity is for all together, foreign positions too."""
    foreign = a_position("AUDUSD", used_margin=D(1_000))  # 100,000 at 1:100
    tight: dict[str, Any] = {"stop_distance": D("0.00030"), "target_distance": D("0.00030")}
    messages, _ = decided(a_slice("EURUSD", "USDJPY", **tight), an_account(positions=(foreign,)))
    requests = [each for each in messages if isinstance(each, m.OrderRequested)]
    assert [each.bound_by for each in requests] == ["POSITION_NOTIONAL"]
    assert reasons(messages)["USDJPY"] == "SPREAD"
    messages, _ = decided(
        a_slice("EURUSD", "GBPUSD", stop_distance=D("0.00040")),
        an_account(positions=(a_position("AUDUSD", used_margin=D(1_500)),)),
    )
    requests = [each for each in messages if isinstance(each, m.OrderRequested)]
    assert [each.bound_by for each in requests] == ["TOTAL_NOTIONAL"]
    assert reasons(messages)["GBPUSD"] == "BELOW_MIN_VOLUME"


def test_partly_filled_request_takes_one_slot_not_two() -> None:
    """Its position and its reservation are one and the same trade."""
    _, state = decided(a_slice("EURUSD"))
    state = after(state, [an_execution(1, "PARTIALLY_FILLED")])
    others = tuple(a_position("AUDUSD", number=number, used_margin=D(1)) for number in range(3))
    ours = a_position(number=100, client_order_id=an_id())
    account = an_account(close=LATER, execution_number=1, positions=(*others, ours))
    messages, _ = decided(a_slice("GBPUSD", close=LATER), account, state)
    assert reasons(messages) == {"GBPUSD": "REQUESTED"}


def test_known_slice_is_never_decided_anew() -> None:
    """After a restart from an older memory the same signals come again; the requests are out already."""
    messages, state = decided(a_slice("EURUSD", "GBPUSD"))
    assert len(messages) == 2
    assert decided(a_slice("EURUSD", "GBPUSD"), state=state) == ([], state)


def test_request_learnt_from_its_executions_is_adopted_and_never_decided_anew() -> None:
    """The server lost the request, the gateway's journal did not: its execution comes before the signal."""
    state = after(ExecutorState(), [an_execution(1, "SENT")])
    messages, state = decided(a_slice("EURUSD", "GBPUSD"), an_account(execution_number=1), state)
    assert reasons(messages) == {"GBPUSD": "NOTIONAL"}  # how much the other takes is not known
    state = after(state, [an_execution(2, "FILLED")])
    assert state.ledger.positions.keys() == {100}
    messages, _ = decided(a_slice("GBPUSD", close=LATER), an_account(close=LATER, execution_number=2), state)
    assert reasons(messages) == {"GBPUSD": "REQUESTED"}


def test_request_learnt_from_its_executions_locks_its_symbol_at_slices_before_its_own_too() -> None:
    """They are decided again and are late; of two orders in one symbol the one that is out comes first."""
    later = an_execution(1, "FILLED", close=LATER)
    messages, state = decided(a_slice("EURUSD"), state=after(ExecutorState(), [later]))
    assert reasons(messages) == {"EURUSD": "ASSET_LOCKED"}
    assert an_id(close=LATER) in state.ledger.requests
    assert decided(a_slice("EURUSD", close=LATER), an_account(close=LATER), state)[0] == []


def test_account_that_knows_more_than_was_read_is_waited_for() -> None:
    """Its execution may have freed or taken a slot: read it first."""
    with pytest.raises(UnavailableError, match="execution 3"):
        decided(a_slice("EURUSD"), an_account(execution_number=3))


HISTORIES = [
    [an_execution(1, "SENT"), an_execution(2, "FILLED")],
    [an_execution(1, "SENT"), an_execution(2, "REJECTED")],
    [an_execution(1, "UNKNOWN"), an_execution(2, "NOT_SENT"), an_execution(3, "FILLED")],
    [an_execution(1, "FILLED"), an_execution(2, "PROTECTED"), an_execution(3, "CLOSED")],
    [an_execution(1, "PARTIALLY_FILLED"), an_execution(2, "EXPIRED"), an_execution(3, "CLOSED")],
]


@pytest.mark.parametrize("history", HISTORIES)
@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_executions_after_the_account_change_no_decision(
    history: list[m.ExecutionReported], number: int
) -> None:
    """Live, an execution may overtake a slice; a replay reads them in another order. Both decide alike."""
    if number > len(history):
        return
    account = an_account(close=LATER, execution_number=number)
    _, state = decided(a_slice("EURUSD"))
    slow, fast = after(state, history[:number]), after(state, history)
    signals = a_slice(*SYMBOLS, close=LATER)
    messages, slow_after = decided(signals, account, slow)
    assert messages == decided(signals, account, fast)[0]
    held_after = after(slow_after, history[number:]).ledger.holding_as_of(3)
    assert held_after == decided(signals, account, fast)[1].ledger.holding_as_of(3)


@settings(max_examples=60, deadline=None)
@given(
    kinds=st.lists(st.sampled_from(list(m.ExecutionKind)), max_size=8),
    places=st.lists(st.sampled_from(SYMBOLS), min_size=8, max_size=8),
    seen=st.integers(0, 8),
)
def test_overtaking_executions_never_change_a_decision(
    kinds: list[m.ExecutionKind], places: list[str], seen: int
) -> None:
    """Whatever the venue reports, in whatever order."""
    _, state = decided(a_slice(*SYMBOLS))
    history = [
        an_execution(number, kind, symbol=symbol)
        for number, (kind, symbol) in enumerate(zip(kinds, places, strict=False), start=1)
    ]
    seen = min(seen, len(history))
    account = an_account(close=LATER, execution_number=seen)
    signals = a_slice(*SYMBOLS, close=LATER)
    slow = decided(signals, account, after(state, history[:seen]))[0]
    assert slow == decided(signals, account, after(state, history))[0]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"direction": m.Direction.FLAT}, "SIGNAL_INCOMPLETE"),
        ({"target_distance": D("0.000009")}, "SIGNAL_INCOMPLETE"),
        ({"target_distance": D("0.00001")}, "REQUESTED"),  # one tick is enough
        ({"target_distance": None}, "SIGNAL_INCOMPLETE"),
        ({"target_distance": D("0.000001")}, "SIGNAL_INCOMPLETE"),
        ({"sl_mult": None}, "SIGNAL_INCOMPLETE"),
        ({"stop_distance": None}, "SPREAD"),
        ({"risk_fraction": None}, "RISK_PER_TRADE"),
        ({"risk_fraction": 0.0}, "BELOW_MIN_VOLUME"),
    ],
)
def test_allowed_signal_that_lacks_something_is_refused(changes: dict[str, Any], reason: str) -> None:
    """Nothing is filled in: a signal without its numbers is a defect, not a trade."""
    assert reasons(decided(a_slice("EURUSD", **changes))[0]) == {"EURUSD": reason}


@pytest.mark.parametrize(
    ("changes", "detail"),
    [
        ({"direction": m.Direction.FLAT}, "it has no direction"),
        ({"sl_mult": None}, "it does not say how its stops were decoded"),
        ({"tp_mult": None}, "it does not say how its stops were decoded"),
        ({"target_distance": None}, "target_distance None: at least 0.00001"),
    ],
)
def test_refusal_of_an_incomplete_signal_says_what_is_missing(changes: dict[str, Any], detail: str) -> None:
    """Whoever trained or wired the models finds the defect from the stream alone."""
    (refused,), _ = decided(a_slice("EURUSD", **changes))
    assert isinstance(refused, m.EntryRefused)
    assert refused.detail == detail


def test_ids_of_decisions_follow_from_the_signal_kind_and_symbol() -> None:
    """A replay writes the same ids, and no two decisions of a slice share one."""
    signals = a_slice("EURUSD", "GBPUSD", risk_fraction=0.006)
    refusals, _ = decided(signals)
    requests, _ = decided(a_slice("EURUSD", "GBPUSD"))
    for kind, messages in ((m.EntryRefused, refusals), (m.OrderRequested, requests)):
        expected = [each.meta.effect(kind, each.symbol).message_id for each in signals[:2]]
        assert [each.meta.message_id for each in messages] == expected


def test_symbol_without_terms_is_refused() -> None:
    """Steps and commission are the venue's, never guessed."""
    messages, _ = decide_slice(a_slice("EURUSD"), an_account(), ExecutorState(), {}, POLICY, INPUTS)
    assert reasons(messages) == {"EURUSD": "CONTRACT_UNKNOWN"}


def test_account_in_euros_finds_its_rate_from_dollars() -> None:
    """Commissions are stated in dollars; without any rate nothing is sized."""
    quotes = {"EURUSD": a_quote(conversion=D("0.8"))}
    messages, _ = decided(a_slice("EURUSD"), an_account(currency="EUR", quotes=quotes))
    (request,) = messages
    assert isinstance(request, m.OrderRequested)
    assert request.volume_units == 59_000  # 50 / (0.001 * 0.8 + 2 * 0.000025 * 0.8) = 59,523
    yen = {"EURJPY": a_quote("USDJPY")}
    terms = {"EURJPY": CONTRACTS["USDJPY"].model_copy(update={"symbol": "EURJPY", "base_asset": "EUR"})}
    signal = a_slice("EURUSD")[0].model_copy(update={"symbol": "EURJPY", "stop_distance": D("0.1")})
    account = an_account(currency="EUR", quotes=yen)
    messages, _ = decide_slice([signal], account, ExecutorState(), terms, POLICY, INPUTS)
    assert reasons(messages) == {"EURJPY": "CONVERSION_UNKNOWN"}


def test_refusals_reserve_nothing() -> None:
    """Only what was requested holds a slot."""
    halted = ExecutorState(control=Control(state=ControlState.HALTED))
    _, state = decided(a_slice(*SYMBOLS), state=halted)
    assert state.ledger == Ledger(decided_until=CLOSE)
