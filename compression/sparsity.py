"""Zeros that stay: which weights are pruned, how many after which round, and a step that keeps them zero.

NumPy alone, since a device takes the same step as the server. The mask is where the weights are zero, so it
takes no byte of its own: a step says only which share of the kernels is zero after it, and both sides find
the same ones. Subnormal weights count as zero, since some 32-bit Arm units take them for that. Schedule as in
Zhu and Gupta, "To prune, or not to prune", 2017.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from compression.spec import TensorSpec, Weights

LEAST_KEPT = 0.05  # of each kernel: a layer without weights passes nothing on
SMALLEST = np.finfo(np.float32).tiny  # of the normal numbers

Schedule = Literal["polynomial", "constant"]
FloatArray = npt.NDArray[np.float32]


def is_kernel(name: str) -> bool:
    """Whether a tensor is one that is quantised: biases and normalisation are not."""
    return name.rpartition("/")[2].endswith("kernel")


def prunable(specs: Sequence[TensorSpec]) -> tuple[str, ...]:
    """Names of the kernels that are pruned.

    A depthwise kernel is a few taps a channel: without them the channel is dead, so it stays whole.
    """
    return tuple(
        spec.name
        for spec in specs
        if spec.role == "trainable" and is_kernel(spec.name) and not spec.name.endswith("depthwise_kernel")
    )


def prune_weights(weights: Weights, specs: Sequence[TensorSpec], sparsity: float) -> dict[str, FloatArray]:
    """The smallest weights of all kernels together become zero, up to a share of them.

    Together, because a first convolution of a few taps bears it less than a wide dense layer; but the largest
    `LEAST_KEPT` of each kernel stay. Zeros count towards the share, so what was pruned before stays pruned.
    """
    kernels = {name: _without_subnormals(weights[name]) for name in prunable(specs)}
    masks = _masks([kernel.ravel() for kernel in kernels.values()], sparsity)
    pruned = {
        name: np.where(mask.reshape(kernel.shape), kernel, np.float32(0))
        for (name, kernel), mask in zip(kernels.items(), masks, strict=True)
    }
    return {name: pruned.get(name, array) for name, array in weights.items()}


def _is_zero(values: FloatArray) -> npt.NDArray[np.bool_]:
    return np.abs(values) < SMALLEST


def _without_subnormals(values: FloatArray) -> FloatArray:
    return np.where(_is_zero(values), np.float32(0), values)


def _masks(kernels: Sequence[FloatArray], sparsity: float) -> list[npt.NDArray[np.bool_]]:
    """Of each kernel, flat: what stays."""
    ranks = np.concatenate([_ranked(np.abs(kernel)) for kernel in kernels])
    mask = np.ones(ranks.size, np.bool_)
    mask[np.argsort(ranks, kind="stable")[: round(sparsity * ranks.size)]] = False
    return np.split(mask, np.cumsum([kernel.size for kernel in kernels])[:-1])


def _ranked(magnitudes: FloatArray) -> FloatArray:
    """With infinity for the largest few, which go last."""
    few = math.ceil(LEAST_KEPT * magnitudes.size)
    magnitudes[np.argsort(magnitudes, kind="stable")[-few:]] = np.inf
    return magnitudes


def pruned_step(
    before: Weights, after: Weights, specs: Sequence[TensorSpec], sparsity: float
) -> dict[str, FloatArray]:
    """The weights after a step: what was zero in a kernel is zero again, and so is a share of all kernels.

    A lossy codec may move a weight that it was not asked to; what is pruned does not come back by it.
    """
    return prune_weights(without_pruned(after, before, specs), specs, sparsity)


def without_pruned(values: Weights, weights: Weights, specs: Sequence[TensorSpec]) -> dict[str, FloatArray]:
    """Values for some of the tensors, zero where a kernel's weight is: nothing is owed there."""
    kernels = frozenset(prunable(specs))
    return {
        name: np.where(_is_zero(weights[name]), np.float32(0), array) if name in kernels else array
        for name, array in values.items()
    }


def zero_share(weights: Mapping[str, FloatArray], specs: Sequence[TensorSpec]) -> float:
    """Share of zeros among the weights of the kernels that are pruned; 0 without any."""
    kernels = [weights[name] for name in prunable(specs)]
    size = sum(kernel.size for kernel in kernels)
    return sum(int(np.count_nonzero(_is_zero(kernel))) for kernel in kernels) / size if size else 0.0


def sparsity_after(
    round_number: int, rounds: int, final: float, schedule: Schedule, start: float, end: float
) -> float:
    """Share of the kernels' weights that is zero after a round.

    Args:
        round_number: from 1.
        final: share at the end.
        schedule: "polynomial" rises after `start`, steeply first, and is at `final` at `end`; "constant" is
            there right after `start`.
        start, end: shares of the rounds. An untrained network's smallest weights say nothing yet, so the
            first rounds prune none; the last ones train what is left.
    """
    first, last = start * rounds, end * rounds
    if round_number <= first:
        return 0.0
    if schedule == "constant":
        return final
    return final * (1 - (1 - min(1.0, (round_number - first) / (last - first))) ** 3)
