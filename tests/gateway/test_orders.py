"""The life of an order as a table, and the levels that protect it."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from services.gateway import orders
from services.gateway.orders import IllegalTransitionError, Status, next_status
from shared.errors import InputError
from shared.messages import Direction, ExecutionKind
from tests.gateway.builders import CLOSE
from venue.book import CONTRACTS

E, S, D = ExecutionKind, Status, Decimal
LONG, SHORT = Direction.LONG, Direction.SHORT


def after(*events: ExecutionKind, status: Status | None = S.SENDING) -> Status | None:
    for event in events:
        status = next_status(status, event)
    return status


@pytest.mark.parametrize(
    ("events", "status"),
    [
        ((E.SENT, E.ACCEPTED, E.FILLED, E.PROTECTED, E.CLOSED), S.CLOSED),
        ((E.SENT, E.FILLED), S.FILLED),  # the word that it was accepted was lost
        ((E.SENT, E.ACCEPTED, E.PARTIALLY_FILLED, E.FILLED), S.FILLED),
        ((E.SENT, E.REJECTED), S.REJECTED),
        ((E.SENT, E.ACCEPTED, E.REJECTED), S.REJECTED),
        ((E.SENT, E.UNKNOWN, E.NOT_SENT), S.NOT_SENT),
        ((E.UNKNOWN, E.NOT_SENT), S.NOT_SENT),  # a crash before the bytes left
        ((E.SENT, E.UNKNOWN, E.FILLED, E.PROTECTED), S.PROTECTED),
        ((E.SENT, E.UNKNOWN, E.ACCEPTED, E.FILLED), S.FILLED),
        ((E.SENT, E.UNKNOWN, E.NOT_SENT, E.FILLED), S.FILLED),  # it was there after all
        ((E.SENT, E.ACCEPTED, E.REJECTED, E.FILLED), S.FILLED),  # the venue contradicts itself
        ((E.SENT, E.ACCEPTED, E.REJECTED, E.PARTIALLY_FILLED, E.FILLED), S.FILLED),
        ((E.SENT, E.FILLED, E.REPAIRING, E.PROTECTED), S.PROTECTED),
        ((E.SENT, E.FILLED, E.PROTECTED, E.REPAIRING), S.FILLED),  # somebody took the stop away
        ((E.SENT, E.FILLED, E.REPAIRING, E.CLOSING, E.CLOSED), S.CLOSED),
        ((E.SENT, E.FILLED, E.CLOSING, E.PROTECTED), S.CLOSING),  # a late stop does not call the closing off
    ],
)
def test_orders_walk_the_table(events: tuple[ExecutionKind, ...], status: Status) -> None:
    """These are the ways an order may go, and no others are needed."""
    assert after(*events) is status


@pytest.mark.parametrize(("event", "status"), [(E.EXPIRED, S.EXPIRED), (E.REFUSED, S.REFUSED)])
def test_request_that_is_not_sent_ends_at_once(event: ExecutionKind, status: Status) -> None:
    """Only a request that the journal has never seen may expire or be refused."""
    assert after(event, status=None) is status
    with pytest.raises(IllegalTransitionError):
        after(event)


@pytest.mark.parametrize("event", [e for e in E if e not in (E.EXPIRED, E.REFUSED)])
def test_nothing_happens_to_an_order_that_was_never_journalled(event: ExecutionKind) -> None:
    """An event of an order that nobody sent is an alarm, not an order."""
    with pytest.raises(IllegalTransitionError, match="cannot follow nothing"):
        next_status(None, event)


@pytest.mark.parametrize("status", S)
def test_every_status_is_unresolved_or_holds_a_position_or_has_ended(status: Status) -> None:
    """The desk asks by these three groups: a status in none of them would be forgotten."""
    groups = (orders.UNRESOLVED, orders.HOLDS_POSITION, orders.ENDED)
    assert sum(status in group for group in groups) == 1


class OrderLife(RuleBasedStateMachine):
    """Any events in any order; those that do not fit are refused and change nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.status: Status | None = None
        self.begun = False
        self.seen: list[tuple[Status | None, ExecutionKind, Status]] = []

    @rule()
    def begin(self) -> None:
        if self.status is None:
            self.status, self.begun = S.SENDING, True

    @rule(event=st.sampled_from(E))
    def happen(self, event: ExecutionKind) -> None:
        try:
            after_it = next_status(self.status, event)
        except IllegalTransitionError:
            return
        self.seen.append((self.status, event, after_it))
        self.status = after_it

    @invariant()
    def ended_means_ended(self) -> None:
        """Only an order that the venue had denied comes back: by being found there."""
        for before, event, _ in self.seen:
            if before in orders.ENDED:
                assert before in orders.NEVER_THERE
                assert event in (E.ACCEPTED, E.PARTIALLY_FILLED, E.FILLED)

    @invariant()
    def filled_once(self) -> None:
        """One order is one position."""
        assert sum(event is E.FILLED for _, event, _ in self.seen) <= 1
        held = orders.HOLDS_POSITION
        opened = [before for before, _, after_it in self.seen if after_it in held and before not in held]
        assert len(opened) <= 1

    @invariant()
    def sent_at_most_once_and_only_after_it_was_journalled(self) -> None:
        """The bytes leave once, and never before the journal knows."""
        sent = [before for before, event, _ in self.seen if event is E.SENT]
        assert sent in ([], [S.SENDING])

    @invariant()
    def a_position_is_never_forgotten(self) -> None:
        """From a filled order only its closing leads out."""
        for before, event, after_it in self.seen:
            if before in orders.HOLDS_POSITION:
                assert after_it in orders.HOLDS_POSITION or event is E.CLOSED


