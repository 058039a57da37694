"""Zeros that stay: which weights are pruned, how many after which round, and a step that keeps them zero.

NumPy alone, since a device takes the same step as the server. The mask is where the weights are zero, so it
takes no byte of its own: a step says only which share of each kernel is zero after it, and both sides find
the same ones. Schedule as in Zhu and Gupta, "To prune, or not to prune", 2017.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from compression.spec import TensorSpec, Weights

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


def magnitude_mask(kernel: FloatArray, sparsity: float) -> npt.NDArray[np.bool_]:
    """What stays: all but the `sparsity` share of the smallest magnitudes."""
    order = np.argsort(np.abs(kernel), axis=None, kind="stable")
    mask = np.ones(kernel.size, np.bool_)
    mask[order[: round(sparsity * kernel.size)]] = False
    return mask.reshape(kernel.shape)


def prune_weights(weights: Weights, specs: Sequence[TensorSpec], sparsity: float) -> dict[str, FloatArray]:
    """The smallest weights of each kernel become zero, up to a share of it.

    Zeros count towards the share, so what was pruned before stays pruned.
    """
    kernels = frozenset(prunable(specs))
    return {
        name: np.where(magnitude_mask(array, sparsity), array, np.float32(0)) if name in kernels else array
        for name, array in weights.items()
    }


def pruned_step(
    before: Weights, after: Weights, specs: Sequence[TensorSpec], sparsity: float
) -> dict[str, FloatArray]:
    """The weights after a step: what was zero in a kernel is zero again, and so is a share of it.

    A lossy codec may move a weight that it was not asked to; what is pruned does not come back by it.
    """
    return prune_weights(without_pruned(after, before, specs), specs, sparsity)


def without_pruned(values: Weights, weights: Weights, specs: Sequence[TensorSpec]) -> dict[str, FloatArray]:
    """Values for some of the tensors, zero where a kernel's weight is: nothing is owed there."""
    kernels = frozenset(prunable(specs))
    return {
        name: np.where(weights[name] == 0, np.float32(0), array) if name in kernels else array
        for name, array in values.items()
    }


def zero_share(weights: Mapping[str, FloatArray], specs: Sequence[TensorSpec]) -> float:
    """Share of zeros among the weights of the kernels that are pruned; 0 without any."""
    kernels = [weights[name] for name in prunable(specs)]
    size = sum(kernel.size for kernel in kernels)
    return 1 - sum(int(np.count_nonzero(kernel)) for kernel in kernels) / size if size else 0.0


def sparsity_after(round_number: int, rounds: int, final: float, schedule: Schedule, ramp: float) -> float:
    """Share of each kernel that is zero after a round.

    Args:
        round_number: from 1.
        final: share at the end.
        schedule: "polynomial" rises steeply first and reaches `final` after the share `ramp` of the rounds;
            "constant" is there after the first.
    """
    if schedule == "constant":
        return final
    end = max(1, round(ramp * rounds))
    return final * (1 - (1 - min(1.0, round_number / end)) ** 3)
