"""A random market: five correlated symbols with sessions, weekends and moods, from a seed.

It is made to be worked with, not to be believed: levels and habits (activity by hour, correlations,
fat tails, clustering of volatility) follow real quotes of 2017 and 2018 roughly, and one small
pattern is put in on purpose, so that a model has something to find. A result on this market says
that the machinery works, and nothing about money.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from shared.contracts import Contract
from shared.errors import InputError
from venue.book import CONTRACTS, SYMBOLS
from venue.calendar import (
    BREAK_END_HOUR,
    DAILY_BREAK_SYMBOLS,
    M5_MS,
    ROLL_HOUR,
    is_holiday,
    week_open_ms,
)
from venue.ticks import tick_points

Floats: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]

BARS_PER_HOUR = 12
WEEK_BARS = 5 * 24 * BARS_PER_HOUR  # Sunday 17:00 to Friday 17:00 New York
STEPS_PER_BAR = 12
STRUCTURE_STRENGTH = 0.06  # correlation of the pattern with the next bar's return, in its hours

START_PRICE = {"EURUSD": 1.10, "GBPUSD": 1.30, "USDJPY": 110.0, "USDCHF": 0.98, "XAUUSD": 1300.0}

# Standard deviation of a five-minute return in tenths of a basis point, by New York hour from 0.
_SIGMA_BY_HOUR = {
    "EURUSD": "15 21 31 36 32 29 27 32 46 38 42 33 28 26 29 22 17 14 16 18 20 20 17 14",
    "GBPUSD": "15 22 34 42 44 38 37 41 47 42 48 38 33 31 30 21 19 16 18 19 21 20 17 15",
    "USDJPY": "21 24 29 30 26 23 22 24 43 38 42 35 30 31 33 27 20 18 24 27 33 29 24 20",
    "USDCHF": "14 18 28 34 31 29 27 28 41 37 44 34 29 27 29 22 17 16 17 17 20 19 16 14",
    "XAUUSD": "21 27 34 38 36 31 30 36 60 56 58 47 39 42 44 33 25 13 27 27 34 34 24 20",
}
_CORRELATION = (
    (1.00, 0.55, -0.40, -0.70, 0.45),
    (0.55, 1.00, -0.25, -0.45, 0.30),
    (-0.40, -0.25, 1.00, 0.50, -0.50),
    (-0.70, -0.45, 0.50, 1.00, -0.40),
    (0.45, 0.30, -0.50, -0.40, 1.00),
)

_TAIL_FREEDOM = 5.0  # of Student's t
_MOOD_DECAY = 0.99  # of the log volatility, from bar to bar
_MOOD_SD = 0.35
_MOOD_SHARED = 0.7  # how much of the mood all symbols have in common, as a correlation
_OPENING_STEP = 0.2  # a bar opens near the last close: its first step is smaller than the others
_WEEKEND_GAP_SIGMAS = 5.0  # of an average bar
_WEEKLY_PULL = 0.02  # of the distance to the start price: keeps prices plausible over years
_MISSING_SHARE = 0.03  # of the bars in the thin hour after the roll
_PATTERN_BARS = 12
_TYPICAL_VOLUME = 400.0
_VOLUME_MIN, _VOLUME_MAX = 20, 5_000


@dataclass(frozen=True, slots=True)
class BarSeries:
    """The bid bars of one symbol, oldest first; bars without ticks are absent. Prices in points."""

    symbol: str
    open_time_ms: Integers
    open: Integers
    high: Integers
    low: Integers
    close: Integers
    volume: Integers | None  # ticks; None where the source has none and the quote path models it


class _State(NamedTuple):
    """What one week hands to the next."""

    log_price: Floats  # against the start price, one a symbol
    mood: Floats  # log volatility: the shared one, then one a symbol


class _Week(NamedTuple):
    """All symbols' bars of one FX week, columns in the order of SYMBOLS; prices against the start's."""

    ohlc: tuple[Floats, Floats, Floats, Floats]
    volume: Integers
    present: NDArray[np.bool_]


def synthetic_market(
    seed: int,
    start: datetime,
    *,
    slices: int | None = None,
    end: datetime | None = None,
    symbols: Sequence[str] = SYMBOLS,
    contracts: Mapping[str, Contract] = CONTRACTS,
    structure_strength: float = STRUCTURE_STRENGTH,
) -> dict[str, BarSeries]:
    """Return a random market from `start` on: `slices` five-minute stamps of session, or up to `end`.

    Weeks are drawn one by one from (seed, week): the same seed and start give the same bits, a longer
    market begins with the shorter one, and a symbol's bars do not depend on which others are asked for.

    The pattern that is put in: let u be the sum of the last 12 bars' surprises of this week, scaled to
    variance 1 (a surprise is a bar's return over its volatility, without the pattern). The next bar's
    return is shifted by structure_strength · u of its own volatility: with u in London's hours (03-12
    New York, momentum), against it in Asia's (17-03, reversion), not at all from 12 to 17. So a return
    correlates with what went before by about the strength; 0 gives a market without it.

    Args:
        seed: not negative.
        start: aware; bars open at or after it. Prices are at their start values when its week opens.
        slices: how many stamps; not with `end`.
        end: aware, exclusive; not with `slices`.
        symbols: among those of venue/book.py.
        contracts: their digits give the grid of prices.
        structure_strength: in [0, 0.5].

    Raises:
        InputError: an argument out of its range.
    """
    _check(seed, start, slices, end, symbols, contracts, structure_strength)
    start_ms, end_ms = _ceil_ms(start), 2**62 if end is None else _ceil_ms(end)
    wanted = 2**62 if slices is None else slices
    columns = [SYMBOLS.index(symbol) for symbol in symbols]
    parts: dict[str, list[tuple[Integers, ...]]] = {symbol: [] for symbol in symbols}
    state = _State(np.zeros(len(SYMBOLS)), np.zeros(len(SYMBOLS) + 1))
    week_ms = week_open_ms(start_ms)
    while wanted > 0 and week_ms < end_ms:
        state, week = _draw_week(seed, week_ms, state, structure_strength)
        stamps = week_ms + M5_MS * np.arange(WEEK_BARS)
        asked = (stamps >= start_ms) & (stamps < end_ms) & _SESSIONS[:, columns].any(axis=1)
        asked &= ~np.repeat(
            [is_holiday(open_ms) for open_ms in stamps[::BARS_PER_HOUR].tolist()], BARS_PER_HOUR
        )
        asked &= np.cumsum(asked) <= wanted
        wanted -= int(asked.sum())
        for symbol, column in zip(symbols, columns, strict=True):
            rows = asked & week.present[:, column]
            prices = (_on_grid(values[rows, column], contracts[symbol]) for values in week.ohlc)
            parts[symbol].append((stamps[rows], *prices, week.volume[rows, column]))
        week_ms = week_open_ms(week_ms + 8 * 24 * 3_600_000)  # a day into the next week
    return {symbol: _joined(symbol, parts[symbol]) for symbol in symbols}


def _check(
    seed: int,
    start: datetime,
    slices: int | None,
    end: datetime | None,
    symbols: Sequence[str],
    contracts: Mapping[str, Contract],
    structure_strength: float,
) -> None:
    if seed < 0:
        raise InputError(f"seed {seed}: give a whole number from 0")
    if start.tzinfo is None or (end is not None and end.tzinfo is None):
        raise InputError("start and end need a time zone: give aware times")
    if (slices is None) == (end is None):
        raise InputError("give either slices or end")
    if slices is not None and slices < 1:
        raise InputError(f"slices {slices}: give at least 1")
    if end is not None and end <= start:
        raise InputError(f"end {end} is not after start {start}")
    if not 0 <= structure_strength <= 0.5:
        raise InputError(f"structure_strength {structure_strength}: give a value from 0 to 0.5")
    for symbol in symbols:
        if symbol not in SYMBOLS or symbol not in contracts:
            raise InputError(f"{symbol} is not in this market: choose among {', '.join(SYMBOLS)}")


def _draw_week(seed: int, week_ms: int, state: _State, strength: float) -> tuple[_State, _Week]:
    """Draw one whole week, whatever part of it is asked for."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, week_ms // M5_MS))))
    count = len(SYMBOLS)
    steps = rng.standard_normal((WEEK_BARS, STEPS_PER_BAR, count)) @ _CHOLESKY.T
    tail = np.sqrt((_TAIL_FREEDOM - 2) / (2 * rng.standard_gamma(_TAIL_FREEDOM / 2, (WEEK_BARS, count))))
    steps *= _STEP_SCALE[:, None] * tail[:, None, :]
    moods = _moods(rng, state.mood)
    mood = np.sqrt(_MOOD_SHARED) * moods[:, :1] + np.sqrt(1 - _MOOD_SHARED) * moods[:, 1:]
    sigma = _SIGMA * np.exp(mood - _MOOD_SD**2)

    drift = strength * _PATTERN_SIGN[:, None] * _recent(steps.sum(axis=1))
    steps += drift[:, None, :] / STEPS_PER_BAR
    steps *= sigma[:, None, :]
    gap = tail[0] * (_CHOLESKY @ rng.standard_normal(count))
    steps[0, 0] += _WEEKEND_GAP_SIGMAS * _SIGMA.mean(axis=0) * gap
    steps -= _WEEKLY_PULL * state.log_price / (WEEK_BARS * STEPS_PER_BAR)

    path = state.log_price + np.cumsum(steps.reshape(-1, count), axis=0)
    prices = (np.exp(path) * _START).reshape(WEEK_BARS, STEPS_PER_BAR, count)
    ohlc = (prices[:, 0], prices.max(axis=1), prices.min(axis=1), prices[:, -1])
    volume = _volumes(rng, mood, tail)
    present = _SESSIONS & ~(_THIN_HOUR[:, None] & (rng.random((WEEK_BARS, count)) < _MISSING_SHARE))
    return _State(path[-1], moods[-1]), _Week(ohlc, volume, present)


