"""The quote path: how a bar of four prices becomes the quotes that the venue streams.

A path rebuilds its bar exactly, and depends on nothing but the data set's name, the symbol, the bar
and its spread: whoever asks, for whatever part of a history and in whatever order, gets the same
quotes. So the venue, a backtest and training agree on whether a stop or a target came first.

Only integers are used, so that a path is the same on every machine.
"""

from __future__ import annotations

from decimal import Decimal
from enum import StrEnum
from functools import lru_cache
from hashlib import blake2b
from operator import ne
from struct import Struct
from typing import Literal, NamedTuple

from shared.contracts import Contract
from shared.errors import InputError
from venue.book import BASE_SPREAD, CONTRACTS
from venue.calendar import DAY_MS, HOUR_MS, M5_MS, MINUTE_MS, ROLL_HOUR, new_york_ms

QUOTES_MIN = 12
QUOTES_MAX = 30
FIRST_QUOTE_MS_MIN = 20
FIRST_QUOTE_MS_MAX = 900

_NEARER_FIRST = round(0.65 * 65_536)  # of 16 random bits
_WIDTH_QUOTES = 14  # a wide bar has up to 13 quotes more than a narrow one ...
_RANDOM_QUOTES = QUOTES_MAX - QUOTES_MIN - _WIDTH_QUOTES + 2  # ... and chance adds up to 5

_WORDS = Struct("<32I")  # two words for the bar, one for each of at most 30 quotes
_TIME = Struct("<q")

_SPREAD_BY_DAY = Decimal("1.0")  # 07-20 UTC
_SPREAD_BY_NIGHT = Decimal("1.4")
_SPREAD_AT_ROLL = Decimal(4)
_DAY_HOURS = range(7, 20)
_ROLL_START_MS = (ROLL_HOUR * 60 - 5) * MINUTE_MS  # 16:55 New York
_ROLL_END_MS = (ROLL_HOUR * 60 + 65) * MINUTE_MS  # 18:05 New York


class QuotePath(NamedTuple):
    """The quotes of one bar, oldest first: `for time_ms, bid, ask in zip(*path)`. Prices in points."""

    time_ms: list[int]
    bid: list[int]
    ask: list[int]


class TouchReason(StrEnum):
    """Which of its two levels closed a position."""

    STOP = "STOP"
    TARGET = "TARGET"


class Touch(NamedTuple):
    """Where on its path a position closes."""

    quote_index: int
    time_ms: int
    price: int  # points
    reason: TouchReason


def tick_points(contract: Contract) -> int:
    """Return the smallest price step in points."""
    return int(10 ** (5 - contract.digits))


@lru_cache(maxsize=256)
def path_seed(data_set: str, symbol: str) -> bytes:
    """Return the key from which all paths of one symbol in one data set are drawn."""
    return blake2b(f"{data_set}\0{symbol}".encode(), digest_size=32, person=b"quote-path").digest()


@lru_cache(maxsize=64)
def _spread_levels(symbol: str) -> tuple[int, int, int]:
    """Return the spread by day, by night and at the roll, in points on the symbol's grid."""
    if symbol not in BASE_SPREAD:
        raise InputError(f"no base spread is known for {symbol}: add it to venue/book.py")
    contract = CONTRACTS[symbol]
    tick = tick_points(contract)

    def on_grid(factor: Decimal) -> int:
        ticks = (BASE_SPREAD[symbol] * factor / contract.tick).quantize(Decimal(1))
        return max(int(ticks), 1) * tick

    return on_grid(_SPREAD_BY_DAY), on_grid(_SPREAD_BY_NIGHT), on_grid(_SPREAD_AT_ROLL)


def spread_points(symbol: str, time_ms: int) -> int:
    """Return the symbol's spread at a time, in points on its grid and at least one tick.

    The base spread by day (07-20 UTC), 1.4 times that by night, 4 times from 16:55 to 18:05 New York.
    All three begin and end on five-minute marks, so one bar has one spread.
    """
    by_day, by_night, at_roll = _spread_levels(symbol)
    if _ROLL_START_MS <= new_york_ms(time_ms) % DAY_MS < _ROLL_END_MS:
        return at_roll
    return by_day if time_ms % DAY_MS // HOUR_MS in _DAY_HOURS else by_night


