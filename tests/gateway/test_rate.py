"""How fast requests leave."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from services.gateway.rate import Departures, Limits, Urgency, Waiting

KIND, OTHER_KIND = 1, 2
ALLOWED, HISTORY_ALLOWED = 50, 5  # by the venue, in a second


@dataclass(frozen=True)
class Left:
    at_s: float
    number: int
    urgency: Urgency


def departures(asked: list[tuple[float, Urgency]], limits: Limits) -> list[Left]:
    """Return when what is asked for at these times leaves."""
    queue: Departures[tuple[int, Urgency]] = Departures(limits)
    left = []
    asked = sorted(asked, key=lambda each: each[0])
    now_s = 0.0
    while asked or len(queue):
        wait_s = queue.wait_s(now_s)
        next_s = min([at_s for at_s, _ in asked[:1]] + ([] if wait_s is None else [now_s + wait_s]))
        now_s = max(now_s, next_s)
        while asked and asked[0][0] <= now_s:
            _, urgency = asked.pop(0)
            queue.offer(Waiting((len(left) + len(queue), urgency), KIND, urgency))
        left += [Left(now_s, *item) for item in queue.take(now_s)]
    return left


def times(left: list[Left]) -> list[float]:
    return [round(each.at_s, 6) for each in left]


def test_burst_leaves_at_once_and_the_rest_at_the_rate() -> None:
    """Of four at once two are kept for orders: two questions, then one every half second."""
    limits = Limits(per_s=2, burst=4, for_orders=2)
    left = departures([(10.0, Urgency.REQUEST)] * 5, limits)
    assert times(left) == [10.0, 10.0, 10.5, 11.0, 11.5]


def test_silence_does_not_save_up_more_than_the_burst() -> None:
    """A night without requests is no right to a flood in the morning."""
    limits = Limits(per_s=2, burst=2, for_orders=0)
    left = departures([(at_s, Urgency.REQUEST) for at_s in (0, 0, 1000, 1000, 1000)], limits)
    assert times(left) == [0.0, 0.0, 1000.0, 1000.0, 1000.5]


def test_orders_leave_at_once_behind_any_number_of_questions() -> None:
    """A part of the burst is theirs, so that an order never waits for what is not one."""
    left = departures([(10.0, Urgency.REQUEST)] * 200 + [(11.0, Urgency.ORDER)] * 5, Limits())
    assert [each.at_s for each in left if each.urgency is Urgency.ORDER] == [11.0] * 5


def test_history_waits_for_its_own_limit_and_holds_nobody_up() -> None:
    """A backfill takes its time, and other questions pass it."""
    left = departures([(0.0, Urgency.HISTORY)] * 3 + [(0.1, Urgency.REQUEST)], Limits())
    assert [(round(each.at_s, 3), each.urgency) for each in left] == [
        (0.0, Urgency.HISTORY),
        (0.1, Urgency.REQUEST),
        (0.25, Urgency.HISTORY),
        (0.5, Urgency.HISTORY),
    ]


def test_blocked_kind_waits_and_others_and_orders_do_not() -> None:
    """The venue blocks one kind of request; the link is good for all others."""
    queue: Departures[str] = Departures(Limits())
    queue.block(KIND, 5.0)
    queue.offer(Waiting("blocked", KIND, Urgency.REQUEST))
    queue.offer(Waiting("other", OTHER_KIND, Urgency.REQUEST))
    queue.offer(Waiting("order", KIND, Urgency.ORDER))
    assert list(queue.take(1.0)) == ["order", "other"]
    assert queue.wait_s(1.0) == 4.0
    assert list(queue.take(5.0)) == ["blocked"]
    assert queue.wait_s(5.0) is None


def test_what_nobody_waits_for_any_more_does_not_leave() -> None:
    """A question that was given up costs nothing of the venue's patience."""
    queue: Departures[str] = Departures(Limits())
    given_up = Waiting("given up", KIND, Urgency.REQUEST)
    queue.offer(given_up)
    queue.withdraw(given_up)
    assert queue.wait_s(0.0) is None
    assert list(queue.take(0.0)) == []
    assert len(queue) == 0


@settings(max_examples=50)
@given(
    asked=st.lists(
        st.tuples(st.floats(0, 0.6).map(lambda gap: gap if gap > 0.3 else 0.0), st.sampled_from(Urgency)),
        min_size=10,
        max_size=200,
    )
)
def test_no_second_holds_more_than_the_venue_allows(asked: list[tuple[float, Urgency]]) -> None:
    """However it counts, in fixed seconds or sliding ones, and whatever is asked for; all of it leaves."""
    at_s, at = 0.0, []
    for gap_s, urgency in asked:
        at_s += gap_s
        at.append((at_s, urgency))
    left = departures(at, Limits())
    assert sorted(each.number for each in left) == list(range(len(asked)))
    for start in left:
        second = [each for each in left if start.at_s <= each.at_s < start.at_s + 1 - 1e-6]
        assert len(second) <= ALLOWED
        assert sum(each.urgency is Urgency.HISTORY for each in second) <= HISTORY_ALLOWED
    for urgency in Urgency:
        mine = [each.number for each in left if each.urgency is urgency]
        assert mine == sorted(mine)
