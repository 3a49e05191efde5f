"""Slices: all symbols' bars of one open time. One rule makes them, live and for training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from shared.contracts import POINTS_PER_UNIT
from shared.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PriceT = TypeVar("PriceT", int, Decimal)  # int: the venue's 1/100,000 of a price unit


class Bar(NamedTuple, Generic[PriceT]):  # a tuple is made quickly: there is one for every quote
    """One closed M5 bar of bids, named by its open time. Volume counts quote changes."""

    symbol: str
    open_time_ms: int
    open: PriceT
    high: PriceT
    low: PriceT
    close: PriceT
    volume: int
    synthetic: bool = False  # no quote came: a flat bar at the close before


@dataclass(frozen=True, slots=True)
class History:
    """Consecutive slices as arrays, oldest first; prices in price units."""

    symbols: tuple[str, ...]
    open_time_ms: NDArray[np.int64]  # (n,)
    values: NDArray[np.float64]  # (n, symbols, 5): open, high, low, close, volume
    synthetic: NDArray[np.bool_]  # (n, symbols)


def fill_slice(
    open_time_ms: int,
    bars: Mapping[str, Bar[PriceT]],
    previous_close: Mapping[str, PriceT],
    symbols: Sequence[str],
) -> tuple[Bar[PriceT], ...]:
    """Return the slice in symbol order; a symbol without a bar gets a synthetic flat one.

    Args:
        open_time_ms: open time of the slice, milliseconds since the epoch.
        bars: the bars there are, by symbol.
        previous_close: the close of each symbol's bar before this slice, by symbol.
        symbols: the book's symbols, in their order.

    Raises:
        InputError: no symbol has a bar, one without has no close before, or a bar is of another time.
    """
    filled = []
    real = 0
    for symbol in symbols:
        bar = bars.get(symbol)
        if bar is None:
            close = previous_close.get(symbol)
            if close is None:
                raise InputError(f"slice {open_time_ms}: {symbol} has no bar and no close before it")
            bar = Bar(symbol, open_time_ms, close, close, close, close, 0, True)
        elif bar.open_time_ms != open_time_ms or bar.symbol != symbol:
            raise InputError(f"slice {open_time_ms}: given {bar.symbol}'s bar of {bar.open_time_ms}")
        else:
            real += 1
        filled.append(bar)
    if not real:
        raise InputError(
            f"slice {open_time_ms}: none of {', '.join(symbols)} has a bar, so it does not exist"
        )
    return tuple(filled)


def bars_of(
    symbol: str,
    open_time_ms: NDArray[np.int64],
    ohlc: Sequence[NDArray[np.int64]],
    volume: NDArray[np.int64],
) -> list[Bar[int]]:
    """Return a symbol's bars from its columns; `ohlc` is open, high, low and close in points."""
    columns = (column.tolist() for column in (open_time_ms, *ohlc, volume))
    return [Bar(symbol, *row) for row in zip(*columns, strict=True)]


def build_history(bars_by_symbol: Mapping[str, Sequence[Bar[int]]]) -> History:
    """Return the slices of a past, built with `fill_slice` one after the other.

    It begins at the first slice at which every symbol has had a bar; before that there is no close to
    make a synthetic bar from.

    Args:
        bars_by_symbol: bars with prices in points; the mapping's order is the symbols' order.

    Raises:
        InputError: a symbol has no bar, or two of the same time.
    """
    import numpy as np  # here, because the live gateway never builds a history and goes without numpy

    symbols = tuple(bars_by_symbol)
    slices: dict[int, dict[str, Bar[int]]] = {}
    for symbol, bars in bars_by_symbol.items():
        for bar in bars:
            at = slices.setdefault(bar.open_time_ms, {})
            if symbol in at:
                raise InputError(f"{symbol} has two bars of {bar.open_time_ms}: keep one")
            at[symbol] = bar
    previous: dict[str, int] = {}
    times: list[int] = []
    rows: list[tuple[int, int, int, int, int]] = []
    synthetic: list[bool] = []
    for time_ms in sorted(slices):
        there = slices[time_ms]
        if len(previous) < len(symbols) and not previous.keys() | there.keys() >= set(symbols):
            previous.update((symbol, bar.close) for symbol, bar in there.items())
            continue
        for bar in fill_slice(time_ms, there, previous, symbols):
            previous[bar.symbol] = bar.close
            rows.append((bar.open, bar.high, bar.low, bar.close, bar.volume))
            synthetic.append(bar.synthetic)
        times.append(time_ms)
    if not times:
        raise InputError(f"no history: one of {', '.join(symbols) or 'no symbols'} never has a bar")
    values = np.array(rows, dtype=np.float64).reshape(len(times), len(symbols), 5)
    values[:, :, :4] /= POINTS_PER_UNIT
    return History(
        symbols=symbols,
        open_time_ms=np.array(times, dtype=np.int64),
        values=values,
        synthetic=np.array(synthetic, dtype=np.bool_).reshape(len(times), len(symbols)),
    )
