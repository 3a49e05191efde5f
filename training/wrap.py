"""Makes a bundle of SB3 and LightGBM files, and proves that the plain actors say what SB3 says.

The zips are read with torch's `weights_only`: tensors alone, nothing is unpickled.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.policies import ActorCriticPolicy

from services.inference.actors import (
    ACTIVATIONS,
    Activation,
    Actor,
    Layer,
    Normaliser,
    actor_arrays,
    actor_from_arrays,
)
from services.inference.adapters import LightGuard
from services.inference.bundle import (
    ACTORS_FILE,
    ALPHA_INPUTS,
    CARD_FILE,
    GUARD_FILE,
    GUARD_INPUTS,
    MANIFEST,
    PROBE_TOLERANCE,
    PROBES_FILE,
    RISK_INPUTS,
    RISK_OUTPUTS,
    Manifest,
    array_bytes,
    assemble,
    read_arrays,
    seal,
)
from shared.errors import InputError

_POLICY_FILE: Final = "policy.pth"
_HIDDEN: Final = "mlp_extractor.policy_net"
_PROBES: Final = 32
_MODULES: Final = {"tanh": torch.nn.Tanh, "relu": torch.nn.ReLU}

Tensors = Mapping[str, Any]  # torch carries no usable types here


@dataclass(frozen=True, slots=True)
class Parts:
    """What a bundle is made of. The activation is checked against the zips."""

    alpha_zip: bytes
    risk_zip: bytes
    guard_text: str
    alpha_normaliser: Normaliser
    risk_normaliser: Normaliser
    activation: Activation = "tanh"


def policy_tensors(content: bytes, where: str) -> Tensors:
    """Return the tensors of an SB3 zip's policy.

    Raises:
        InputError: it is no such zip, or its policy holds more than tensors.
    """
    try:
        with zipfile.ZipFile(BytesIO(content)) as archive:
            stored = BytesIO(archive.read(_POLICY_FILE))
        tensors: Tensors = torch.load(stored, map_location="cpu", weights_only=True)
    except Exception as error:  # zipfile and torch raise what they like on a broken file
        raise InputError(f"{where}: no SB3 zip of plain tensors ({error}): save the model again") from error
    return tensors


def stated_activation(content: bytes, where: str) -> str:
    """Return the activation that a zip's description states in plain words; SB3's default where it is silent.

    Raises:
        InputError: the zip has no description.
    """
    try:
        with zipfile.ZipFile(BytesIO(content)) as archive:
            described = json.loads(archive.read("data"))
    except (KeyError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{where}: no SB3 description ({error}): save the model again") from error
    stated = str(described.get("policy_kwargs", {}).get("activation_fn", "Tanh"))
    return stated.split(".")[-1].strip("'>").lower()


def plain_actor(
    tensors: Tensors, normaliser: Normaliser, activation: Activation, *, name: str, outputs: int
) -> Actor:
    """Return the plain actor of a policy's tensors.

    Raises:
        InputError: the policy is not an MlpPolicy on a Box, or has another width.
    """
    where = f"{name}.zip"
    places = sorted({int(key.split(".")[2]) for key in tensors if key.startswith(f"{_HIDDEN}.")})
    names = [f"{_HIDDEN}.{place}" for place in places] + ["action_net"]
    if any(f"{each}.{part}" not in tensors for each in names for part in ("weight", "bias")):
        raise InputError(f"{where}: not an MlpPolicy with a Box of actions: train with PPO('MlpPolicy')")
    layers = [Layer(tensors[f"{n}.weight"].numpy(), tensors[f"{n}.bias"].numpy()) for n in names]
    box = np.ones(outputs)
    rough = Actor(normaliser, tuple(layers), activation, -box, box)
    inputs = normaliser.mean.size
    return actor_from_arrays(name, actor_arrays(name, rough), inputs=inputs, outputs=outputs, where=where)


def sb3_predict(
    tensors: Tensors, actor: Actor, activation: Activation, rows: NDArray[np.float32], *, where: str
) -> NDArray[np.float32]:
    """Return what SB3's own predict says of raw observations; the policy is built anew from tensors.

    Raises:
        InputError: SB3 cannot take the tensors.
    """
    hidden = [layer.bias.size for layer in actor.layers[:-1]]
    values = sorted({int(key.split(".")[2]) for key in tensors if key.startswith("mlp_extractor.value_net.")})
    critic = [len(tensors[f"mlp_extractor.value_net.{place}.bias"]) for place in values]
    policy = ActorCriticPolicy(
        gymnasium.spaces.Box(-np.inf, np.inf, (actor.inputs,), np.float32),
        gymnasium.spaces.Box(-1.0, 1.0, (actor.outputs,), np.float32),
        lambda _: 0.0,
        net_arch={"pi": hidden, "vf": critic},
        activation_fn=_MODULES[activation],
    )
    try:
        policy.load_state_dict(tensors)
    except RuntimeError as error:
        raise InputError(
            f"{where}: SB3 does not take these tensors ({error}): save the model again"
        ) from error
    seen = np.array([actor.normaliser.apply(row) for row in rows.astype(np.float64)], np.float32)
    actions: NDArray[np.float32] = policy.predict(seen, deterministic=True)[0]
    return actions


def make_files(
    parts: Parts, manifest: Manifest, samples: Mapping[str, NDArray[np.float32]], card: str
) -> dict[str, bytes]:
    """Return all files of a bundle, proved to load.

    Args:
        parts: models and normalisers.
        manifest: without checksums, which are filled in here.
        samples: `alpha`, `risk` and `guard` observations, among which the probes are taken.
        card: what a reader should know, in Markdown.

    Raises:
        InputError: a model is not what it should be, or the plain actor differs from SB3.
    """
    if parts.activation not in ACTIVATIONS:
        raise InputError(f"activation {parts.activation!r}: one of {', '.join(ACTIVATIONS)}")
    arrays: dict[str, NDArray[Any]] = {}
    probes: dict[str, NDArray[Any]] = {}
    layers = (
        ("alpha", parts.alpha_zip, parts.alpha_normaliser, len(manifest.symbols)),
        ("risk", parts.risk_zip, parts.risk_normaliser, RISK_OUTPUTS),
    )
    for name, content, normaliser, outputs in layers:
        stated = stated_activation(content, f"{name}.zip")
        if stated != parts.activation:
            raise InputError(
                f"{name}.zip: its activation is {stated}, not {parts.activation}: say the right one"
            )
        tensors = policy_tensors(content, f"{name}.zip")
        actor = plain_actor(tensors, normaliser, parts.activation, name=name, outputs=outputs)
        rows = _chosen(samples[name])
        predicted = sb3_predict(tensors, actor, parts.activation, rows, where=f"{name}.zip")
        worst = float(np.abs(actor.act_batch(rows.astype(np.float64)) - predicted).max())
        if not worst <= PROBE_TOLERANCE:
            raise InputError(
                f"{name}.zip: the plain actor differs from SB3 by {worst:.3g}, "
                f"more than {PROBE_TOLERANCE:g}: is it an MlpPolicy without extras?"
            )
        arrays |= actor_arrays(name, actor)
        probes |= {f"{name}.inputs": rows, f"{name}.outputs": predicted.astype(np.float64)}
    guard, rows = LightGuard(parts.guard_text), _chosen(samples["guard"])
    probes["guard.inputs"] = rows
    probes["guard.outputs"] = np.array([[guard.probability(row)] for row in rows.astype(np.float64)])
    files = {
        "alpha.zip": parts.alpha_zip,
        "risk.zip": parts.risk_zip,
        GUARD_FILE: parts.guard_text.encode(),
        ACTORS_FILE: array_bytes(arrays),
        PROBES_FILE: array_bytes(probes),
        CARD_FILE: card.encode(),
    }
    sealed = seal(manifest, files)
    assemble(sealed, LightGuard)
    return sealed


def _chosen(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return evenly spaced rows, and some far outside of what is normal."""
    picked = rows[np.linspace(0, len(rows) - 1, _PROBES).astype(int)].astype(np.float32)
    far = picked[:4] * np.float32(50)
    return np.concatenate([picked, far])


