"""What has been played, asked for backwards: bars of every period, and ticks. Pure.

Nothing that has not been played is told, and no answer takes more than so much of the market: what is cut
off is said to be there.
"""

from __future__ import annotations

from itertools import takewhile
from typing import NamedTuple

from venue.bars import Bar
from venue.calendar import M5_MS
from venue.periods import Period, together
from venue.playback import Playback, Spot
from venue.records import Side

M5_BARS_MAX = 80_000  # of which one answer is made: more than 50 weeks of days
M5_BARS_OF_QUOTES_MAX = 2_000  # where their quotes are needed: 10,000 minutes
TICKS_MAX = 5_000  # of one answer; assumed


class Page(NamedTuple):
    """The bars of an answer, ascending; whether there are older ones."""

    bars: list[Bar]
    has_more: bool


class Tick(NamedTuple):
    """One change of one side of the quote."""

    time_ms: int
    price: int  # points


def bars(
    playback: Playback, symbol: str, period: Period, from_ms: int, to_ms: int, count: int | None = None
) -> Page:
    """Return the bars that open in [from_ms, to_ms], the forming one included; the last `count` of them."""
    source_max = M5_BARS_OF_QUOTES_MAX if period.needs_quotes else M5_BARS_MAX
    wanted = source_max if count is None else (count + 1) * max(period.length_ms // M5_MS, 1)
    first_ms = period.open_ms(from_ms) // M5_MS * M5_MS if from_ms > 0 else 0
    source = playback.history(symbol, first_ms, to_ms + period.length_ms, min(wanted, source_max) + 1)
    is_cut = len(source) > min(wanted, source_max)
    if period.needs_quotes:
        source = [tick for bar in source for tick in _of_quotes(playback, symbol, bar.open_ms)]
    made = source if period is Period.M5 else together(source, period)
    if is_cut:
        del made[0]  # its beginning is not there
    made = [bar for bar in made if from_ms <= bar.open_ms <= to_ms]
    if count is None:
        return Page(made, is_cut)
    return Page(made[-count:] if count else [], is_cut or len(made) > count)


def _of_quotes(playback: Playback, symbol: str, open_ms: int) -> list[Bar]:
    """Return each change of the bid as a bar; a change of the ask alone counts with the bid before it."""
    made: list[Bar] = []
    counted = 0
    for spot in _played(playback, symbol, open_ms):
        volume, counted = spot.bar.volume - counted, spot.bar.volume
        if spot.bid_moved:
            made.append(Bar(spot.time_ms, spot.bid, spot.bid, spot.bid, spot.bid, volume))
        else:
            made[-1] = made[-1]._replace(volume=made[-1].volume + volume)
    return made


def _played(playback: Playback, symbol: str, open_ms: int) -> list[Spot]:
    spots = playback.spots(symbol, open_ms)
    return list(takewhile(lambda spot: spot.time_ms <= playback.time_ms, spots))


def ticks(playback: Playback, symbol: str, side: Side, from_ms: int, to_ms: int) -> tuple[list[Tick], bool]:
    """Return the changes of a side's price in a window, newest first; whether there are older ones.

    BUY is the ask, at which one buys.
    """
    found: list[Tick] = []
    opens = playback.store.opens(symbol, from_ms - M5_MS, min(to_ms, playback.time_ms))
    for open_ms in reversed(opens):
        for spot in reversed(_played(playback, symbol, open_ms)):
            if not from_ms <= spot.time_ms <= to_ms:
                continue
            if spot.ask_moved if side is Side.BUY else spot.bid_moved:
                found.append(Tick(spot.time_ms, spot.ask if side is Side.BUY else spot.bid))
        if len(found) > TICKS_MAX:
            return found[:TICKS_MAX], True
    return found, False