def _moods(rng: np.random.Generator, before: Floats) -> Floats:
    """Return the log volatilities of a week: the shared one, then one a symbol."""
    shocks = rng.standard_normal((WEEK_BARS, before.size)) * _MOOD_SD * np.sqrt(1 - _MOOD_DECAY**2)
    shocks[0] += _MOOD_DECAY * before
    walks = (accumulate(column.tolist(), _next_mood) for column in shocks.T)
    return np.array([list(walk) for walk in walks]).T


def _next_mood(mood: float, shock: float) -> float:
    return _MOOD_DECAY * mood + shock


def _recent(surprise: Floats) -> Floats:
    """Return the sum of the bars before each bar, over their number's root."""
    total = np.cumsum(surprise, axis=0)
    recent: Floats = np.zeros_like(surprise)
    recent[1:] = total[:-1]
    recent[_PATTERN_BARS + 1 :] -= total[: -_PATTERN_BARS - 1]
    recent /= np.sqrt(_PATTERN_BARS)
    return recent


def _volumes(rng: np.random.Generator, mood: Floats, tail: Floats) -> Integers:
    """Return tick volumes: they follow the hour, the mood and the size of the move."""
    activity = _SIGMA / _SIGMA.mean(axis=0)
    noise = np.exp(0.25 * rng.standard_normal(tail.shape))
    volume = _TYPICAL_VOLUME * activity * np.exp(0.8 * mood) * np.sqrt(tail) * noise
    clipped: Integers = np.clip(np.rint(volume), _VOLUME_MIN, _VOLUME_MAX).astype(np.int64)
    return clipped


