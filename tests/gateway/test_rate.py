"""How fast requests leave, and what time it is at the venue."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from services.gateway.link import HISTORY_BURST, HISTORY_PER_S, REQUEST_BURST, REQUESTS_PER_S
from services.gateway.rate import TokenBucket
from services.gateway.venue_time import VenueTime


def departures(bucket: TokenBucket, asked_s: list[float]) -> list[float]:
    """Return when the requests that are asked for at these times leave."""
    return [now_s + bucket.wait_s(now_s) for now_s in asked_s]


def test_bucket_allows_its_burst_at_once_and_then_its_rate() -> None:
    """Two at once, then one every half second."""
    assert departures(TokenBucket(2, 2), [10.0] * 5) == [10.0, 10.0, 10.5, 11.0, 11.5]


def test_silence_does_not_save_up_more_than_the_burst() -> None:
    """A night without requests is no right to a flood in the morning."""
    bucket = TokenBucket(2, 2)
    assert departures(bucket, [0.0, 0.0, 1000.0, 1000.0, 1000.0]) == [0.0, 0.0, 1000.0, 1000.0, 1000.5]


@settings(max_examples=30)
@given(
    gaps=st.lists(st.floats(0, 0.6), min_size=10, max_size=150),
    limit=st.sampled_from([(REQUESTS_PER_S, REQUEST_BURST, 50), (HISTORY_PER_S, HISTORY_BURST, 5)]),
)
def test_no_second_holds_more_requests_than_the_venue_allows(
    gaps: list[float], limit: tuple[float, float, int]
) -> None:
    """However the venue counts, in fixed seconds or sliding ones: burst and rate together stay below."""
    rate, burst, allowed = limit
    asked_s, now_s = [], 1000.0
    for gap in gaps:
        now_s += gap if gap > 0.3 else 0.0
        asked_s.append(now_s)
    left_s = departures(TokenBucket(rate, burst), asked_s)
    assert left_s == sorted(left_s)
    for start_s in left_s:
        assert sum(start_s <= at_s < start_s + 1 - 1e-6 for at_s in left_s) <= allowed


def test_venue_time_runs_on_from_its_last_stamp() -> None:
    """Between quotes the venue's time is told by the machine's monotonic clock."""
    time = VenueTime(1)
    assert time.now_ms(5.0) == 0
    time.stamp(1_000_000, 5.0)
    assert time.now_ms(5.25) == 1_000_250


def test_older_stamp_changes_nothing() -> None:
    """Symbols overtake each other on the way."""
    time = VenueTime(1)
    time.stamp(1_000_000, 5.0)
    time.stamp(999_000, 6.0)
    assert time.now_ms(6.0) == 1_001_000


def test_faster_venue_needs_less_of_the_machines_time() -> None:
    """Deadlines are meant in the venue's time; at sixty times the speed a minute is a second."""
    time = VenueTime(60)
    time.stamp(1_000_000, 0.0)
    assert time.now_ms(1.0) == 1_060_000
    assert time.real_s(60.0) == 1.0


def test_stepped_venue_has_no_time_between_its_stamps() -> None:
    """Its time stands still while the mesh thinks; waits for the machine stay as they are."""
    time = VenueTime(0)
    time.stamp(1_000_000, 0.0)
    assert time.now_ms(99.0) == 1_000_000
    assert time.real_s(2.0) == 2.0
