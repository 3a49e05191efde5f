"""The bars played as quotes, in order of (time, symbol), built slice by slice as they are needed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from venue.bars import Bar, BarStore
from venue.calendar import M5_MS
from venue.money import Quote
from venue.periods import Period, joined
from venue.ticks import path_volume


class Spot(NamedTuple):
    """One quote as it is streamed, with what it changed and the bar as it stands after it."""

    symbol: str
    time_ms: int
    bid: int
    ask: int
    bid_moved: bool
    ask_moved: bool
    bar: Bar


class Playback:
    """A cursor over the quotes of a bar store. All quotes up to `time_ms` have been played."""

    def __init__(self, store: BarStore, time_ms: int) -> None:
        self.store = store
        self.time_ms = time_ms
        self.forming: dict[str, Bar] = {}  # the last bar of which a quote was played
        self._followed: dict[str, dict[Period, Bar | None]] = {}  # forming bars of other periods
        self.start_quotes = self._quotes_before(time_ms)  # every symbol's last one when it began
        self._slice: list[Spot] = []
        self._slice_end_ms = 0
        self._index = 0
        slice_ms = time_ms // M5_MS * M5_MS
        self._next_slice_ms = store.next_open(slice_ms)
        self._fill_slice()
        self._skip_played(time_ms)

    @property
    def next_quote_ms(self) -> int | None:
        """When the next quote comes, None at the end of the data."""
        if self._index == len(self._slice):
            self._fill_slice()
        return self._slice[self._index].time_ms if self._slice else None

    def take(self, until_ms: int) -> list[Spot]:
        """Play and return all quotes of the next moment that has any, none if that is after `until_ms`."""
        next_ms = self.next_quote_ms
        if next_ms is None or next_ms > until_ms:
            self.time_ms = max(self.time_ms, until_ms)
            return []
        spots, start = self._slice, self._index
        end, count = start, len(spots)
        while end < count and spots[end].time_ms == next_ms:
            spot = spots[end]
            if spot.symbol in self._followed:
                self._grow(spot)
            self.forming[spot.symbol] = spot.bar
            end += 1
        self._index, self.time_ms = end, next_ms
        return spots[start:end]

    def follow(self, symbol: str, period: Period, forming: Bar | None) -> None:
        """Keep the forming bar of another period too, from the one that is given; None if there is none."""
        self._followed.setdefault(symbol, {}).setdefault(period, forming)

    def forming_bars(self, spot: Spot, periods: Iterable[Period]) -> dict[Period, Bar]:
        """Return the bars that a quote has just grown, of periods that are followed and of M5."""
        followed = self._followed.get(spot.symbol, {})
        return {
            period: bar
            for period in periods
            if (bar := spot.bar if period is Period.M5 else followed[period]) is not None
        }

    def _grow(self, spot: Spot) -> None:
        """Let the forming bars of other periods have a quote; the ask alone begins no bar."""
        before = self.forming.get(spot.symbol)
        counted = before.volume if before is not None and before.open_ms == spot.bar.open_ms else 0
        tick = Bar(spot.time_ms, spot.bid, spot.bid, spot.bid, spot.bid, spot.bar.volume - counted)
        for period, bar in self._followed[spot.symbol].items():
            if bar is None or (spot.bid_moved and period.open_ms(spot.time_ms) != bar.open_ms):
                grown = tick._replace(open_ms=period.open_ms(spot.time_ms))
            else:
                grown = joined(bar, tick)
            self._followed[spot.symbol][period] = grown

    def next_quote_of(self, symbol: str, from_ms: int) -> int | None:
        """Return about when the symbol's next quote from a time on comes, None after the last one."""
        for spot in self._slice[self._index :]:
            if spot.symbol == symbol and spot.time_ms >= from_ms:
                return spot.time_ms
        return self.store.next_bar_open(symbol, max(from_ms, self._slice_end_ms))

    def history(self, symbol: str, from_ms: int, to_ms: int, count: int | None = None) -> list[Bar]:
        """Return the bars that open in [from_ms, to_ms], the forming one included, ascending.

        Nothing that has not been played is in them.
        """
        slice_ms = self.time_ms // M5_MS * M5_MS
        forming = self.forming.get(symbol)
        last = [forming] if forming and forming.open_ms == slice_ms and from_ms <= slice_ms <= to_ms else []
        if count is not None:
            count -= len(last)
        return self.store.bars(symbol, from_ms, min(to_ms + 1, slice_ms), count) + last

    def spots(self, symbol: str, open_ms: int) -> list[Spot]:
        """Return all quotes of one bar, played or not."""
        return _spots(self.store, symbol, open_ms)

    def quoted_in_slice(self) -> dict[str, bool]:
        """Tell for each symbol whether the bar that covers the present has begun."""
        slice_ms = self.time_ms // M5_MS * M5_MS
        return {
            symbol: symbol in self.forming and self.forming[symbol].open_ms == slice_ms
            for symbol in self.store.contracts
        }

    def _quotes_before(self, time_ms: int) -> dict[str, Quote]:
        quotes = {}
        for symbol in self.store.contracts:
            path = self.store.last_path_before(symbol, time_ms)
            if path is not None:
                quotes[symbol] = Quote(path.time_ms[-1], path.bid[-1], path.ask[-1])
        return quotes

    def _fill_slice(self) -> None:
        self._slice, self._index = [], 0
        if self._next_slice_ms is None:
            return
        self._slice = self._spots_of_slice(self._next_slice_ms)
        self._slice_end_ms = self._next_slice_ms + M5_MS
        self._next_slice_ms = self.store.next_open(self._slice_end_ms)

    def _spots_of_slice(self, open_ms: int) -> list[Spot]:
        """Return the quotes of a slice, in the order in which they are played."""
        ranked = [
            (spot.time_ms, rank, spot)
            for rank, symbol in enumerate(self.store.contracts)
            for spot in _spots(self.store, symbol, open_ms)
        ]
        ranked.sort(key=lambda entry: entry[:2])
        return [spot for _, _, spot in ranked]

    def _skip_played(self, time_ms: int) -> None:
        """Take up in mid-slice what had been played before a restart."""
        while self._index < len(self._slice) and self._slice[self._index].time_ms <= time_ms:
            for spot in self.take(time_ms):
                self.start_quotes[spot.symbol] = Quote(spot.time_ms, spot.bid, spot.ask)
        self.time_ms = time_ms


def _spots(store: BarStore, symbol: str, open_ms: int) -> list[Spot]:
    """Return one bar's quotes with the bar growing; the first moves both sides, since it begins the bar.

    The tick volume counts the sides that moved. Where the source has a volume of its own, the count
    is scaled to it, so that the live bar ends as the one in history.
    """
    found = store.path(symbol, open_ms)
    if found is None:
        return []
    path, whole = found
    moves_in_all = path_volume(path)
    spots = []
    moves, high, low, last_bid, last_ask = 0, 0, path.bid[0], 0, 0
    for time_ms, bid, ask in zip(*path, strict=True):
        bid_moved, ask_moved = bid != last_bid, ask != last_ask
        moves += bid_moved + ask_moved
        high, low = max(high, bid), min(low, bid)
        volume = whole.volume * moves // moves_in_all
        bar = Bar(open_ms, path.bid[0], high, low, bid, volume)
        spots.append(Spot(symbol, time_ms, bid, ask, bid_moved, ask_moved, bar))
        last_bid, last_ask = bid, ask
    return spots
