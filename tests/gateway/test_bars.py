"""When a bar is closed, when a slice is complete, and that each is given out once."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from services.gateway.bars import Slice, SliceAssembler
from services.gateway.slices import Bar
from tests.gateway.builders import STEP_MS, a_bar

EURO, GOLD = "EURUSD", "XAUUSD"
CLOSE_MS, DEADLINE_MS = 150, 300


def an_assembler(*symbols: str) -> SliceAssembler:
    """Return one that has seen the slice of index 0, in which every symbol closed at 110,000."""
    symbols = symbols or (EURO, GOLD)
    assembler = SliceAssembler(symbols, bar_close_ms=CLOSE_MS, deadline_ms=DEADLINE_MS)
    assembler.start_after(Slice(0, tuple(a_bar(symbol, 0) for symbol in symbols)), {})
    return assembler


def at(index: int, after_ms: int = 0) -> int:
    """Return the open of the index-th five minutes, or so long after it."""
    return index * STEP_MS + after_ms


def test_bar_is_closed_by_the_next_bars_first_update_and_does_not_hold_it() -> None:
    """The trigger is not the bar: a close that holds the next bar's quote has looked into the future."""
    assembler = an_assembler(EURO)
    assembler.update(a_bar(EURO, 1, 110_001))
    assembler.update(a_bar(EURO, 1, 110_002, volume=2))
    assert assembler.take(at(1, 200_000)) == []
    assembler.update(a_bar(EURO, 2, 999_999))
    assert assembler.take(at(2, 20)) == [Slice(at(1), (a_bar(EURO, 1, 110_002, volume=2),))]


def test_bid_that_comes_without_its_bar_moves_it_all_the_same() -> None:
    """A bar is made of bids: one that is not in a bar of the venue's yet is in ours."""
    assembler = an_assembler(EURO)
    assembler.update(a_bar(EURO, 1, 110_000))
    for bid, after_ms in ((110_009, 1_000), (109_990, 2_000), (110_004, 3_000)):
        assembler.follow(EURO, bid, at(1, after_ms))
    assembler.follow(EURO, 110_006, at(2, 10))
    (complete,) = assembler.take(at(2, 20))
    (bar,) = complete.bars
    assert (bar.open, bar.high, bar.low, bar.close) == (110_000, 110_009, 109_990, 110_004)
    assembler.update(a_bar(EURO, 2, 110_007, volume=2))
    assembler.follow(EURO, 111_000, at(1, 4_000))  # of a bar that is over
    (following,) = assembler.take(at(3, CLOSE_MS))
    assert following.bars == (a_bar(EURO, 2, 110_007, volume=2),)


def test_quote_under_the_name_of_the_bar_before_is_not_in_that_bar() -> None:
    """A quote of after a bar's end cannot change it, unless it only carries it on."""
    assembler = an_assembler(EURO)
    forming = Bar(EURO, at(1), 110_000, 110_010, 109_990, 110_004, 8)
    assembler.update(forming)
    assert assembler.continues(forming._replace(close=110_007), at(1, STEP_MS - 1))
    assert assembler.continues(forming._replace(high=110_011, close=110_011, volume=9), at(2))
    for wrong in (
        forming._replace(open=110_001, volume=9),
        forming._replace(high=110_005, volume=9),
        forming._replace(low=109_995, volume=9),
        forming._replace(volume=1),
        forming._replace(symbol=GOLD),
    ):
        assert not assembler.continues(wrong, at(2))


def test_slice_waits_for_every_symbol_that_may_still_speak() -> None:
    """All symbols of a slice are written together."""
    assembler = an_assembler()
    assembler.update(a_bar(EURO, 1))
    assembler.update(a_bar(GOLD, 1))
    assembler.update(a_bar(EURO, 2))
    assert assembler.take(at(2, 30)) == []
    assembler.update(a_bar(GOLD, 2))
    assert [s.open_time_ms for s in assembler.take(at(2, 40))] == [at(1)]


def test_silent_bar_is_closed_by_time() -> None:
    """Without a quote the bar is over all the same, a little after its close: quotes may be on the way."""
    assembler = an_assembler(EURO)
    assembler.update(a_bar(EURO, 1))
    assert assembler.take(at(2, CLOSE_MS - 1)) == []
    assert assembler.take(at(2, CLOSE_MS)) == [Slice(at(1), (a_bar(EURO, 1),))]
    assert assembler.unfinished_ms(at(9)) is None


def test_quote_on_the_way_still_counts_until_the_slice_is_given_out() -> None:
    """A bar that time has closed takes its own last quote while its slice waits for others."""
    assembler = an_assembler()
    assembler.update(a_bar(EURO, 1, 110_001))
    assert assembler.take(at(2, CLOSE_MS)) == []
    assert assembler.update(a_bar(EURO, 1, 110_007))
    (complete,) = assembler.take(at(2, DEADLINE_MS))
    assert complete.bars[0].close == 110_007


