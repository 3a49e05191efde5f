from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from services.features.squeeze import reward_to_risk, squeeze_candidate, stop_percent
from services.inference import chain
from services.inference.bundle import DEFAULT_SYMBOLS, Decoding
from services.inference.chain import Memory, Opinion, judge_slice
from shared.errors import InputError
from shared.messages import Direction, FeaturesComputed, TradeHistory, Verdict
from tests.inference.small import ConstantGuard, a_bundle, a_row, a_slice, constant_actor

EURUSD, GBPUSD, USDJPY, USDCHF, XAUUSD = range(5)


def judged(features: FeaturesComputed | None = None, **bundle: Any) -> list[Opinion]:
    return judge_slice(features or a_slice(), a_bundle(**bundle), Memory())[0]


def alpha_with(**columns: float) -> tuple[float, ...]:
    values = list(a_slice().alpha)
    places = {"equity": chain.EQUITY, "drawdown": chain.DRAWDOWN}
    for name, value in columns.items():
        values[places[name]] = value
    return tuple(values)


def test_the_threshold_itself_is_flat() -> None:
    """LONG is above the threshold, SHORT below its negative; equality is neither."""
    opinions = judged(alpha=(0.34, -0.34, 0.33, -0.33, 0.0))
    directions = [o.direction for o in opinions]
    assert directions == [Direction.LONG, Direction.SHORT, Direction.FLAT, Direction.FLAT, Direction.FLAT]
    assert [o.verdict for o in opinions[2:]] == [Verdict.FLAT] * 3
    assert {o.reason for o in opinions[2:]} == {chain.ALPHA_FLAT}


def test_an_allowed_trade_carries_every_number() -> None:
    """The signal alone must tell why it was allowed."""
    opinion = judged(risk=(0.0, 0.0, 0.6))[EURUSD]
    assert (opinion.verdict, opinion.reason) == (Verdict.ALLOW, "ALLOWED")
    assert opinion.sl_mult == pytest.approx(1.1)
    assert opinion.tp_mult == pytest.approx(2.25)
    assert opinion.risk_knob == pytest.approx(0.8)
    assert opinion.risk_fraction == pytest.approx(0.75 * 0.005)
    assert opinion.stop_distance == Decimal("0.00110")
    assert opinion.target_distance == Decimal("0.00225").quantize(Decimal("0.00001"))
    assert opinion.guard_probability == 0.6


@pytest.mark.parametrize(("knob_action", "fraction"), [(-0.61, None), (-0.6, 0.0), (1.0, 0.005)])
def test_the_knob_blocks_below_a_fifth(knob_action: float, fraction: float | None) -> None:
    """Below 0.20 the risk model refuses; from there on the fraction grows from nothing to the limit."""
    decided = chain.decode_risk(np.array([0.0, 0.0, knob_action]), 0.0, Decoding())
    assert decided.risk_fraction == (fraction if fraction is None else pytest.approx(fraction, abs=1e-12))


@pytest.mark.parametrize(("drawdown", "cap"), [(0.0, 1.0), (0.1, 0.8), (0.4, 0.2), (0.9, 0.2)])
def test_a_drawdown_takes_risk_away_but_never_all(drawdown: float, cap: float) -> None:
    """The cap falls by twice the drawdown and stops at a fifth."""
    features = a_slice(alpha=alpha_with(drawdown=drawdown))
    assert judged(features)[EURUSD].risk_fraction == pytest.approx(0.005 * cap)


def test_a_blocked_risk_stops_before_the_guard() -> None:
    """A trade that is refused already is not asked about again."""
    opinion = judged(risk=(0.0, 0.0, -1.0))[EURUSD]
    assert (opinion.verdict, opinion.reason) == (Verdict.BLOCK, chain.RISK_BLOCKED)
    assert opinion.guard_probability is None
    assert opinion.risk_fraction is None


@pytest.mark.parametrize(("probability", "verdict"), [(0.5, Verdict.ALLOW), (0.4999, Verdict.BLOCK)])
def test_the_guard_allows_at_its_threshold(probability: float, verdict: Verdict) -> None:
    """Equality allows: the threshold is the smallest probability that is good enough."""
    assert judged(guard=probability)[EURUSD].verdict == verdict


# --- distances ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "sl_mult", "distance"),
    [
        ({"atr": 0.001}, 1.5, "0.00150"),  # what the model wants, no tick more
        ({"atr": 0.001}, 0.2, "0.00100"),  # one ATR
        ({"atr": 0.0001}, 1.0, "0.00030"),  # three spreads of ten ticks
        ({"atr": 0.0001, "min_stop_distance": Decimal("0.00050")}, 1.0, "0.00050"),  # the venue's
        ({"atr": 0.0010001}, 1.0, "0.00101"),  # up to the tick
    ],
)
def test_the_stop_is_the_largest_of_its_floors_rounded_up(
    changes: dict[str, Any], sl_mult: float, distance: str
) -> None:
    """A stop inside the noise or the spread is a fee, not a protection."""
    assert chain.stop_distance(a_row("EURUSD", **changes), sl_mult, Decoding()) == Decimal(distance)


