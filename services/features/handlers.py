"""Turns the bars of a slice and its account entry into the columns that the models see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Final, Protocol

import numpy as np

from services.features.engine import FeatureEngine, MarketRows
from services.features.portfolio import fill_portfolio, view_of
from shared.contracts import Contract, contracts_hash
from shared.errors import InputError, UnavailableError
from shared.messages import (
    AccountReported,
    BarClosed,
    EventReported,
    FeaturesComputed,
    Message,
    QuoteReported,
    Severity,
    SymbolRow,
    TradeHistory,
)
from shared.streams import milliseconds

SLICES_MIN: Final = 300  # recursions have forgotten their start by then


class BookReader(Protocol):
    """Reads what belongs to a slice beside its bars."""

    async def account(self, entry_id: str) -> AccountReported:
        """Return an account entry; UnavailableError if it is not there."""

    async def contracts(self) -> Mapping[str, Contract]:
        """Return the venue's terms of every symbol of the book."""


class FeaturesHandlers:
    """One slice in, one row out. The state is the indicators' alone; the account is read, not kept."""

    def __init__(
        self,
        symbols: Sequence[str],
        reader: BookReader,
        *,
        slices_min: int = SLICES_MIN,
        engine: FeatureEngine | None = None,
    ) -> None:
        """Wire.

        Args:
            symbols: the book's, in their order.
            reader: of the account entries and the venue's terms.
            slices_min: fewer are no history: until then nothing is said.
            engine: a fresh one if it is not given.
        """
        self._reader = reader
        self._slices_min = slices_min
        self._engine = engine or FeatureEngine(symbols)
        self._bars: list[BarClosed] = []
        self._contracts: Mapping[str, Contract] = {}
        self._contracts_hash = ""
        self._ticks: list[Decimal] = []  # in symbol order

    async def on_bar(self, bar: BarClosed) -> list[Message] | None:
        """Return the slice's columns with its last bar; None until then; nothing while warming up."""
        self._take(bar)
        if bar.index < bar.slice_size - 1:
            return None
        bars, self._bars = self._bars, []
        if self._engine.slices_seen + 1 < self._slices_min:
            self._advance(bars)
            return []
        account = await self._reader.account(bar.account_id)
        await self._read_contracts(account)
        rows = self._advance(bars)
        try:
            return [self._features(bars, rows, account)]
        except InputError as error:  # the account's fault: the market's state stands and goes on
            return [_alarm(bar, error)]

    def snapshot(self) -> bytes:
        """Return the indicators' state."""
        return self._engine.snapshot()

    def restore(self, data: bytes | None) -> None:
        """Become the state of the last commit; bars of a slice not finished come again."""
        self._bars = []
        self._engine.restore(data or None)

    def _take(self, bar: BarClosed) -> None:
        """Add a bar to its slice.

        Raises:
            InputError: it is not the one that comes next.
        """
        place, symbols = len(self._bars), self._engine.symbols
        fits = bar.index == place and bar.slice_size == len(symbols) and bar.symbol == symbols[place]
        if not fits or (self._bars and bar.open_time != self._bars[0].open_time):
            raise InputError(
                f"{bar.symbol}'s bar of {bar.open_time.isoformat()} is number {bar.index + 1} of "
                f"{bar.slice_size}; wanted was {symbols[place]}'s, number {place + 1} of {len(symbols)}"
            )
        self._bars.append(bar)

    def _advance(self, bars: Sequence[BarClosed]) -> MarketRows:
        values = [
            (float(bar.open), float(bar.high), float(bar.low), float(bar.close), bar.tick_volume)
            for bar in bars
        ]
        return self._engine.advance(
            np.array([milliseconds(bars[0].open_time)], np.int64),
            np.array([values], np.float64),
            np.array([[bar.synthetic for bar in bars]]),
        )

    async def _read_contracts(self, account: AccountReported) -> None:
        """Read the terms anew when the account entry names others."""
        if account.contracts_hash == self._contracts_hash:
            return
        self._contracts = await self._reader.contracts()
        self._contracts_hash = contracts_hash(self._contracts)
        missing = set(self._engine.symbols) - set(self._contracts)
        self._ticks = [self._contracts[symbol].tick for symbol in self._engine.symbols if not missing]
        if missing or (account.live and account.contracts_hash != self._contracts_hash):
            raise UnavailableError(
                f"the book's contracts are not those of the account entry; missing: {sorted(missing)}"
            )

    def _features(
        self, bars: Sequence[BarClosed], rows: MarketRows, account: AccountReported
    ) -> FeaturesComputed:
        last = bars[-1]
        close_time, close, atr = last.close_time, rows.close[0].tolist(), rows.atr[0].tolist()
        alpha, guard = rows.alpha[0], rows.guard[0]
        view = view_of(account, self._engine.symbols, milliseconds(close_time))
        fill_portfolio(alpha, guard, view, close, atr, [float(tick) for tick in self._ticks])
        numbers = zip(close, atr, rows.atr_guard[0].tolist(), rows.real_bars[0].tolist(), strict=True)
        return FeaturesComputed(
            meta=last.meta.effect(FeaturesComputed),
            close_time=close_time,
            live=account.live and {bar.origin for bar in bars} == {"live"},
            account_id=last.account_id,
            slices_seen=int(rows.slices_seen[0]),
            alpha_schema=self._engine.alpha_schema.tag,
            alpha=tuple(alpha.tolist()),
            guard_schema=self._engine.guard_schema.tag,
            guard=tuple(guard.tolist()),
            rows=tuple(
                self._row(bar, tick, market, account)
                for bar, tick, market in zip(bars, self._ticks, numbers, strict=True)
            ),
        )

    def _row(
        self, bar: BarClosed, tick: Decimal, market: tuple[float, float, float, int], account: AccountReported
    ) -> SymbolRow:
        close, atr, atr_guard, real_bars = market
        quote = account.quotes.get(bar.symbol, _NO_QUOTE)
        return SymbolRow(
            symbol=bar.symbol,
            close=close,
            atr=atr,
            atr_guard=atr_guard,
            synthetic=bar.synthetic,
            real_bars=real_bars,
            bid=quote.bid,
            ask=quote.ask,
            tick=tick,
            min_stop_distance=self._contracts[bar.symbol].min_stop_distance,
            history=account.history.get(bar.symbol, _NO_HISTORY),
        )


# No quote came yet: a price of 0, which the next stage refuses, and not some other price.
_NO_QUOTE = QuoteReported.model_validate({"bid": 0, "ask": 0, "age_s": 0, "conversion": 0})
_NO_HISTORY = TradeHistory()


def _alarm(bar: BarClosed, error: InputError) -> EventReported:
    return EventReported(
        meta=bar.meta.effect(EventReported, "features"),
        service="features",
        kind="alarm",
        severity=Severity.ERROR,
        text=f"no features of the slice closed {bar.close_time.isoformat()}: {error}",
        details={"account_id": bar.account_id},
    )
