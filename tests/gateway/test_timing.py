"""What time it is at the venue, over a way that takes its time; and what is closed by it."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime, timedelta

import pytest

from services.gateway.bars import BAR_MS, SliceAssembler
from services.gateway.slices import Bar
from services.gateway.timing import Timing
from services.gateway.venue_time import DELAY_HALF_LIFE_S, VenueTime
from shared.clock import ManualClock

START = datetime(2025, 1, 7, 7, 0, tzinfo=UTC)
START_MS = int(START.timestamp() * 1000)
SYMBOLS = ("EURUSD", "XAUUSD")


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


def test_quickest_stamp_tells_the_time() -> None:
    """One that was held up on its way does not turn the clock back."""
    time = VenueTime(1)
    time.stamp(1_000_000, 5.000)
    time.stamp(1_000_900, 6.000)
    assert time.now_ms(6.0) == 1_001_000
    assert time.quote_delay_s(6.0) == pytest.approx(0.1)


def test_quickest_stamp_is_forgotten_after_a_minute() -> None:
    """Two clocks drift apart: what was quick an hour ago says nothing of now."""
    time = VenueTime(1)
    time.stamp(1_000_000, 0.0)
    for second in range(1, 70):
        time.stamp(1_000_000 + second * 999, float(second))
    assert time.now_ms(69.0) == pytest.approx(1_000_000 + 69 * 999 + 60, abs=1)


def test_delay_of_a_hiccup_is_forgotten_and_an_old_price_is_none() -> None:
    """The price that follows a subscription may be minutes old: it was not on its way so long."""
    time = VenueTime(1)
    time.stamp(1_000_000, 0.0)
    time.stamp(999_200, 0.0)
    assert time.quote_delay_s(0.0) == pytest.approx(0.8)
    assert time.quote_delay_s(DELAY_HALF_LIFE_S) == pytest.approx(0.4)
    time.stamp(900_000, DELAY_HALF_LIFE_S)
    assert time.quote_delay_s(DELAY_HALF_LIFE_S) == pytest.approx(0.4)


@pytest.mark.parametrize("round_trip_ms", [0, 80, 250])
@pytest.mark.parametrize("jitter_ms", [0, 60])
def test_bar_that_time_closes_has_every_quote_that_was_on_its_way(round_trip_ms: int, jitter_ms: int) -> None:
    """However far the venue is: nothing that it stamped before the close is missed, and nobody waits long."""
    seed = 20_250_107
    print("seed", seed)
    rng = random.Random(seed)  # noqa: S311 - quotes, not secrets
    way_ms = round_trip_ms / 2
    stamps = sorted(rng.randrange(BAR_MS) for _ in range(2_000))
    stamps += [BAR_MS - 1]  # a quote of the bar's last millisecond
    arrivals = sorted((at + way_ms + rng.uniform(0, jitter_ms), at, n) for n, at in enumerate(stamps))
    time = VenueTime(1)
    assembler = SliceAssembler(("EURUSD",), bar_close_ms=150, deadline_ms=300)
    seen, given_ms = 0, 0.0
    arrivals_left = list(arrivals)
    for tick in range(BAR_MS - 1_000, BAR_MS + 2_000, 5):  # the last second, and what follows
        while arrivals_left and arrivals_left[0][0] <= tick:
            at_ms, stamp, number = arrivals_left.pop(0)
            time.stamp(START_MS + stamp, at_ms / 1000)
            bar = Bar("EURUSD", START_MS, 1, 1, 1, number, number)
            assert assembler.update(bar), f"the quote of {stamp} came after its slice"
            seen += 1
        now_s = tick / 1000
        waited_ms = time.now_ms(now_s) - round(1000 * time.quote_delay_s(now_s))
        if assembler.take(waited_ms):
            given_ms = tick - BAR_MS
            break
    assert seen == len(stamps)
    assert 150 <= given_ms <= 150 + way_ms + 2 * jitter_ms + 5


def a_timing(speed: float = 1.0) -> tuple[Timing, ManualClock]:
    clock = ManualClock(START)
    return Timing(speed, clock), clock


@pytest.mark.parametrize("round_trip_ms", [0, 80, 250])
@pytest.mark.parametrize("offset_ms", [-700, 0, 1_500])
def test_clock_offset_is_told_whatever_the_way_takes(round_trip_ms: int, offset_ms: int) -> None:
    """Half of the quickest round trip is taken off: a far venue is not a wrong clock."""
    timing, clock = a_timing()
    for _ in range(5):
        clock.advance(1.0)
        now_ms = int(clock.now().timestamp() * 1000)
        timing.note_round_trip(round_trip_ms / 1000 + 0.2)
        timing.stamp(now_ms - offset_ms - round_trip_ms // 2)
    timing.note_round_trip(round_trip_ms / 1000)
    assert timing.clock_offset_ms() == pytest.approx(offset_ms, abs=1)


@pytest.mark.parametrize("speed", [0.0, 60.0])
def test_time_that_is_not_the_worlds_has_no_offset(speed: float) -> None:
    """A replayed market is years away, and no clock is wrong."""
    timing, _ = a_timing(speed)
    timing.stamp(START_MS)
    assert timing.clock_offset_ms() == 0.0


def test_new_session_believes_its_own_stamps() -> None:
    """A simulated venue that was stopped goes on where it stood: its time is behind what we thought."""
    timing, clock = a_timing()
    timing.stamp(START_MS)
    clock.advance(30)
    timing.restart()
    assert timing.now_ms() == START_MS + 30_000  # until it says otherwise
    timing.stamp(START_MS + 1_000)
    assert timing.now_ms() == START_MS + 1_000


async def test_waits_end_with_the_clock_that_was_handed_in() -> None:
    """A simulation runs all of it in its own time."""
    timing, clock = a_timing(60.0)
    slept = asyncio.create_task(timing.sleep_venue(60))
    came, never = asyncio.Event(), asyncio.Event()
    answers = [asyncio.create_task(timing.within(5, event)) for event in (came, never)]
    await asyncio.sleep(0)
    came.set()
    assert await answers[0]
    clock.advance(1)
    await slept
    assert not answers[1].done()
    clock.advance(4)
    assert not await answers[1]
    assert timing.utc_now() == START + timedelta(seconds=5)
