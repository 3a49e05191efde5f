"""Bar closing and slices, live. Pure: venue stamps go in, complete slices come out.

The venue has no bar-close event. A bar is closed by the first update of a later one, or by time; the last
update of the old bar is the bar, not the update that closes it. A slice is complete when no symbol can
still add to it, or at its deadline: then a symbol without a bar gets a synthetic one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.gateway.slices import Bar, fill_slice

BAR_MS = 300_000


@dataclass(frozen=True, slots=True)
class Slice:
    """All symbols' bars of one open time, in symbol order, prices in points."""

    open_time_ms: int
    bars: tuple[Bar[int], ...]

    @property
    def close_ms(self) -> int:
        """When the slice became known."""
        return self.open_time_ms + BAR_MS


class SliceAssembler:
    """Follows the forming bar of every symbol and gives out slices, oldest first, each once."""

    def __init__(self, symbols: Sequence[str], *, bar_close_ms: int, deadline_ms: int) -> None:
        self._symbols = tuple(symbols)
        self._bar_close_ms = bar_close_ms
        self._deadline_ms = deadline_ms
        self._forming: dict[str, Bar[int]] = {}
        self._closed: dict[int, dict[str, Bar[int]]] = {}
        self._previous_close: dict[str, int] = {}
        self._done_ms = 0  # open time of the last slice given out
        self._oldest_close_ms: int | None = None  # of the bars that are in no slice yet

    def start_after(self, last: Slice, forming: Mapping[str, Bar[int]]) -> None:
        """Go on behind a history: its last slice, and the bars that were forming when it was asked for."""
        self._done_ms = last.open_time_ms
        self._previous_close = {bar.symbol: bar.close for bar in last.bars}
        self._closed.clear()
        self._forming = {s: bar for s, bar in forming.items() if bar.open_time_ms > self._done_ms}
        self._find_oldest()

    def update(self, bar: Bar[int]) -> bool:
        """Take a forming bar's newest state. False: it came after its slice, and is not taken."""
        if bar.open_time_ms <= self._done_ms:
            return False
        forming = self._forming.get(bar.symbol)
        if forming is not None and bar.open_time_ms < forming.open_time_ms:
            return False
        self._forming[bar.symbol] = bar
        if forming is None:
            close_ms = bar.open_time_ms + BAR_MS
            if self._oldest_close_ms is None or close_ms < self._oldest_close_ms:
                self._oldest_close_ms = close_ms
        elif bar.open_time_ms > forming.open_time_ms:
            self._close(forming)
        return True

    def continues(self, bar: Bar[int], at_ms: int) -> bool:
        """Whether a quote of `at_ms` can be in the bar that it came with.

        One that was over by then can only be the forming one, a little further on; else it bears the name of
        the bar before the quote's own.
        """
        if at_ms < bar.open_time_ms + BAR_MS:
            return True
        forming = self._forming.get(bar.symbol)
        if forming is None or (forming.open_time_ms, forming.open) != (bar.open_time_ms, bar.open):
            return False
        return bar.low <= forming.low and forming.high <= bar.high and forming.volume <= bar.volume

    def follow(self, symbol: str, bid: int, at_ms: int) -> None:
        """Take a bid that came without its bar: it moves the bar, until the venue tells it whole."""
        open_ms = at_ms - at_ms % BAR_MS
        forming = self._forming.get(symbol)
        if forming is None or forming.open_time_ms < open_ms:
            self.update(Bar(symbol, open_ms, bid, bid, bid, bid, 1))
        elif forming.open_time_ms == open_ms:
            high, low = max(bid, forming.high), min(bid, forming.low)
            self.update(forming._replace(high=high, low=low, close=bid, volume=forming.volume + 1))

    def count_ask(self, symbol: str, at_ms: int) -> None:
        """Count a quote that moved the ask alone: the venue shows it in the volume with the next bid."""
        forming = self._forming.get(symbol)
        if forming is not None and forming.open_time_ms <= at_ms < forming.open_time_ms + BAR_MS:
            self._forming[symbol] = forming._replace(volume=forming.volume + 1)

    def unfinished_ms(self, now_ms: int) -> int | None:
        """Return the close of the oldest slice that is over and not given out yet, or None."""
        oldest_ms = self._oldest_close_ms
        return oldest_ms if oldest_ms is not None and oldest_ms <= now_ms else None

    def has_any(self, now_ms: int) -> bool:
        """Whether there is anything that `take` might give out."""
        return bool(self._closed) or (self._oldest_close_ms is not None and self._oldest_close_ms <= now_ms)

    def take(self, now_ms: int) -> list[Slice]:
        """Return the slices that are complete at venue time `now_ms`."""
        if not self.has_any(now_ms):
            return []
        for forming in list(self._forming.values()):
            if now_ms >= forming.open_time_ms + BAR_MS + self._bar_close_ms:
                self._close(forming)
                del self._forming[forming.symbol]
        complete = []
        while self._closed and self._is_complete(at := min(self._closed), now_ms):
            bars = fill_slice(at, self._closed.pop(at), self._previous_close, self._symbols)
            self._previous_close = {bar.symbol: bar.close for bar in bars}
            self._done_ms = at
            complete.append(Slice(at, bars))
        if complete:
            self._find_oldest()
        return complete

    def _find_oldest(self) -> None:
        opens = [*self._closed, *[bar.open_time_ms for bar in self._forming.values()]]
        self._oldest_close_ms = min(opens) + BAR_MS if opens else None

    def _close(self, bar: Bar[int]) -> None:
        self._closed.setdefault(bar.open_time_ms, {})[bar.symbol] = bar

    def _is_complete(self, open_ms: int, now_ms: int) -> bool:
        """Whether no symbol can still add to the slice, or its time is over."""
        if now_ms >= open_ms + BAR_MS + self._deadline_ms:
            return True
        closed, forming = self._closed[open_ms], self._forming
        for symbol in self._symbols:
            if symbol not in closed and (symbol not in forming or forming[symbol].open_time_ms <= open_ms):
                return False
        return True
