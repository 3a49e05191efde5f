"""Alpha, Risk, TradeGuard: from the columns of one slice to one verdict a symbol. Pure.

Nothing that is not finite, missing or mismatched lets a trade through: it blocks, with a reason and,
where something is wrong rather than unwanted, an alarm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Decimal
from math import isfinite
from types import MappingProxyType
from typing import Final

import numpy as np

from services.inference.actors import Array
from services.inference.bundle import ALPHA_INPUTS, GUARD_INPUTS, RISK_INPUTS, Bundle, Decoding
from shared.errors import InputError
from shared.messages import Direction, FeaturesComputed, SymbolRow, TradeHistory, Verdict

ALLOWED: Final = "ALLOWED"
ALPHA_FLAT: Final = "ALPHA_FLAT"
RISK_BLOCKED: Final = "RISK_BLOCKED"
GUARD_BLOCKED: Final = "GUARD_BLOCKED"
WARMING_UP: Final = "WARMING_UP"
NO_RANGE: Final = "NO_RANGE"  # ATR is 0: a stop would be a guess
BAD_QUOTE: Final = "BAD_QUOTE"
SCHEMA_MISMATCH: Final = "SCHEMA_MISMATCH"
MODEL_MISSING: Final = "MODEL_MISSING"
MODEL_ERROR: Final = "MODEL_ERROR"
ALARMS: Final = frozenset({BAD_QUOTE, SCHEMA_MISMATCH, MODEL_MISSING, MODEL_ERROR})

SLICES_MIN: Final = 300  # recursions have forgotten their start by then
DIRECTIONS_KEPT: Final = 21  # persistence counts to 20, and one to end the run

EQUITY: Final = 125  # of the Alpha observation, in initial equities
DRAWDOWN: Final = 127
EPSILON: Final = 1e-6
_GUARD_PER_SYMBOL: Final = 20
_ACTION, _PERSISTENCE, _REVERSAL, _SL_SIZE, _RR = range(15, 20)
_PERSISTENCE_MAX: Final = 20
_GRAIN: Final = Decimal("1e-12")


@dataclass(slots=True)
class Opinion:
    """What the models say of one symbol, with every number that led to it; filled in from layer to layer."""

    direction: Direction = Direction.FLAT
    verdict: Verdict = Verdict.BLOCK
    reason: str = MODEL_ERROR
    alpha_action: float = 0.0
    sl_mult: float | None = None
    tp_mult: float | None = None
    risk_knob: float | None = None
    risk_fraction: float | None = None
    stop_distance: Decimal | None = None
    target_distance: Decimal | None = None
    guard_probability: float | None = None
    detail: str = ""  # what is wrong, where the reason is an alarm


@dataclass(frozen=True, slots=True)
class Memory:
    """Alpha's own last directions, newest last, at most 21 a symbol: all that the chain remembers."""

    directions: Mapping[str, tuple[int, ...]] = field(default_factory=lambda: MappingProxyType({}))

    def of(self, symbol: str) -> tuple[int, ...]:
        """Return the symbol's directions before this slice."""
        return self.directions.get(symbol, ())

    def with_slice(self, directions: Mapping[str, int]) -> Memory:
        """Return the memory after one more slice."""
        kept = {s: (*self.directions.get(s, ()), d)[-DIRECTIONS_KEPT:] for s, d in directions.items()}
        return Memory(MappingProxyType({**self.directions, **kept}))


@dataclass(frozen=True, slots=True)
class RiskDecision:
    """A decoded risk action; the fraction is None where the model blocks."""

    sl_mult: float
    tp_mult: float
    knob: float
    risk_fraction: float | None


def judge_slice(features: FeaturesComputed, bundle: Bundle, memory: Memory) -> tuple[list[Opinion], Memory]:
    """Return one opinion a row of the slice, in its order, and the memory after it."""
    symbols = tuple(row.symbol for row in features.rows)
    wrong = _wrong_slice(features, symbols, bundle)
    if wrong is None and features.slices_seen < SLICES_MIN:
        wrong = Opinion(reason=WARMING_UP)
    observation = np.array(features.alpha, dtype=np.float64)
    actions: list[float] = []
    if wrong is None and bundle.alpha is None:
        wrong = Opinion(reason=MODEL_MISSING, detail="Alpha is missing from the bundle")
    elif wrong is None and bundle.alpha is not None:
        actions = bundle.alpha.act(observation).tolist()
        if not (np.isfinite(observation).all() and all(map(isfinite, actions))):
            wrong = Opinion(reason=MODEL_ERROR, detail="Alpha's columns or actions are not finite")
    if wrong is not None:
        return [wrong] * len(symbols), memory.with_slice(dict.fromkeys(symbols, 0))
    directions = [alpha_direction(action, bundle.manifest.decoding) for action in actions]
    opinions = [
        _judge_symbol(features, bundle, memory, k, observation, Opinion(alpha_action=action), directions)
        for k, action in enumerate(actions)
    ]
    return opinions, memory.with_slice(dict(zip(symbols, directions, strict=True)))