@pytest.mark.parametrize(("atr", "distance"), [(0.001, "0.00050"), (0.001009, "0.00050"), (1e-6, "0.00001")])
def test_the_target_is_rounded_to_the_tick_and_is_at_least_one(atr: float, distance: str) -> None:
    """The venue refuses a distance that is no multiple of its tick, and zero is no target."""
    assert chain.target_distance(a_row("EURUSD", atr=atr), 0.5) == Decimal(distance)


def test_a_market_without_range_blocks() -> None:
    """With an ATR of 0 every distance would be a guess."""
    rows = (a_row("EURUSD", atr=0.0), *(a_row(symbol) for symbol in DEFAULT_SYMBOLS[1:]))
    opinions = judged(a_slice(rows=rows))
    assert opinions[EURUSD].reason == chain.NO_RANGE
    assert opinions[GBPUSD].verdict == Verdict.ALLOW


@pytest.mark.parametrize(("bid", "ask"), [("0", "1.1"), ("1.1", "1.0999")])
def test_a_quote_that_cannot_be_blocks(bid: str, ask: str) -> None:
    """The spread floors the stop, so a crossed quote would shrink it."""
    rows = (a_row("EURUSD", bid=Decimal(bid), ask=Decimal(ask)), *(a_row(s) for s in DEFAULT_SYMBOLS[1:]))
    assert judged(a_slice(rows=rows))[EURUSD].reason == chain.BAD_QUOTE


# --- columns of a candidate -----------------------------------------------------------------------


def test_the_risk_columns_stand_where_the_schema_says() -> None:
    """165 columns: the slice's 140, account, direction, cap, symbol, five results, five actions."""
    actions = tuple((i + 0.1, i + 0.2, i + 0.3) for i in range(5))
    history = TradeHistory(results=(0.01, 0.02, 0.03, 0.04, 0.05), risk_actions=actions)
    alpha = np.array(alpha_with(equity=1.5, drawdown=0.25))
    columns = chain.risk_observation(alpha, -1, XAUUSD, history, Decoding())
    np.testing.assert_allclose(columns[:140], alpha)
    np.testing.assert_allclose(columns[140:145], [1.5, 0.25, -1.0, 0.5, 1.0])
    np.testing.assert_allclose(columns[145:150], history.results, rtol=1e-6)
    np.testing.assert_allclose(columns[150:], np.ravel(actions), rtol=1e-6)


def test_the_guard_columns_are_those_of_the_features() -> None:
    """Inference may not import the squeeze, so its few formulas are held to it here."""
    previous = [(1, -1, -1, -1), (1,), (), (-1,), (0, 1)]
    directions = [-1, -1, 1, 0, 1]
    columns = chain.guard_observation(np.zeros(105), USDJPY, directions, previous, 0.2, 0.3, 150.0)
    nothing = [(0.0, 3.0, 0.0), (0.0, 0.0, 1.0), (1.0, 0.0, 0.0), (0.0, 0.0, 0.0), (0.0, 1.0, 0.0)]
    for k, (action, run, reversal) in enumerate(nothing):
        own = k == USDJPY
        sl_size = stop_percent(0.2, 150.0) if own else 0.0
        rr = reward_to_risk(0.3, 0.2) if own else 0.0
        wanted = squeeze_candidate(action, run, reversal, sl_size, rr)
        np.testing.assert_allclose(columns[20 * k + 15 : 20 * k + 20], wanted)


@pytest.mark.parametrize(
    ("previous", "count"), [((), 0), ((1, 1), 2), ((1, 0, 1), 1), ((1, -1), 0), ((1,) * 21, 20)]
)
def test_persistence_counts_the_unbroken_run(previous: tuple[int, ...], count: int) -> None:
    """At most 20, so 21 directions are all that need be kept."""
    assert chain.persistence(1, previous) == count


def test_the_memory_keeps_at_most_21_directions() -> None:
    """The state is written with every commit, so it must stay small."""
    memory = Memory()
    for _ in range(30):
        _, memory = judge_slice(a_slice(), a_bundle(), memory)
    assert memory.of("EURUSD") == (1,) * 21
    assert memory.of("GBPUSD") == (-1,) * 21
    assert memory.of("USDJPY") == (0,) * 21


# --- failing --------------------------------------------------------------------------------------


