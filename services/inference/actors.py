"""The plain forward pass of an SB3 actor: normaliser, linear layers, activation, box. Needs numpy alone.

One row is computed at a time, so a row alone and the same row among a thousand give the same bits: the
matrix kernels of a BLAS add up in another order for another batch size, or another number of threads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from shared.errors import InputError

Array = NDArray[np.float64]
Activation = Literal["tanh", "relu"]
ACTIVATIONS: tuple[Activation, ...] = ("tanh", "relu")


@dataclass(frozen=True)
class Normaliser:
    """The running mean and variance of training. It belongs to the model, not to the features."""

    mean: Array
    variance: Array
    epsilon: float
    clip: float

    @cached_property
    def scale(self) -> Array:
        """What a column is divided by."""
        return np.asarray(np.sqrt(self.variance + self.epsilon))

    def apply(self, observation: Array) -> Array:
        """Return the observation as the network was trained to see it, in steps of float32."""
        scaled = (observation - self.mean) / self.scale
        clipped = np.minimum(np.maximum(scaled, -self.clip), self.clip)
        return np.asarray(clipped.astype(np.float32).astype(np.float64))


@dataclass(frozen=True, slots=True)
class Layer:
    """One linear layer: weight (out, in) and bias (out,)."""

    weight: Array
    bias: Array


@dataclass(frozen=True, slots=True)
class Actor:
    """A deterministic policy: the mean action of an SB3 MlpPolicy, clipped to its box."""

    normaliser: Normaliser
    layers: tuple[Layer, ...]
    activation: Activation
    low: Array
    high: Array

    @property
    def inputs(self) -> int:
        """How many columns an observation has."""
        return int(self.normaliser.mean.size)

    @property
    def outputs(self) -> int:
        """How many numbers an action has."""
        return int(self.low.size)

    def act(self, observation: Array) -> Array:
        """Return the action of one observation.

        Args:
            observation: shape (inputs,). What is not finite comes out as not finite, or is clipped:
                the caller looks at both ends.
        """
        value = self.normaliser.apply(observation)
        for layer in self.layers[:-1]:
            value = _linear(layer, value)
            value = np.tanh(value) if self.activation == "tanh" else np.maximum(value, 0.0)
        action: Array = np.minimum(np.maximum(_linear(self.layers[-1], value), self.low), self.high)
        return action

    def act_batch(self, observations: Array) -> Array:
        """Return the actions of many observations, row by row: the same bits as one at a time."""
        actions = np.empty((len(observations), self.outputs))
        for row, observation in enumerate(observations):
            actions[row] = self.act(observation)
        return actions


def _linear(layer: Layer, value: Array) -> Array:
    result: Array = np.einsum("oi,i->o", layer.weight, value)  # one thread and one order, unlike BLAS
    result += layer.bias
    return result


def actor_arrays(name: str, actor: Actor) -> dict[str, NDArray[Any]]:
    """Return the plain arrays from which `actor_from_arrays` makes the actor again."""
    normaliser = actor.normaliser
    arrays: dict[str, NDArray[Any]] = {
        f"{name}.mean": normaliser.mean,
        f"{name}.variance": normaliser.variance,
        f"{name}.epsilon": np.array(normaliser.epsilon),
        f"{name}.clip": np.array(normaliser.clip),
        f"{name}.activation": np.array(actor.activation),
        f"{name}.low": actor.low.astype(np.float32),
        f"{name}.high": actor.high.astype(np.float32),
    }
    for place, layer in enumerate(actor.layers):
        arrays[f"{name}.weight_{place}"] = layer.weight.astype(np.float32)
        arrays[f"{name}.bias_{place}"] = layer.bias.astype(np.float32)
    return arrays


def actor_from_arrays(
    name: str, arrays: Mapping[str, NDArray[Any]], *, inputs: int, outputs: int, where: str
) -> Actor:
    """Return the actor that plain arrays describe, all of them checked.

    Args:
        name: `alpha` or `risk`, the prefix of the arrays' names.
        arrays: of the whole file.
        inputs: columns of the observation that run here.
        outputs: numbers of the action that run here.
        where: the file's name, for the sentence of an error.

    Raises:
        InputError: an array is missing, has a wrong shape, or holds what is not finite.
    """
    layers: list[Layer] = []
    width = inputs
    while f"{name}.weight_{len(layers)}" in arrays:
        place = len(layers)
        bias = _array(arrays, f"{name}.bias_{place}", None, where)
        weight = _array(arrays, f"{name}.weight_{place}", (bias.size, width), where)
        layers.append(Layer(weight, bias))
        width = bias.size
    if not layers or width != outputs:
        raise InputError(f"{where}: {name} ends in {width} numbers, wanted {outputs}: wrap the right model")
    activation = str(arrays.get(f"{name}.activation", ""))
    if activation not in ACTIVATIONS:
        raise InputError(f"{where}: {name}.activation is {activation!r}, wanted one of {ACTIVATIONS}")
    normaliser = Normaliser(
        mean=_array(arrays, f"{name}.mean", (inputs,), where),
        variance=_array(arrays, f"{name}.variance", (inputs,), where),
        epsilon=float(_array(arrays, f"{name}.epsilon", (), where)),
        clip=float(_array(arrays, f"{name}.clip", (), where)),
    )
    if (normaliser.variance < 0).any() or normaliser.epsilon <= 0 or normaliser.clip <= 0:
        raise InputError(f"{where}: {name}: variance must be >= 0, epsilon and clip > 0: wrap again")
    low = _array(arrays, f"{name}.low", (outputs,), where)
    high = _array(arrays, f"{name}.high", (outputs,), where)
    if (low != -1).any() or (high != 1).any():
        raise InputError(f"{where}: {name} acts in a box that is not [-1, 1]: train with Box(-1, 1)")
    return Actor(normaliser, tuple(layers), activation, low, high)


def _array(arrays: Mapping[str, NDArray[Any]], key: str, shape: tuple[int, ...] | None, where: str) -> Array:
    if key not in arrays:
        raise InputError(f"{where}: {key} is missing: wrap the bundle again")
    array = arrays[key]
    if array.dtype.kind != "f" or (array.shape != shape if shape is not None else array.ndim != 1):
        raise InputError(f"{where}: {key} is {array.dtype}{array.shape}, wanted floats of shape {shape}")
    if not np.isfinite(array).all():
        raise InputError(f"{where}: {key} holds what is not finite: train and wrap again")
    return np.array(array, dtype=np.float64, order="C")