def quote_path(
    contract: Contract,
    open_: int,
    high: int,
    low: int,
    close: int,
    open_time_ms: int,
    *,
    seed: bytes,
    spread_points: int,
) -> QuotePath:
    """Return the quotes of one bar: 12 to 30 of them, more in a wide bar than in a narrow one.

    The first bid is the open, the last the close; the extremes come in an order drawn by seed, the
    one nearer to the open first with probability 0.65, and no other quote moves the bid to them if the
    bar is at least two ticks high. Consecutive quotes never have the same spread, which is the given
    one (but two ticks at least) or a tick off it: so every quote changes the bid, the ask or both, in a
    bar without range too.

    Args:
        contract: gives the digits.
        open_: the first bid, in points, on the contract's grid as the next three.
        high: the highest bid.
        low: the lowest bid.
        close: the last bid.
        open_time_ms: the bar's open; all quotes lie in the five minutes from there.
        seed: from `path_seed`.
        spread_points: the bar's spread, from the function of that name or the caller's own.

    Raises:
        InputError: the prices are not a bar on the grid, or the spread is not positive.
    """
    tick = tick_points(contract)
    if not 0 < low <= open_ <= high or not low <= close <= high or spread_points <= 0:
        prices = f"{open_} {high} {low} {close}, spread {spread_points}"
        raise InputError(f"{contract.symbol} at {open_time_ms}: not open, high, low, close: {prices}")
    if open_ % tick or high % tick or low % tick or close % tick:
        raise InputError(f"{contract.symbol} at {open_time_ms}: prices are not multiples of {tick} points")
    time_bytes = _TIME.pack(open_time_ms)
    words = _WORDS.unpack(
        blake2b(time_bytes, key=seed, person=b"first").digest()
        + blake2b(time_bytes, key=seed, person=b"second").digest()
    )
    width = high - low
    count = QUOTES_MIN + words[0] % _RANDOM_QUOTES + _WIDTH_QUOTES * width // (width + 4 * spread_points)
    first, second = (low, high) if _low_comes_first(words[0], open_, high, low) else (high, low)
    first_at = 1 + words[1] % (count // 2)
    second_at = first_at + 1 + (words[1] >> 8) % (count - 2 - first_at)
    legs = ((first_at, first // tick), (second_at, second // tick), (count - 1, close // tick))

    first_ms = FIRST_QUOTE_MS_MIN + (words[1] >> 16) % (FIRST_QUOTE_MS_MAX - FIRST_QUOTE_MS_MIN + 1)
    cell_ms = (M5_MS - 1 - first_ms) // (count - 1)  # every later quote has a cell of its own
    time_ms = open_time_ms + first_ms
    path = QuotePath([time_ms], [open_], [open_ + max(spread_points // tick, 2) * tick])
    _walk(path, legs, words, tick, width // tick, low // tick, time_ms + 1, cell_ms)
    return path


def _low_comes_first(word: int, open_: int, high: int, low: int) -> bool:
    below, above = open_ - low, high - open_
    low_is_nearer = below < above or (below == above and word >> 15 & 1 == 1)
    return low_is_nearer == (word >> 16 < _NEARER_FIRST)


def _walk(
    path: QuotePath,
    legs: tuple[tuple[int, int], ...],
    words: tuple[int, ...],
    tick: int,
    width: int,
    low: int,
    cell_start_ms: int,
    cell_ms: int,
) -> None:
    """Append the quotes after the first: straight legs with noise. Bids and width in ticks."""
    times, bids, asks = path
    spread = asks[0] - bids[0]  # two ticks or more, so that one off it is a spread still
    inner = 1 if width >= 2 else 0
    lowest, highest = low + inner, low + width - inner
    bid, index = bids[0] // tick, 0
    for end, target in legs:
        origin, start = bid, index
        while index < end:
            index += 1
            word = words[index + 2]
            if index == end:
                bid = target
            elif word & 0xC0:  # else, one time in four, the ask alone moves
                bid = origin + (target - origin) * (index - start) // (end - start)
                bid += ((word >> 8 & 255) - 128) * width >> 9  # up to a quarter of the bar either way
                bid = lowest if bid < lowest else highest if bid > highest else bid
            price = bid * tick
            times.append(cell_start_ms + (cell_ms * (word >> 16) >> 16))
            bids.append(price)
            asks.append(price + spread + (((word & 1) * 2 - 1) * tick if index & 1 else 0))
            cell_start_ms += cell_ms


def path_volume(path: QuotePath) -> int:
    """Return the tick volume of a path: one for each side that a quote changes.

    The bar's first quote counts two: a bar begins without a quote. So the count depends on the bar
    alone, as the path does.
    """
    _, bids, asks = path
    changes: int = sum(map(ne, bids, bids[1:])) + sum(map(ne, asks, asks[1:]))
    return 2 + changes


def first_touch(
    path: QuotePath,
    side: Literal["LONG", "SHORT"],
    stop: int | None,
    target: int | None,
    *,
    after_ms: int = -1,
) -> Touch | None:
    """Return where a position closes on a path, or None if it survives it.

    A long closes on the bid, a short on the ask. Both levels fill at the price of the first quote at
    or beyond them: a gap makes a stop worse and a target better than its level.

    Args:
        path: the quotes of one bar.
        side: of the position.
        stop: level in points; None where there is none.
        target: level in points; None where there is none.
        after_ms: only quotes later than this count: the time of the quote that opened the position.

    Raises:
        InputError: a stop at or beyond its target, which no position can have.
    """
    sign, prices = (1, path.bid) if side == "LONG" else (-1, path.ask)
    if stop is not None and target is not None and sign * (target - stop) <= 0:
        raise InputError(f"a {side} cannot have its stop at {stop} and its target at {target} points")
    for index, (time_ms, price) in enumerate(zip(path.time_ms, prices, strict=True)):
        if time_ms <= after_ms:
            continue
        if stop is not None and sign * (price - stop) <= 0:
            return Touch(index, time_ms, price, TouchReason.STOP)
        if target is not None and sign * (price - target) >= 0:
            return Touch(index, time_ms, price, TouchReason.TARGET)
    return None
