from __future__ import annotations

import time

import numpy as np
import pytest

from services.inference.actors import actor_arrays, actor_from_arrays
from shared.errors import InputError
from tests.inference.small import an_actor


def test_a_row_alone_and_among_a_thousand_gives_the_same_bits() -> None:
    """A backtest in batches and the live mesh must decide alike, to the last bit."""
    actor = an_actor(hidden=(128, 128))
    rows = np.random.default_rng(1).normal(size=(1000, 140)) * 3
    together = actor.act_batch(rows)
    alone = np.array([actor.act(row) for row in rows])
    assert alone.tobytes() == together.tobytes()
    assert actor.act_batch(rows[::-1])[::-1].tobytes() == together.tobytes()


def test_a_strided_row_gives_the_bits_of_a_plain_one() -> None:
    """Where a row lies in memory is no part of the decision."""
    actor = an_actor(hidden=(128, 128))
    wide = np.random.default_rng(2).normal(size=(64, 281))
    for row in wide:
        assert actor.act(row[1::2]).tobytes() == actor.act(row[1::2].copy()).tobytes()


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_the_arrays_give_the_same_actor_again(activation: str) -> None:
    """Nothing of an actor is left out of the file."""
    actor = an_actor(activation=activation)  # type: ignore[arg-type]
    again = actor_from_arrays("alpha", actor_arrays("alpha", actor), inputs=140, outputs=5, where="a.npz")
    rows = np.random.default_rng(3).normal(size=(20, 140))
    assert again.act_batch(rows).tobytes() == actor.act_batch(rows).tobytes()


def test_actions_stay_in_the_box() -> None:
    """SB3 clips its deterministic action to the box, so do we."""
    actor = an_actor()
    actions = actor.act_batch(np.random.default_rng(4).normal(size=(200, 140)) * 100)
    assert np.abs(actions).max() == 1.0


def test_a_forward_pass_is_quick() -> None:
    """A slice needs six of them; the bar-to-order time has no room for milliseconds."""
    actor = an_actor(hidden=(128, 128))
    row = np.random.default_rng(5).normal(size=140)
    best = min(_seconds(actor.act, row) for _ in range(200))
    assert best < 500e-6  # about 50 us on an idle machine; the bound leaves room for a busy one


def _seconds(act: object, row: np.ndarray) -> float:
    start = time.perf_counter()
    act(row)  # type: ignore[operator]
    return time.perf_counter() - start


@pytest.mark.parametrize(
    ("key", "value", "word"),
    [
        ("alpha.weight_1", None, "ends in"),
        ("alpha.mean", None, "alpha.mean is missing"),
        ("alpha.bias_0", np.full(16, np.nan), "not finite"),
        ("alpha.variance", np.full(140, -1.0), "variance"),
        ("alpha.mean", np.zeros(139), "shape"),
        ("alpha.activation", np.array("swish"), "swish"),
        ("alpha.high", np.full(5, 2.0), "box"),
        ("alpha.epsilon", np.array(0.0), "epsilon"),
    ],
)
def test_a_broken_array_is_named(key: str, value: np.ndarray | None, word: str) -> None:
    """Whoever sees the sentence knows which array to mend."""
    arrays = actor_arrays("alpha", an_actor())
    if value is None:
        del arrays[key]
    else:
        arrays[key] = value
    with pytest.raises(InputError, match=word):
        actor_from_arrays("alpha", arrays, inputs=140, outputs=5, where="actors.npz")