def _on_grid(prices: Floats, contract: Contract) -> Integers:
    ticks: Integers = np.rint(prices * 10.0**contract.digits).astype(np.int64)
    return ticks * tick_points(contract)


def _joined(symbol: str, parts: list[tuple[Integers, ...]]) -> BarSeries:
    empty = (np.empty(0, np.int64),) * 6
    columns = [np.concatenate(column) for column in zip(*(parts or [empty]), strict=True)]
    return BarSeries(symbol, *columns)


def _ceil_ms(time: datetime) -> int:
    return -((datetime(1970, 1, 1, tzinfo=UTC) - time) // timedelta(milliseconds=1))


def _hours() -> Integers:
    """Return the New York hour of every bar of a week; the clocks never change inside one."""
    return (ROLL_HOUR + np.arange(WEEK_BARS) // BARS_PER_HOUR) % 24


def _sessions() -> NDArray[np.bool_]:
    in_break = (_hours() >= ROLL_HOUR) & (_hours() < BREAK_END_HOUR)
    return np.stack([~(in_break & (symbol in DAILY_BREAK_SYMBOLS)) for symbol in SYMBOLS], axis=1)


def _pattern_sign() -> Floats:
    hours = _hours()
    london, asia = (hours >= 3) & (hours < 12), (hours >= ROLL_HOUR) | (hours < 3)
    return london.astype(np.float64) - asia.astype(np.float64)


def _step_scale() -> Floats:
    scale: Floats = np.ones(STEPS_PER_BAR)
    scale[0] = _OPENING_STEP
    scale /= np.sqrt(np.square(scale).sum())
    return scale


_SESSIONS = _sessions()
_THIN_HOUR = _hours() == ROLL_HOUR
_PATTERN_SIGN = _pattern_sign()
_STEP_SCALE = _step_scale()
_SIGMA: Floats = (
    np.array([_SIGMA_BY_HOUR[symbol].split() for symbol in SYMBOLS], np.float64).T[_hours()] * 1e-5
)
_START = np.array([START_PRICE[symbol] for symbol in SYMBOLS])
_CHOLESKY: Floats = np.linalg.cholesky(np.array(_CORRELATION))
