"""The feed: the venue's quotes become quotes of the account, closed bars and slices for the streams."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Literal

from services.gateway.bars import BAR_MS, Slice, SliceAssembler
from services.gateway.context import Context
from services.gateway.history_check import HistoryCheck
from services.gateway.outbox import Outbox
from services.gateway.schedule import why_closed
from services.gateway.session import Session
from services.gateway.slices import Bar, fill_slice
from services.gateway.translate import close_ms, live_bar, price_of
from services.gateway.watchdog import Watchdog
from shared import streams
from shared.account import Quote
from shared.bus import Output
from shared.contracts import Contract
from shared.errors import UnavailableError
from shared.log import get_logger
from shared.messages import BarClosed, Meta, Severity

log = get_logger("gateway.feed")

LIVE_MS = 20_000  # a slice that is given out later than this after its close is not traded
CHUNK_SLICES = 50  # slices of a history in one write
TIMER_STEP_S = 0.05
HISTORY_MAX = 5000  # bars that are caught up on
HISTORY_LOOKS = 4  # at a history that lacks the bar that has just closed
HISTORY_AGAIN_S = 1.0
HISTORY_SPARE = 100  # bars asked for beyond the warm-up: symbols miss different ones


class Feed:
    """Turns spots into slices, in the venue's order, and has each slice written once."""

    def __init__(
        self,
        book: str,
        context: Context,
        outbox: Outbox,
        assembler: SliceAssembler,
        warmup_slices: int,
        quiet_s: float,
        history_spare: int = HISTORY_SPARE,
    ) -> None:
        self._book = book
        self._account = context.account
        self._timing = context.timing
        self._background = context.background
        self._alarms = context.alarms
        self._outbox = outbox
        self._history_check = HistoryCheck(context)
        self.watchdog = Watchdog(context, quiet_s)
        self._assembler = assembler
        self._warmup = warmup_slices
        self._spare = history_spare
        self._last_open_ms = 0
        self._late: set[tuple[str, int]] = set()
        self._newest_ms: dict[str, int] = {}  # stamps of the symbols' last quotes
        # quotes of after the close of a slice that is not given out yet
        self._held: list[tuple[str, Any]] = []
        self._names: dict[int, str] = {}
        self._contracts: dict[str, Contract] = {}

    def learn(self, session: Session) -> None:
        """Learn the symbols' numbers and terms of a fresh session."""
        self._held.clear()
        self._timing.restart()
        self.watchdog.restart()
        self._names = {symbol_id: c.symbol for symbol_id, c in session.by_id.items()}
        self._contracts = session.contracts

    async def start(self, last_bar: BarClosed | None) -> None:
        """Learn how far the streams go."""
        self._last_open_ms = streams.milliseconds(last_bar.open_time) if last_bar else 0

    # --- history --------------------------------------------------------------------------------

    async def backfill(self, session: Session) -> None:
        """Write what was missed, flagged as backfill, and go on behind it.

        Raises:
            UnavailableError: the venue has not enough history; without it nothing is decided.
        """
        now_ms = self._timing.now_ms()
        needed = self._warmup
        if self._last_open_ms:  # what was written before is remembered by who reads it
            needed = min((now_ms - self._last_open_ms) // BAR_MS, HISTORY_MAX)
        bars = await self._history(session, needed + self._spare, now_ms)
        forming = {s: past[-1] for s, past in bars.items() if past and close_ms(past[-1]) > now_ms}
        slices = _slices({s: [b for b in past if close_ms(b) <= now_ms] for s, past in bars.items()})
        if len(slices) < max(1, min(needed, self._warmup)):
            raise UnavailableError(f"the venue has {len(slices)} slices of history, {needed} are needed")
        new = [s for s in slices if s.open_time_ms > self._last_open_ms]
        new = new if self._last_open_ms else new[-self._warmup :]
        for at in range(0, len(new), CHUNK_SLICES):
            self._write(new[at : at + CHUNK_SLICES], live=False)
        self._assembler.start_after(slices[-1], forming)
        log.info("feed.backfilled", slices=len(new), last=str(streams.from_milliseconds(slices[-1].close_ms)))

    async def _history(self, session: Session, count: int, now_ms: int) -> dict[str, list[Bar[int]]]:
        """Return every symbol's bars; asked again while one lacks the bar that has just closed.

        It may come a second late: taken as it is, the bar would be made up, or its slice skipped.
        """
        closed_ms = now_ms - now_ms % BAR_MS - BAR_MS
        past: dict[str, list[Bar[int]]] = {symbol: [] for symbol in self._contracts}
        missing = list(self._contracts)
        for look in range(HISTORY_LOOKS):
            if look:
                await self._timing.sleep(HISTORY_AGAIN_S)
            for symbol in missing:
                past[symbol] = await session.history(symbol, count, now_ms)
            missing = [s for s in missing if _lacks(past[s], closed_ms, self._contracts[s])]
            if not missing:
                break
        return past

    # --- live -----------------------------------------------------------------------------------

    def stamp(self, spot: Any) -> None:  # noqa: ANN401 - generated class
        """Take the time and the quote of a spot event that makes no bar."""
        if spot.timestamp:
            self._timing.stamp(spot.timestamp)
        symbol = self._names.get(spot.symbolId)
        if symbol is not None:
            self._take_quote(symbol, spot)

    def _take_quote(self, symbol: str, spot: Any) -> None:  # noqa: ANN401
        """Take the prices; a side that is absent keeps its last value."""
        quotes = self._account.model.quotes
        digits = self._contracts[symbol].digits
        known = quotes.get(symbol)
        bid = price_of(spot.bid, digits) if spot.HasField("bid") else known.bid if known else None
        ask = price_of(spot.ask, digits) if spot.HasField("ask") else known.ask if known else None
        if bid is not None and ask is not None:
            quotes[symbol] = Quote(bid, ask, spot.timestamp or self._timing.now_ms())

    async def on_spot(self, spot: Any) -> None:  # noqa: ANN401
        """Take one spot event. A slice is valued at its closing quotes: a later one counts after it."""
        came_s, stamp_ms = self._timing.monotonic_s(), spot.timestamp
        if stamp_ms:
            self._timing.stamp(stamp_ms, came_s)
        symbol = self._names.get(spot.symbolId)
        if symbol is None:
            return
        self.watchdog.heard(symbol, stamp_ms, came_s)
        self._move_bar(symbol, spot, stamp_ms)
        now_ms = self._timing.now_ms(came_s)
        close_ms = self._assembler.unfinished_ms(now_ms)
        is_later = close_ms is not None and stamp_ms >= close_ms
        if is_later:
            self._held.append((symbol, spot))
        if self._held or self._assembler.has_any(now_ms):
            await self._close_due(now_ms, came_s)
        if not is_later:
            self._take_quote(symbol, spot)

    def _move_bar(self, symbol: str, spot: Any, stamp_ms: int) -> None:  # noqa: ANN401
        """Have the forming bar follow a quote: by the bar that came with it, else by its bid, once."""
        is_news = stamp_ms > self._newest_ms.get(symbol, 0)
        if is_news:
            self._newest_ms[symbol] = stamp_ms
        bar = live_bar(symbol, spot)
        if bar is not None and self._assembler.continues(bar, stamp_ms):
            if not self._assembler.update(bar):
                self._report_late(bar)
        elif is_news and spot.HasField("bid"):
            self._assembler.follow(symbol, spot.bid, stamp_ms)
        elif bar is None:
            self._assembler.count_ask(symbol, stamp_ms)

    async def keep_time(self) -> None:
        """Close bars and slices by time where no quote does; a venue whose time stands still has none."""
        while self._timing.speed:
            await self._timing.sleep(TIMER_STEP_S / max(1.0, self._timing.speed))
            await self.close_due()

    async def close_due(self) -> None:
        """Have the slices written that are complete now; time closes nothing that may be on its way."""
        now_s = self._timing.monotonic_s()
        await self._close_due(self._timing.now_ms(now_s), now_s)

    async def _close_due(self, now_ms: int, now_s: float) -> None:
        complete = self._assembler.take(now_ms - round(self._timing.quote_delay_ms()))
        for one in complete:
            self._write([one], live=now_ms - one.close_ms <= LIVE_MS, closed_s=now_s)
            self._history_check.expect(one)
        if self._held and self._assembler.unfinished_ms(now_ms) is None:
            held, self._held = self._held, []
            for symbol, spot in held:
                self._take_quote(symbol, spot)
        if complete:
            if self._account.has_new_peak():
                self._background.spawn(self._account.remember_peak)
            await asyncio.sleep(0)  # the outbox goes before the quotes that wait

    def _write(self, slices: Sequence[Slice], *, live: bool, closed_s: float | None = None) -> None:
        """Have the account as it is now and the bars behind it written, all or none."""
        metas = [_slice_meta(self._book, one) for one in slices]
        cause: Literal["slice", "start"] = "slice" if live else "start"
        account = self._account.entry(metas[0], cause, self._outbox.last_number, live=live)
        outputs = [account]
        for meta, one in zip(metas, slices, strict=True):
            outputs += _bars_of(one, meta, self._contracts, account.entry_id, live=live)
        self._outbox.put_slices(outputs, closed_s)
        self._last_open_ms = slices[-1].open_time_ms

    def _report_late(self, bar: Bar[int]) -> None:
        """A bar that comes after its slice is an alarm, not an entry."""
        place = (bar.symbol, bar.open_time_ms)
        if bar.open_time_ms == self._last_open_ms and place not in self._late:
            self._late = {place}
            at = streams.from_milliseconds(bar.open_time_ms)
            self._alarms.tell_soon(
                f"{bar.symbol}: a quote of the bar of {at:%H:%M} came after its slice", Severity.WARNING
            )


def _lacks(past: Sequence[Bar[int]], open_ms: int, contract: Contract) -> bool:
    """Whether a history ends before a bar in which the symbol could be traded."""
    if past and past[-1].open_time_ms >= open_ms:
        return False
    return why_closed(contract, streams.from_milliseconds(open_ms)) is None


def _slice_meta(book: str, one: Slice) -> Meta:
    at = streams.from_milliseconds(one.close_ms)
    return Meta.root(f"{book}:slice:{one.close_ms}", at)


def _bars_of(
    one: Slice, meta: Meta, contracts: dict[str, Contract], account_id: str, *, live: bool
) -> list[Output]:
    open_time, close_ms, size = streams.from_milliseconds(one.open_time_ms), one.close_ms, len(one.bars)
    outputs = []
    for index, bar in enumerate(one.bars):
        digits = contracts[bar.symbol].digits
        message = BarClosed(
            meta=meta.effect(BarClosed, bar.symbol),
            symbol=bar.symbol,
            open_time=open_time,
            open=price_of(bar.open, digits),
            high=price_of(bar.high, digits),
            low=price_of(bar.low, digits),
            close=price_of(bar.close, digits),
            tick_volume=bar.volume,
            origin="live" if live else "backfill",
            synthetic=bar.synthetic,
            index=index,
            slice_size=size,
            account_id=account_id,
        )
        outputs.append(Output(message, f"{close_ms}-{index}"))
    return outputs


def _slices(bars: dict[str, list[Bar[int]]]) -> list[Slice]:
    """Return the slices of a history; it begins once every symbol has had a bar."""
    by_time: dict[int, dict[str, Bar[int]]] = {}
    for symbol, past in bars.items():
        for bar in past:
            by_time.setdefault(bar.open_time_ms, {})[symbol] = bar
    previous: dict[str, int] = {}
    slices = []
    for at in sorted(by_time):
        if len(previous | dict.fromkeys(by_time[at], 0)) == len(bars):
            filled = fill_slice(at, by_time[at], previous, list(bars))
            slices.append(Slice(at, filled))
        previous |= {symbol: bar.close for symbol, bar in by_time[at].items()}
    return slices
