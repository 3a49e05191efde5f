"""The chain over a past, slice by slice: the live functions on a simulated account."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal

import numpy as np
from numpy.typing import NDArray

from services.inference.actors import Actor, Array
from services.inference.bundle import GUARD_INPUTS, Bundle
from services.inference.chain import ALLOWED, EQUITY, GUARD_BLOCKED, Memory, Opinion, judge_slice
from shared.contracts import POINTS_PER_UNIT
from shared.messages import BAR_LENGTH, FeaturesComputed, Meta, SymbolRow
from shared.streams import from_milliseconds
from training.dataset import Dataset
from training.ledger import Ledger
from training.trades import Market

_META = Meta.root("training", from_milliseconds(0))
REAL_BARS_MIN = 14  # since the last flat run, as the executor demands


class OpenGuard:
    """A guard that lets everything through and remembers what it saw."""

    def __init__(self) -> None:
        self.columns: list[Array] = []

    @property
    def inputs(self) -> int:
        """How many columns it takes."""
        return GUARD_INPUTS

    def probability(self, columns: Array) -> float:
        """Return 1."""
        self.columns.append(columns)
        return 1.0


@dataclass(frozen=True, slots=True)
class Candidate:
    """A trade that Alpha and Risk wanted, what the guard said, and what it would have given alone."""

    row: int
    k: int
    direction: int
    reason: str
    result_r: float  # net, as if it were the only trade
    sl_mult: float
    tp_mult: float
    bars: int


@dataclass
class Run:
    """What the chain did over a range of slices."""

    slices: int = 0
    reasons: dict[str, int] = field(default_factory=dict)  # of signals, by reason
    allowed: dict[tuple[str, int], int] = field(default_factory=dict)  # (symbol, direction) -> signals
    candidates: list[Candidate] = field(default_factory=list)
    trades: list[float] = field(default_factory=list)  # net results in account currency
    trades_r: list[float] = field(default_factory=list)  # the same in multiples of what was risked
    refusals: dict[str, int] = field(default_factory=dict)
    equity: list[float] = field(default_factory=list)
    both_sides: int = 0  # slices with an allowed LONG and an allowed SHORT


def eligible(dataset: Dataset, row: int, k: int) -> bool:
    """Tell whether the executor would take an entry in this symbol at this slice."""
    real = int(dataset.rows.real_bars[row, k]) >= REAL_BARS_MIN
    return real and not bool(dataset.history.synthetic[row, k])


def symbol_row(market: Market, ledger: Ledger, row: int, k: int) -> SymbolRow:
    """Return what the live features would say of a symbol at a slice."""
    dataset = market.dataset
    close = int(dataset.points[row, k, 3])
    return SymbolRow.model_construct(
        symbol=dataset.symbols[k],
        close=float(dataset.rows.close[row, k]),
        atr=float(dataset.rows.atr[row, k]),
        atr_guard=float(dataset.rows.atr_guard[row, k]),
        synthetic=bool(dataset.history.synthetic[row, k]),
        real_bars=int(dataset.rows.real_bars[row, k]),
        bid=Decimal(close).scaleb(-5),
        ask=Decimal(close + int(dataset.spread[row, k])).scaleb(-5),
        tick=market.contracts[k].tick,
        min_stop_distance=market.contracts[k].min_stop_distance,
        history=ledger.history(k),
    )


def features_of(market: Market, ledger: Ledger, row: int, bundle: Bundle) -> FeaturesComputed:
    """Return the message that the live features would write; not validated, for speed."""
    rows = market.dataset.rows
    alpha, guard = rows.alpha[row].copy(), rows.guard[row].copy()
    ledger.fill(row, alpha, guard)
    close_time = from_milliseconds(int(rows.open_time_ms[row])) + BAR_LENGTH
    return FeaturesComputed.model_construct(
        meta=_META,
        close_time=close_time,
        live=False,
        account_id="",
        slices_seen=int(rows.slices_seen[row]),
        alpha_schema=bundle.manifest.schemas["alpha"],
        alpha=alpha.astype(np.float64),
        guard_schema=bundle.manifest.schemas["guard"],
        guard=guard.astype(np.float64),
        rows=tuple(symbol_row(market, ledger, row, k) for k in range(len(market.contracts))),
    )


def distance_points(distance: Decimal) -> int:
    """Return a distance in points."""
    return int(distance * POINTS_PER_UNIT)


def simulate(market: Market, bundle: Bundle, rows: Iterable[int], *, judge_all: bool = False) -> Run:
    """Run the chain over slices, trading what it allows with the executor's sizing and locks.

    Args:
        market: the prices.
        bundle: the models; all layers are asked as they are live.
        rows: slices in order.
        judge_all: also work out what each candidate alone would have given, traded or not.
    """
    ledger, memory, run = Ledger(market), Memory(), Run()
    for row in rows:
        for _, net in ledger.advance(row):
            run.trades.append(net)
        opinions, memory = judge_slice(features_of(market, ledger, row, bundle), bundle, memory)
        _count(run, market.dataset.symbols, opinions)
        for k, opinion in enumerate(opinions):
            if opinion.reason in (ALLOWED, GUARD_BLOCKED) and eligible(market.dataset, row, k):
                _take(run, market, ledger, row, k, opinion, judge_all=judge_all)
        run.equity.append(ledger.equity)
    return run


def _count(run: Run, symbols: tuple[str, ...], opinions: list[Opinion]) -> None:
    run.slices += 1
    sides = set()
    for symbol, opinion in zip(symbols, opinions, strict=True):
        run.reasons[opinion.reason] = run.reasons.get(opinion.reason, 0) + 1
        if opinion.reason == ALLOWED:
            key = (symbol, opinion.direction.sign)
            run.allowed[key] = run.allowed.get(key, 0) + 1
            sides.add(opinion.direction.sign)
    run.both_sides += len(sides) == 2


def _take(
    run: Run, market: Market, ledger: Ledger, row: int, k: int, opinion: Opinion, *, judge_all: bool
) -> None:
    if opinion.stop_distance is None or opinion.target_distance is None:
        return
    stop, target = distance_points(opinion.stop_distance), distance_points(opinion.target_distance)
    direction = opinion.direction.sign
    action = (opinion.sl_mult or 0.0, opinion.tp_mult or 0.0, opinion.risk_fraction or 0.0)
    if opinion.reason == ALLOWED:
        taken = ledger.enter(row, k, direction, stop, target, action)
        if isinstance(taken, str):
            run.refusals[taken] = run.refusals.get(taken, 0) + 1
        else:
            run.trades_r.append(taken.outcome.result_r)
    if judge_all:
        outcome = market.trade(row, k, direction, stop, target)
        result, bars = (outcome.result_r, outcome.exit_row - row) if outcome else (float("nan"), 0)
        run.candidates.append(
            Candidate(row, k, direction, opinion.reason, result, action[0], action[1], bars)
        )


def candidates_for_guard(
    market: Market, bundle: Bundle, rows: Iterable[int]
) -> tuple[list[Candidate], NDArray[np.float64]]:
    """Return all trades that Alpha and Risk wanted and the executor could take, with the guard's columns."""
    guard = OpenGuard()
    columns: list[Array] = []
    ledger, memory = Ledger(market), Memory()
    watching, run = replace(bundle, guard=guard), Run()
    for row in rows:
        ledger.advance(row)
        guard.columns.clear()
        opinions, memory = judge_slice(features_of(market, ledger, row, watching), watching, memory)
        asked = iter(guard.columns)
        for k, opinion in enumerate(opinions):
            if opinion.reason != ALLOWED:
                continue
            own = next(asked)
            if eligible(market.dataset, row, k):
                _take(run, market, ledger, row, k, opinion, judge_all=True)
                columns.append(own)
    return run.candidates, np.array(columns).reshape(-1, GUARD_INPUTS)


def flat_actions(market: Market, alpha: Actor, rows: Sequence[int]) -> Array:
    """Return Alpha's actions on a flat account, one row a slice."""
    actions = np.empty((len(rows), alpha.outputs))
    for place, row in enumerate(rows):
        observation = market.dataset.rows.alpha[row].astype(np.float64)
        observation[EQUITY] = 1.0
        actions[place] = alpha.act(observation)
    return actions


def wishes_of(
    market: Market, rows: Sequence[int], actions: Array, threshold: float
) -> list[tuple[int, int, int]]:
    """Return (slice, symbol, direction) of what Alpha wants beyond a threshold, in time order."""
    found = []
    for place, k in np.argwhere(np.abs(actions) > threshold).tolist():
        if eligible(market.dataset, rows[place], k):
            found.append((rows[place], k, 1 if actions[place, k] > 0 else -1))
    return found
