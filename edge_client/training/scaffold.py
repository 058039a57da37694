"""A client's side of SCAFFOLD (Karimireddy et al., 2020), as functions of arrays.

`broker_server.strategies.scaffold` is the server's side and says what both come to. Control variates have the
trainable tensors alone; all of them are 0 at first.
"""

from __future__ import annotations

import numpy as np

from compression.spec import ModelSpec, Weights
from edge_client.training.trainer import FloatArray


def no_variate(spec: ModelSpec) -> dict[str, FloatArray]:
    """The control variate of a client that has not trained yet."""
    return {tensor.name: np.zeros(tensor.shape, np.float32) for tensor in spec.trainable.tensors}


def correction(control: Weights, variate: Weights) -> dict[str, FloatArray]:
    """What is added to every gradient: c - c_i."""
    return {name: np.subtract(control[name], array) for name, array in variate.items()}


def variate_change(
    control: Weights, variate: Weights, delta: Weights, *, steps: int, learning_rate: float
) -> dict[str, FloatArray]:
    """By how much c_i is to move: option II, -c - delta / (steps * learning rate)."""
    scale = np.float32(1.0 / (steps * learning_rate))
    return {name: np.asarray(-control[name] - delta[name] * scale, np.float32) for name in variate}


def moved(variate: Weights, change: Weights) -> dict[str, FloatArray]:
    """c_i after a change, as it was sent."""
    return {name: np.add(array, change[name]) for name, array in variate.items()}