def _wrong_slice(features: FeaturesComputed, symbols: tuple[str, ...], bundle: Bundle) -> Opinion | None:
    manifest = bundle.manifest
    pairs = (("alpha", features.alpha_schema), ("guard", features.guard_schema))
    for layer, tag in pairs:
        if tag != manifest.schemas.get(layer):
            return Opinion(reason=SCHEMA_MISMATCH, detail=f"{layer} columns are {tag}, not the bundle's")
    if symbols != manifest.symbols:
        return Opinion(
            reason=SCHEMA_MISMATCH, detail=f"symbols are {symbols}, the bundle's {manifest.symbols}"
        )
    if len(features.alpha) != ALPHA_INPUTS or len(features.guard) != GUARD_INPUTS:
        widths = f"{len(features.alpha)} and {len(features.guard)}"
        return Opinion(reason=SCHEMA_MISMATCH, detail=f"columns are {widths}")
    return None


def _judge_symbol(
    features: FeaturesComputed,
    bundle: Bundle,
    memory: Memory,
    k: int,
    observation: Array,
    opinion: Opinion,
    directions: list[int],
) -> Opinion:
    """Fill in the opinion of one symbol, as far as nothing stops it."""
    row, decoding = features.rows[k], bundle.manifest.decoding
    sign = directions[k]
    if sign == 0:
        opinion.verdict, opinion.reason = Verdict.FLAT, ALPHA_FLAT
        return opinion
    opinion.direction = Direction.LONG if sign > 0 else Direction.SHORT
    if not (isfinite(row.atr) and isfinite(row.close) and row.close > 0 and row.tick > 0):
        opinion.detail = f"close {row.close}, ATR {row.atr}, tick {row.tick}"
        return opinion
    if row.atr <= 0:
        opinion.reason = NO_RANGE
        return opinion
    if not 0 < row.bid <= row.ask:
        opinion.reason, opinion.detail = BAD_QUOTE, f"bid {row.bid}, ask {row.ask}"
        return opinion
    if bundle.risk is None:
        opinion.reason, opinion.detail = MODEL_MISSING, "Risk is missing from the bundle"
        return opinion
    columns = risk_observation(observation, sign, k, row.history, decoding)
    risk_actions = bundle.risk.act(columns)
    if not (np.isfinite(columns).all() and np.isfinite(risk_actions).all()):
        opinion.detail = "Risk's columns or actions are not finite"
        return opinion
    risk = decode_risk(risk_actions, float(features.alpha[DRAWDOWN]), decoding)
    opinion.sl_mult, opinion.tp_mult, opinion.risk_knob = risk.sl_mult, risk.tp_mult, risk.knob
    if risk.risk_fraction is None:
        opinion.reason = RISK_BLOCKED
        return opinion
    stop, target = stop_distance(row, risk.sl_mult, decoding), target_distance(row, risk.tp_mult)
    opinion.risk_fraction, opinion.stop_distance, opinion.target_distance = risk.risk_fraction, stop, target
    previous = [memory.of(each.symbol) for each in features.rows]
    columns = guard_observation(
        np.array(features.guard), k, directions, previous, float(stop), float(target), row.close
    )
    _ask_guard(bundle, columns, opinion)
    return opinion


def _ask_guard(bundle: Bundle, columns: Array, opinion: Opinion) -> None:
    if bundle.guard is None:
        opinion.reason, opinion.detail = MODEL_MISSING, "TradeGuard is missing from the bundle"
        return
    if not np.isfinite(columns).all():  # LightGBM would take a NaN for a missing value and go on
        opinion.detail = "TradeGuard's columns are not finite"
        return
    try:
        probability = bundle.guard.probability(columns)
    except InputError as error:
        opinion.detail = str(error)
        return
    if not 0 <= probability <= 1:
        opinion.detail = f"TradeGuard's probability is {probability}"
        return
    opinion.guard_probability = probability
    if probability < bundle.manifest.guard_threshold:
        opinion.reason = GUARD_BLOCKED
    else:
        opinion.verdict, opinion.reason = Verdict.ALLOW, ALLOWED


def alpha_direction(action: float, decoding: Decoding) -> int:
    """Return +1 above the threshold, -1 below its negative, else 0; equality is flat."""
    return int(action > decoding.alpha_threshold) - int(action < -decoding.alpha_threshold)


def risk_cap(drawdown: float, decoding: Decoding) -> float:
    """Return what a drawdown leaves of the risk: max(0.2, 1 - 2 * drawdown)."""
    return max(decoding.risk_cap_min, 1.0 - decoding.risk_cap_slope * drawdown)


