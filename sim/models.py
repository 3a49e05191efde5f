"""What is shared between schedules: models that want to trade often, and columns that were computed before.

The columns of a market's slices are the same in every schedule that plays it. `RememberedEngine` computes
each step once, by the live engine, and gives it again to whoever comes from the same state with the same
bars; whoever does not (a slice was missed, or made up) has it computed.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from hashlib import blake2b

import numpy as np

from services.features.engine import FeatureEngine, MarketRows
from services.features.indicators import Array, Bools, Ints
from services.features.series import State
from services.inference.actors import Actor, Layer, Normaliser
from services.inference.bundle import SCHEMA_TAGS, Bundle, Decoding, Manifest, Policies, Training
from venue.book import SYMBOLS

GUARD_INPUTS = 105
_BLOCKS_ONE_IN = 7
_WANTS_ONE_IN = 3


class FickleGuard:
    """Lets most trades through, and blocks those that a number in their columns picks."""

    inputs = GUARD_INPUTS

    def probability(self, columns: Array) -> float:
        """Return 0.9 or 0.1."""
        return 0.1 if int(abs(float(columns.sum())) * 1e6) % _BLOCKS_ONE_IN == 0 else 0.9


class FickleActor(Actor):
    """Wants a symbol at some slices only, which a number in its columns picks."""

    def act(self, observation: Array) -> Array:
        """Return the action, 0 where it wants nothing now."""
        number = int(abs(float(observation.sum())) * 1e6)
        wants = [number // _WANTS_ONE_IN**place % _WANTS_ONE_IN == 0 for place in range(self.outputs)]
        return np.where(wants, super().act(observation), 0.0)


@lru_cache(maxsize=16)
def eager_bundle(directions: tuple[float, ...], *, fickle: bool = False) -> Bundle:
    """Return models that want these directions, in symbol order: at every slice, or at some."""
    manifest = Manifest(
        name="eager-1",
        purpose="plumbing",
        schemas=dict(SCHEMA_TAGS),
        symbols=SYMBOLS,
        decoding=Decoding(),
        guard_threshold=0.5,
        policies=Policies(),
        training=Training(
            data="none", data_sha256="0" * 64, first_bar="", last_bar="", seed=0, alpha_steps=0, risk_steps=0
        ),
        costs={},
        code_version="simulation",
        metrics={},
        files={},
    )
    alpha = _constant(140, directions, FickleActor if fickle else Actor)
    return Bundle(manifest, alpha, _constant(165, (-0.5, -0.5, 1.0)), FickleGuard())


def _constant(inputs: int, outputs: tuple[float, ...], kind: type[Actor] = Actor) -> Actor:
    layer = Layer(np.zeros((len(outputs), inputs)), np.array(outputs))
    box = np.ones(len(outputs))
    return kind(Normaliser(np.zeros(inputs), np.ones(inputs), 1e-8, 10.0), (layer,), "tanh", -box, box)


_STEPS: dict[
    bytes, tuple[MarketRows, State, bytes]
] = {}  # key of the state after it -> rows, state, snapshot
_KEYS: dict[bytes, bytes] = {}  # snapshot -> key of its state
STEPS_MAX = 20_000  # some 60 kB each


class RememberedEngine(FeatureEngine):
    """The live engine; a step that was made before is not made again."""

    def __init__(self) -> None:
        super().__init__(SYMBOLS)
        self._key = b""

    def advance(self, open_time_ms: Ints, bars: Array, synthetic: Bools) -> MarketRows:
        """Take the next slices and return a row for each."""
        step = blake2b(self._key, digest_size=16)
        for part in (open_time_ms, bars, synthetic):
            step.update(part.tobytes())
        key = step.digest()
        known = _STEPS.get(key)
        if known is None:
            rows = super().advance(open_time_ms, bars, synthetic)
            known = rows, self._state, super().snapshot()
            if len(_STEPS) < STEPS_MAX:
                _STEPS[key] = known
                _KEYS[known[2]] = key
        rows, self._state, _ = known
        self._key = key
        # the portfolio's columns are filled in by the handler, in place
        return replace(rows, alpha=rows.alpha.copy(), guard=rows.guard.copy())

    def snapshot(self) -> bytes:
        """Return the state."""
        known = _STEPS.get(self._key)
        return known[2] if known is not None else super().snapshot()

    def restore(self, snapshot: bytes | None) -> None:
        """Go on from a snapshot."""
        key = _KEYS.get(snapshot) if snapshot is not None else b""
        if key:
            self._key, self._state = key, _STEPS[key][1]
            return
        super().restore(snapshot)
        self._key = b"" if snapshot is None else blake2b(snapshot, digest_size=16).digest()