def check_against_sb3(files: Mapping[str, bytes]) -> list[str]:
    """Return what in a bundle's plain actors is not what its SB3 zips say; empty if they agree."""
    problems = []
    arrays = read_arrays(files[ACTORS_FILE], ACTORS_FILE)
    probes = read_arrays(files[PROBES_FILE], PROBES_FILE)
    symbols = probes["alpha.outputs"].shape[1]
    for name, inputs, outputs in (("alpha", ALPHA_INPUTS, symbols), ("risk", RISK_INPUTS, RISK_OUTPUTS)):
        actor = actor_from_arrays(name, arrays, inputs=inputs, outputs=outputs, where=ACTORS_FILE)
        tensors = policy_tensors(files[f"{name}.zip"], f"{name}.zip")
        again = plain_actor(tensors, actor.normaliser, actor.activation, name=name, outputs=outputs)
        for place, (ours, theirs) in enumerate(zip(actor.layers, again.layers, strict=True)):
            if (
                ours.weight.tobytes() != theirs.weight.tobytes()
                or ours.bias.tobytes() != theirs.bias.tobytes()
            ):
                problems.append(f"{ACTORS_FILE}: {name} layer {place} is not that of {name}.zip: wrap again")
        rows = probes[f"{name}.inputs"]
        predicted = sb3_predict(tensors, actor, actor.activation, rows, where=f"{name}.zip")
        worst = float(np.abs(predicted - probes[f"{name}.outputs"]).max())
        if not worst <= PROBE_TOLERANCE:
            problems.append(f"{PROBES_FILE}: SB3 says {name} differs by {worst:.3g}: wrap again")
    return problems


def write_folder(files: Mapping[str, bytes], out: Path) -> None:
    """Write a bundle's files, the manifest last: a folder without one is no bundle."""
    out.mkdir(parents=True, exist_ok=True)
    (out / MANIFEST).unlink(missing_ok=True)
    for name, content in files.items():
        if name != MANIFEST:
            (out / name).write_bytes(content)
    (out / MANIFEST).write_bytes(files[MANIFEST])


__all__ = ["GUARD_INPUTS", "Parts", "check_against_sb3", "make_files", "policy_tensors", "write_folder"]