def test_missing_bar_is_flat_and_marked_at_the_deadline() -> None:
    """Gold's daily break must not hold up the others, and invents no price."""
    assembler = an_assembler()
    assembler.update(a_bar(EURO, 1, 110_005))
    assert assembler.take(at(2, DEADLINE_MS - 1)) == []
    flat = Bar(GOLD, at(1), 110_000, 110_000, 110_000, 110_000, 0, synthetic=True)
    assert assembler.take(at(2, DEADLINE_MS)) == [Slice(at(1), (a_bar(EURO, 1, 110_005), flat))]


def test_symbol_that_was_silent_for_a_whole_bar_does_not_hold_up_the_others() -> None:
    """A quote of its next bar proves that the symbol has none of this one: nobody waits for the deadline."""
    assembler = an_assembler()
    assembler.update(a_bar(EURO, 1))
    assembler.update(a_bar(GOLD, 2))
    assembler.update(a_bar(EURO, 2))
    (complete,) = assembler.take(at(2, 10))
    assert [bar.synthetic for bar in complete.bars] == [False, True]


def test_silence_on_the_bid_side_makes_no_bar() -> None:
    """A quote that moves the ask alone carries no bar; time alone then closes what stood before it."""
    assembler = an_assembler()
    assembler.update(a_bar(EURO, 1))
    assembler.update(a_bar(GOLD, 1))  # and from here on gold's ask alone moves
    assembler.update(a_bar(EURO, 2))
    assert assembler.take(at(2, CLOSE_MS - 1)) == []
    (complete,) = assembler.take(at(2, CLOSE_MS))
    assert [bar.synthetic for bar in complete.bars] == [False, False]


def test_quote_of_the_ask_alone_counts_in_the_volume() -> None:
    """The venue shows it only with the next bid; after the bar's last bid there is none."""
    assembler = an_assembler(EURO)
    assembler.count_ask(EURO, at(1))  # before the bar has begun
    assembler.update(a_bar(EURO, 1, volume=5))
    for after_ms in (1, STEP_MS - 1, STEP_MS):  # the last is of the next bar
        assembler.count_ask(EURO, at(1, after_ms))
    (complete,) = assembler.take(at(2, CLOSE_MS))
    assert complete.bars[0].volume == 7


def test_count_of_the_venue_replaces_ours() -> None:
    """The next bid brings the whole count, asks included: nothing is counted twice."""
    assembler = an_assembler(EURO)
    assembler.update(a_bar(EURO, 1, volume=5))
    assembler.count_ask(EURO, at(1, 1))
    assembler.update(a_bar(EURO, 1, volume=7))
    (complete,) = assembler.take(at(2, CLOSE_MS))
    assert complete.bars[0].volume == 7


def test_slice_that_is_over_and_not_given_out_is_told() -> None:
    """Quotes of after its close must not count in its account."""
    assembler = an_assembler()
    assert assembler.unfinished_ms(at(9)) is None
    assembler.update(a_bar(EURO, 1))
    assert assembler.unfinished_ms(at(2, -1)) is None
    assert assembler.unfinished_ms(at(2)) == at(2)
    assembler.update(a_bar(EURO, 2))
    assert assembler.unfinished_ms(at(2, 10)) == at(2)
    assembler.take(at(2, DEADLINE_MS))
    assert assembler.unfinished_ms(at(2, DEADLINE_MS)) is None


def test_late_bar_is_refused() -> None:
    """What was published does not change: a quote that comes after its slice is told, not taken."""
    assembler = an_assembler()
    assembler.update(a_bar(EURO, 1))
    assembler.take(at(2, DEADLINE_MS))
    assert not assembler.update(a_bar(GOLD, 1))
    assert assembler.take(at(3)) == []


def test_older_bar_of_a_symbol_is_refused() -> None:
    """The venue may begin a subscription with a bar that is long closed."""
    assembler = an_assembler()
    assembler.update(a_bar(EURO, 2))
    assert not assembler.update(a_bar(EURO, 1))


def test_daily_break_gives_a_synthetic_bar_a_slice_and_gold_comes_back() -> None:
    """The closes of the break are the last one before it, however long it is."""
    assembler = an_assembler()
    assembler.update(a_bar(GOLD, 1, 290_000))
    given = []
    for index in range(1, 14):
        assembler.update(a_bar(EURO, index))
        given += assembler.take(at(index, 1000))
    assembler.update(a_bar(GOLD, 13, 291_000))
    given += assembler.take(at(14, CLOSE_MS))
    gold = [slice_.bars[1] for slice_ in given]
    assert [slice_.open_time_ms for slice_ in given] == [at(index) for index in range(1, 14)]
    assert [bar.synthetic for bar in gold] == [False] + [True] * 11 + [False]
    assert {bar.close for bar in gold[:-1]} == {290_000}