OrderLife.TestCase.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)
TestOrderLife = OrderLife.TestCase


# -- distances and levels


@pytest.mark.parametrize(
    ("symbol", "distance", "points"),
    [
        ("EURUSD", "0.00100", 100),
        ("EURUSD", "0.000001", 1),  # at least one tick
        ("USDJPY", "0.100", 10_000),
        ("USDJPY", "0.0004", 100),
        ("XAUUSD", "5.00", 500_000),
        ("XAUUSD", "0.001", 1_000),
    ],
)
def test_distances_are_said_in_whole_ticks(symbol: str, distance: str, points: int) -> None:
    """The venue counts in 1/100,000 for every symbol, and refuses what is off the symbol's grid."""
    assert orders.relative_points(D(distance), CONTRACTS[symbol]) == points


@given(symbol=st.sampled_from(list(CONTRACTS)), distance=st.decimals("0.0000001", "500", places=7))
def test_every_distance_is_on_the_grid_and_within_a_tick_of_what_was_asked(symbol: str, distance: D) -> None:
    """Rounding moves a level by half a tick at most; one that rounds to nothing becomes one tick."""
    contract = CONTRACTS[symbol]
    points = orders.relative_points(distance, contract)
    assert points % 10 ** (5 - contract.digits) == 0
    assert points >= 10 ** (5 - contract.digits)
    off = abs(D(points) / 100_000 - distance)
    assert off <= contract.tick / 2 or (points == 10 ** (5 - contract.digits) and distance < contract.tick)


@pytest.mark.parametrize("distance", ["0", "-0.001"])
def test_distance_that_is_not_positive_is_refused(distance: str) -> None:
    """No stop is better said than sent."""
    with pytest.raises(InputError, match="EURUSD"):
        orders.relative_points(D(distance), CONTRACTS["EURUSD"])


@pytest.mark.parametrize(
    ("symbol", "direction", "entry", "levels"),
    [
        ("EURUSD", LONG, "1.10000", ("1.09900", "1.10250")),
        ("EURUSD", SHORT, "1.10000", ("1.10100", "1.09750")),
        ("XAUUSD", LONG, "2900.00", ("2899.99", "2900.01")),  # at least one tick on each side
        ("USDJPY", SHORT, "150.000", ("150.001", "149.998")),
    ],
)
def test_stop_and_target_stand_on_their_sides_of_the_entry(
    symbol: str, direction: Direction, entry: str, levels: tuple[str, str]
) -> None:
    """Absolute levels are those that the relative ones would have given."""
    found = orders.protective_levels(direction, D(entry), D("0.001"), D("0.0025"), CONTRACTS[symbol])
    assert [str(level) for level in found] == list(levels)


@pytest.mark.parametrize(
    ("price", "stop", "target", "reason"),
    [
        ("1.0990", "1.0990", "1.1020", "STOP_LOSS"),
        ("1.0950", "1.0990", "1.1020", "STOP_LOSS"),  # through a gap
        ("1.1020", "1.0990", "1.1020", "TAKE_PROFIT"),
        ("1.1055", "1.0990", "1.1020", "TAKE_PROFIT"),
        ("1.1005", "1.0990", "1.1020", "STOP_LOSS"),  # in the middle: the worse of both
        ("1.0990", "1.0990", None, "STOP_LOSS"),
        ("1.1020", None, "1.1020", "TAKE_PROFIT"),
    ],
)
def test_price_tells_which_level_closed_a_position(
    price: str, stop: str | None, target: str | None, reason: str
) -> None:
    """The venue has no field for it."""
    levels = (D(stop) if stop else None, D(target) if target else None)
    assert orders.close_reason(D(price), *levels, stop_out=False) == reason
    assert orders.close_reason(D(price), *levels, stop_out=True) == "STOP_OUT"


# -- names and times


def test_label_is_ours_if_it_is_of_our_book() -> None:
    """A position that is not ours is never touched, so what is ours is decided strictly."""
    ours = "TG-main-20250107T0720-EURUSD"
    assert orders.our_label("main", ours) == ours
    for label in ("", "bot", "TG-other-20250107T0720-EURUSD", "tg-main-20250107T0720-EURUSD", "TG-main-"):
        assert orders.our_label("main", label) is None


def test_book_whose_name_begins_like_ours_is_another_book() -> None:
    """Names may hold a hyphen: `a-b` is not `a`."""
    assert orders.our_label("a", "TG-a-b-20250107T0720-EURUSD") is None
    assert orders.our_label("a-b", "TG-a-b-20250107T0720-EURUSD") is not None


def test_request_expires_at_its_very_moment() -> None:
    """Equality expires."""
    assert orders.is_expired(CLOSE, CLOSE)
    assert not orders.is_expired(CLOSE, CLOSE - timedelta(milliseconds=1))