def risk_observation(
    alpha: Array, direction: int, symbol_index: int, history: TradeHistory, decoding: Decoding
) -> Array:
    """Return the 165 columns of a candidate: the slice's 140 and its own 25.

    Args:
        alpha: the Alpha observation, shape (140,).
        direction: of the candidate, -1 or +1.
        symbol_index: its place in symbol order, 0 to 4.
        history: the symbol's last results and risk actions, oldest first.
        decoding: gives the drawdown's cap.
    """
    columns = np.empty(RISK_INPUTS)
    columns[:ALPHA_INPUTS] = alpha
    drawdown = float(alpha[DRAWDOWN])
    columns[140:145] = (alpha[EQUITY], drawdown, direction, risk_cap(drawdown, decoding), symbol_index / 4)
    columns[145:150] = history.results
    columns[150:165] = np.ravel(history.risk_actions)
    return columns.astype(np.float32).astype(np.float64)  # as in training


def decode_risk(actions: Array, drawdown: float, decoding: Decoding) -> RiskDecision:
    """Return the multiples and the fraction of equity that a risk action of three in [-1, 1] means."""
    low, high = decoding.sl_mult_min, decoding.sl_mult_max
    sl_mult = low + (high - low) * (float(actions[0]) + 1) / 2
    low, high = decoding.tp_mult_min, decoding.tp_mult_max
    tp_mult = low + (high - low) * (float(actions[1]) + 1) / 2
    knob = (float(actions[2]) + 1) / 2
    if knob < decoding.risk_block_below:
        return RiskDecision(sl_mult, tp_mult, knob, None)
    share = (knob - decoding.risk_block_below) / (1 - decoding.risk_block_below)
    fraction = share * decoding.max_risk_fraction * risk_cap(drawdown, decoding)
    return RiskDecision(sl_mult, tp_mult, knob, fraction)


def stop_distance(row: SymbolRow, sl_mult: float, decoding: Decoding) -> Decimal:
    """Return the stop's distance in price units, floored and then rounded up to the tick.

    The floors: one ATR, three spreads, what the venue demands, one tick.
    """
    distance = max(
        _decimal(sl_mult * row.atr),
        _decimal(decoding.stop_floor_atr * row.atr),
        Decimal(decoding.stop_floor_spreads) * (row.ask - row.bid),
        row.min_stop_distance,
    )
    ticks = (distance / row.tick).to_integral_value(ROUND_CEILING)
    return max(ticks, Decimal(1)) * row.tick


def target_distance(row: SymbolRow, tp_mult: float) -> Decimal:
    """Return the target's distance in price units, rounded to the tick, at least one and the venue's."""
    ticks = (_decimal(tp_mult * row.atr) / row.tick).to_integral_value(ROUND_HALF_EVEN)
    least = (row.min_stop_distance / row.tick).to_integral_value(ROUND_CEILING)
    return max(ticks, least, Decimal(1)) * row.tick


def _decimal(value: float) -> Decimal:
    """Return a price without the binary dust that would round a whole tick up to the next one."""
    return Decimal(value).quantize(_GRAIN)


def persistence(direction: int, previous: tuple[int, ...]) -> int:
    """Return how many bars before this one had its direction without a break, at most 20; 0 when flat."""
    count = 0
    for earlier in reversed(previous):
        if direction == 0 or earlier != direction or count == _PERSISTENCE_MAX:
            break
        count += 1
    return count


def guard_observation(
    guard: Array,
    symbol_index: int,
    directions: list[int],
    previous: list[tuple[int, ...]],
    stop: float,
    target: float,
    close: float,
) -> Array:
    """Return the 105 columns of a candidate: the slice's, with Alpha's and the trade's own filled in.

    Persistence and reversal are of each symbol's own direction at this slice; action and the two sizes
    are the candidate's alone and 0 for the other symbols.

    Args:
        guard: the slice's columns, shape (105,).
        symbol_index: the candidate's place in symbol order.
        directions: Alpha's at this slice, in symbol order.
        previous: Alpha's before it, newest last, in symbol order.
        stop: distance of the candidate's stop, price units.
        target: distance of its target, price units.
        close: its price.
    """
    columns = guard.astype(np.float64)
    for k, (direction, earlier) in enumerate(zip(directions, previous, strict=True)):
        base = _GUARD_PER_SYMBOL * k
        reversed_now = direction != 0 and bool(earlier) and earlier[-1] == -direction
        columns[base + _PERSISTENCE] = min(persistence(direction, earlier) / 10, 1.0)
        columns[base + _REVERSAL] = float(reversed_now)
    base = _GUARD_PER_SYMBOL * symbol_index
    columns[base + _ACTION] = directions[symbol_index]
    columns[base + _SL_SIZE] = min(max(100 * stop / close / 2, 0.0), 1.0)
    columns[base + _RR] = min(max(target / (stop + EPSILON) / 4, 0.0), 1.0)
    return columns