def poisoned(features: FeaturesComputed, **changes: Any) -> FeaturesComputed:
    """Return a message that validation would not let be: what a bug could make of it."""
    return features.model_copy(update=changes)


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", [0, 90, chain.EQUITY, chain.DRAWDOWN])
def test_an_alpha_column_that_is_not_finite_blocks_all(poison: float, place: int) -> None:
    """The normaliser would clip an infinity to 10 and go on."""
    alpha = list(a_slice().alpha)
    alpha[place] = poison
    opinions = judged(poisoned(a_slice(), alpha=tuple(alpha)))
    assert {(o.verdict, o.reason) for o in opinions} == {(Verdict.BLOCK, chain.MODEL_ERROR)}


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_guard_column_that_is_not_finite_blocks(poison: float) -> None:
    """LightGBM would take a NaN for a missing value and answer all the same."""
    guard = [0.0] * 105
    guard[7] = poison
    opinions = judged(poisoned(a_slice(), guard=tuple(guard)))
    assert opinions[EURUSD].reason == chain.MODEL_ERROR
    assert opinions[EURUSD].verdict == Verdict.BLOCK


@pytest.mark.parametrize("layer", ["alpha", "risk"])
def test_an_actor_that_gives_nan_blocks(layer: str) -> None:
    """A NaN compares false with every threshold: it must not fall through to a pass."""
    broken = {"alpha": (float("nan"),) * 5, "risk": (0.0, 0.0, float("nan"))}
    opinion = judged(**{layer: broken[layer]})[EURUSD]
    assert (opinion.verdict, opinion.reason) == (Verdict.BLOCK, chain.MODEL_ERROR)


@pytest.mark.parametrize("probability", [float("nan"), 1.5, -0.1])
def test_a_probability_that_is_none_blocks(probability: float) -> None:
    """NaN < threshold is false, so a plain comparison would allow it."""
    opinion = judged(guard=probability)[EURUSD]
    assert (opinion.verdict, opinion.reason) == (Verdict.BLOCK, chain.MODEL_ERROR)
    assert opinion.guard_probability is None


@pytest.mark.parametrize("field", ["close", "atr"])
def test_a_price_that_is_not_finite_blocks(field: str) -> None:
    """A stop computed from it would be NaN too."""
    row = a_row("EURUSD").model_copy(update={field: float("nan")})
    rows = (row, *(a_row(s) for s in DEFAULT_SYMBOLS[1:]))
    opinion = judged(poisoned(a_slice(), rows=rows))[EURUSD]
    assert (opinion.verdict, opinion.reason) == (Verdict.BLOCK, chain.MODEL_ERROR)


@pytest.mark.parametrize("layer", ["alpha", "risk", "guard"])
def test_a_missing_layer_blocks(layer: str) -> None:
    """An absent model never lets a trade through."""
    bundle = replace(a_bundle(), **{layer: None})  # type: ignore[arg-type]
    opinions, _ = judge_slice(a_slice(), bundle, Memory())
    assert opinions[EURUSD].verdict == Verdict.BLOCK
    assert opinions[EURUSD].reason == chain.MODEL_MISSING


def test_a_guard_that_fails_blocks() -> None:
    """An error of the library is an alarm, not a pass and not a silent no."""

    class Broken(ConstantGuard):
        def probability(self, columns: Any) -> float:
            raise InputError("guard: LightGBM failed with status -1")

    opinions, _ = judge_slice(a_slice(), replace(a_bundle(), guard=Broken(1.0)), Memory())
    assert opinions[EURUSD].reason == chain.MODEL_ERROR
    assert "status -1" in opinions[EURUSD].detail


@pytest.mark.parametrize("field", ["alpha_schema", "guard_schema"])
def test_other_columns_than_the_bundles_block(field: str) -> None:
    """The hash travels with every slice, so a mixed deployment is noticed at once."""
    opinions = judged(a_slice(**{field: "alpha-140/1:0"}))
    assert {o.reason for o in opinions} == {chain.SCHEMA_MISMATCH}
    assert {o.verdict for o in opinions} == {Verdict.BLOCK}


def test_symbols_in_another_order_block() -> None:
    """Alpha's fifth number is gold's and no other's."""
    rows = tuple(reversed(a_slice().rows))
    assert {o.reason for o in judged(a_slice(rows=rows))} == {chain.SCHEMA_MISMATCH}


def test_before_300_slices_nothing_is_decided() -> None:
    """Recursions have not forgotten their start, so the columns are not those of training."""
    opinions, memory = judge_slice(a_slice(slices_seen=299), a_bundle(), Memory())
    assert {(o.verdict, o.reason) for o in opinions} == {(Verdict.BLOCK, chain.WARMING_UP)}
    assert memory.of("EURUSD") == (0,)


def test_the_candidates_of_a_slice_do_not_see_each_other() -> None:
    """A symbol's row is the same whatever the other symbols' verdicts are."""
    guard = ConstantGuard(0.6)
    bundle = replace(a_bundle(alpha=(0.9,) * 5), guard=guard, risk=constant_actor(165, (0.0, 0.0, 1.0)))
    judge_slice(a_slice(), bundle, Memory())
    assert len(guard.seen) == 5
    for k, columns in enumerate(guard.seen):
        sizes = columns[18:100:20]
        assert np.flatnonzero(sizes).tolist() == [k]
