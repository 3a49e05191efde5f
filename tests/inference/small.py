"""A small bundle of random models, and the columns of a slice. No torch."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
from numpy.typing import NDArray

from services.inference import bundle as b
from services.inference.actors import Activation, Actor, Layer, Normaliser, actor_arrays
from shared import messages as m

NOON = datetime(2025, 1, 6, 12, 0, tzinfo=UTC)
TICKS = dict(zip(b.DEFAULT_SYMBOLS, ("0.00001", "0.00001", "0.001", "0.00001", "0.01"), strict=True))
PRICES = dict(zip(b.DEFAULT_SYMBOLS, ("1.10000", "1.27000", "150.000", "0.88000", "2900.00"), strict=True))


def an_actor(
    inputs: int = 140,
    outputs: int = 5,
    *,
    hidden: tuple[int, ...] = (16, 16),
    activation: Activation = "tanh",
) -> Actor:
    rng = np.random.default_rng(inputs)
    layers = []
    width = inputs
    for size in (*hidden, outputs):
        weight = rng.normal(size=(size, width)).astype(np.float32) / np.float32(width**0.5)
        layers.append(Layer(weight.astype(np.float64), rng.normal(size=size).astype(np.float32) * 1.0))
        width = size
    normaliser = Normaliser(rng.normal(size=inputs), rng.uniform(0.5, 2, size=inputs), 1e-8, 10.0)
    return Actor(normaliser, tuple(layers), activation, -np.ones(outputs), np.ones(outputs))


def constant_actor(inputs: int, outputs: tuple[float, ...]) -> Actor:
    """Return an actor that says the same whatever it sees."""
    layer = Layer(np.zeros((len(outputs), inputs)), np.array(outputs))
    box = np.ones(len(outputs))
    return Actor(Normaliser(np.zeros(inputs), np.ones(inputs), 1e-8, 10.0), (layer,), "tanh", -box, box)


class ConstantGuard:
    """A guard that says the same whatever it sees, and remembers what it saw."""

    inputs = 105

    def __init__(self, probability: float) -> None:
        self.answer = probability
        self.seen: list[NDArray[np.float64]] = []

    def probability(self, columns: NDArray[np.float64]) -> float:
        self.seen.append(columns)
        return self.answer


def a_guard_text() -> str:
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(400, 105))
    labels = (rows[:, 0] + rng.normal(size=400) > 0).astype(float)
    settings = {
        "objective": "binary",
        "num_threads": 1,
        "verbose": -1,
        "num_leaves": 7,
        "deterministic": True,
    }
    return str(lightgbm.train(settings, lightgbm.Dataset(rows, labels), num_boost_round=20).model_to_string())


def a_manifest(**changes: Any) -> b.Manifest:
    values: dict[str, Any] = {
        "name": "small-1",
        "purpose": "plumbing",
        "schemas": dict(b.SCHEMA_TAGS),
        "symbols": b.DEFAULT_SYMBOLS,
        "decoding": b.Decoding(),
        "guard_threshold": 0.5,
        "policies": b.Policies(),
        "training": b.Training(
            data="none", data_sha256="0" * 64, first_bar="", last_bar="", seed=0, alpha_steps=0, risk_steps=0
        ),
        "costs": {},
        "code_version": "test",
        "metrics": {},
        "files": {},
    }
    return b.Manifest(**{**values, **changes})


def small_files(**changes: Any) -> dict[str, bytes]:
    """Return the files of a whole, valid bundle."""
    from services.inference.adapters import LightGuard

    alpha, risk = an_actor(140, 5), an_actor(165, 3)
    guard_text = a_guard_text()
    guard = LightGuard(guard_text)
    rng = np.random.default_rng(5)
    probes: dict[str, NDArray[Any]] = {}
    for name, actor in (("alpha", alpha), ("risk", risk)):
        rows = rng.normal(size=(8, actor.inputs)).astype(np.float32)
        probes |= {f"{name}.inputs": rows, f"{name}.outputs": actor.act_batch(rows.astype(np.float64))}
    rows = rng.normal(size=(8, 105))
    probes |= {
        "guard.inputs": rows,
        "guard.outputs": np.array([[guard.probability(row)] for row in rows]),
    }
    return b.seal(
        a_manifest(**changes),
        {
            "alpha.zip": b"alpha",
            "risk.zip": b"risk",
            "guard.txt": guard_text.encode(),
            "actors.npz": b.array_bytes({**actor_arrays("alpha", alpha), **actor_arrays("risk", risk)}),
            "probes.npz": b.array_bytes(probes),
        },
    )


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def a_bundle(
    alpha: tuple[float, ...] = (0.9, -0.9, 0.0, 0.33, 0.5),
    risk: tuple[float, ...] = (0.0, 0.0, 1.0),
    guard: float = 0.6,
    **changes: Any,
) -> b.Bundle:
    """Return a bundle whose models say what the test wants."""
    return b.Bundle(
        a_manifest(**changes), constant_actor(140, alpha), constant_actor(165, risk), ConstantGuard(guard)
    )


def a_row(symbol: str, **changes: Any) -> m.SymbolRow:
    tick, bid = Decimal(TICKS[symbol]), Decimal(PRICES[symbol])
    values: dict[str, Any] = {
        "symbol": symbol,
        "close": float(bid),
        "atr": float(tick) * 100,
        "atr_guard": float(tick) * 100,
        "synthetic": False,
        "real_bars": 400,
        "bid": bid,
        "ask": bid + 10 * tick,
        "tick": tick,
        "min_stop_distance": Decimal(0),
        "history": m.TradeHistory(),
    }
    return m.SymbolRow(**{**values, **changes})


def a_slice(*, rows: tuple[m.SymbolRow, ...] | None = None, **changes: Any) -> m.FeaturesComputed:
    alpha = [0.0] * 140
    alpha[125] = 1.0  # equity is what it was at first
    values: dict[str, Any] = {
        "meta": m.Meta.root("slice", NOON),
        "close_time": NOON,
        "live": True,
        "account_id": "1-0",
        "slices_seen": 300,
        "alpha_schema": b.SCHEMA_TAGS["alpha"],
        "alpha": tuple(alpha),
        "guard_schema": b.SCHEMA_TAGS["guard"],
        "guard": (0.0,) * 105,
        "rows": rows or tuple(a_row(symbol) for symbol in b.DEFAULT_SYMBOLS),
    }
    return m.FeaturesComputed(**{**values, **changes})