def test_weekend_is_no_run_of_slices() -> None:
    """A slice exists when a symbol has a bar; time alone makes none."""
    assembler = an_assembler(EURO)
    assembler.update(a_bar(EURO, 1))
    assert len(assembler.take(at(2, 1000))) == 1
    monday = 1 + 49 * 12
    assert assembler.take(at(monday)) == []
    assembler.update(a_bar(EURO, monday))
    assert [s.open_time_ms for s in assembler.take(at(monday + 1, CLOSE_MS))] == [at(monday)]


def test_start_goes_on_behind_the_history_with_the_bar_that_was_forming() -> None:
    """The first live slice holds what its bar had seen before the start, and no slice comes twice."""
    assembler = SliceAssembler((EURO, GOLD), bar_close_ms=CLOSE_MS, deadline_ms=DEADLINE_MS)
    last = Slice(at(4), (a_bar(EURO, 4, 110_004), a_bar(GOLD, 4, 290_004)))
    assembler.start_after(last, {EURO: a_bar(EURO, 5, 110_050), GOLD: a_bar(GOLD, 4)})
    assert not assembler.update(a_bar(GOLD, 4))
    (complete,) = assembler.take(at(6, DEADLINE_MS))
    assert complete.bars[0] == a_bar(EURO, 5, 110_050)
    assert (complete.bars[1].close, complete.bars[1].synthetic) == (290_004, True)


def test_restart_forgets_what_was_half_assembled() -> None:
    """After a lost connection the history knows the bars better than the quotes before the cut."""
    assembler = an_assembler()
    assembler.update(a_bar(EURO, 1, 1))
    assembler.update(a_bar(EURO, 2, 2))
    assembler.start_after(Slice(at(1), (a_bar(EURO, 1, 7), a_bar(GOLD, 1, 8))), {})
    assert assembler.take(at(3)) == []
    assert assembler.unfinished_ms(at(9)) is None


# -- any order of arrival


@dataclass(frozen=True)
class Update:
    """A bar's new state, when the venue stamped it and when it came."""

    stamp_ms: int
    comes_ms: int
    bar: Bar[int]


@st.composite
def quotes(draw: st.DrawFn) -> list[list[Update]]:
    """Draw for each of three symbols its updates, stamped in order, some bars left out."""
    drawn = []
    for symbol in ("A", "B", "C"):
        updates = []
        for index in range(1, 7):
            stamps = draw(st.lists(st.integers(0, STEP_MS - 1), max_size=3, unique=True))
            for count, offset in enumerate(sorted(stamps), 1):
                bar = a_bar(symbol, index, 110_000 + draw(st.integers(-9, 9)), volume=count)
                updates.append(Update(at(index, offset), 0, bar))
        drawn.append(updates)
    return drawn


def assembled(updates: list[Update]) -> list[Slice]:
    """Return the slices that these updates give in this order, time told by their stamps alone."""
    assembler = an_assembler("A", "B", "C")
    given, now_ms = [], 0
    for update in updates:
        now_ms = max(now_ms, update.stamp_ms)
        assert assembler.update(update.bar), "a quote came after its slice"
        given += assembler.take(now_ms)
    return given + assembler.take(at(8))


@settings(max_examples=50)
@given(by_symbol=quotes(), data=st.data())
def test_any_interleaving_of_the_symbols_gives_the_same_slices(
    by_symbol: list[list[Update]], data: st.DataObject
) -> None:
    """Symbols overtake each other on the way; what they say of their bars does not depend on it.

    Each symbol keeps its own order, and none comes later than the time a closed bar is waited for.
    """
    in_order = sorted((u for updates in by_symbol for u in updates), key=lambda u: (u.stamp_ms, u.bar.symbol))
    delayed = []
    for updates in by_symbol:
        comes_ms = 0
        for update in updates:
            delay_ms = data.draw(st.integers(0, CLOSE_MS))
            comes_ms = max(comes_ms, update.stamp_ms + delay_ms)
            delayed.append(Update(update.stamp_ms, comes_ms, update.bar))
    shuffled = sorted(delayed, key=lambda u: (u.comes_ms, u.bar.symbol, u.stamp_ms))
    assert assembled(shuffled) == assembled(in_order)


@settings(max_examples=50)
@given(by_symbol=quotes())
def test_every_slice_is_given_out_once_in_order_and_holds_each_bars_last_state(
    by_symbol: list[list[Update]],
) -> None:
    """Nothing lost, nothing doubled, nothing invented."""
    updates = sorted((u for each in by_symbol for u in each), key=lambda u: (u.stamp_ms, u.bar.symbol))
    slices = assembled(updates)
    last = {(u.bar.symbol, u.bar.open_time_ms): u.bar for u in updates}
    assert [s.open_time_ms for s in slices] == sorted({open_ms for _, open_ms in last})
    assert all(earlier.open_time_ms < later.open_time_ms for earlier, later in pairwise(slices))
    real = {(bar.symbol, bar.open_time_ms): bar for s in slices for bar in s.bars if not bar.synthetic}
    assert real == last
