"""Magnitude pruning, by tensorflow-model-optimization."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from compression.models.network import KERNELS, clone, kernel_of, wrapped
from compression.models.recipes import Pruning
from compression.models.training import steps_of
from compression.tf import tensorflow

Fit = Callable[..., None]  # (model, epochs=, what=, callbacks=)
UPDATES = 20  # of the mask while the sparsity rises
PRUNED = ("Conv2D", "Dense")  # a depthwise kernel is a few taps a channel: without them the channel is dead


def prune(model: Any, pruning: Pruning, examples: int, fit: Fit) -> tuple[Any, tuple[str, ...]]:
    """A copy with zeros, and which layers were left as they are, with the reason.

    Args:
        examples: that one epoch of `fit` sees.
        fit: trains a model in place.
    """
    tensorflow()
    import tensorflow_model_optimization as tfmot

    sparsity = tfmot.sparsity.keras
    options = _options(pruning, examples)
    skipped: list[str] = []

    def wrap(layer: Any) -> Any:
        reason = reason_to_skip(layer, pruning)
        if reason is None:
            return sparsity.prune_low_magnitude(layer, **options)
        if layer.weights:
            skipped.append(f"{layer.name} ({reason})")
        return layer

    pruned = wrapped(model, wrap)
    fit(pruned, epochs=pruning.epochs, what="pruning", callbacks=[sparsity.UpdatePruningStep()])
    return clone(sparsity.strip_pruning(pruned)), tuple(skipped)


def reason_to_skip(layer: Any, pruning: Pruning) -> str | None:
    """Why a layer is not pruned; None if it is."""
    kind = type(layer).__name__
    if not layer.trainable:
        return "frozen"
    if kind not in PRUNED:
        return f"{kind} is not pruned" if kind in KERNELS else f"{kind} has no kernel"
    shape = tuple(int(extent) for extent in kernel_of(layer).shape)
    if pruning.pattern == "2:4" and shape[-2] % 4:
        return f"{shape[-2]} input channels are no multiple of 4"
    if pruning.pattern == "block" and kind != "Dense":
        return f"a {kind} kernel has no blocks"
    if pruning.pattern == "block" and any(e % b for e, b in zip(shape, pruning.block, strict=True)):
        rows, columns = pruning.block
        return f"{shape[0]}x{shape[1]} has no whole {rows}x{columns} blocks"
    return None


def zeros(model: Any) -> float:
    """Share of zeros among the kernels."""
    kernels = [kernel.numpy() for layer in model.layers if (kernel := kernel_of(layer)) is not None]
    left = sum(int(np.count_nonzero(kernel)) for kernel in kernels)
    return 1 - left / max(1, sum(int(kernel.size) for kernel in kernels))


def _options(pruning: Pruning, examples: int) -> dict[str, Any]:
    import tensorflow_model_optimization as tfmot

    sparsity = tfmot.sparsity.keras
    steps = steps_of(examples, pruning.epochs)
    if pruning.pattern == "2:4":
        return {"sparsity_m_by_n": (2, 4)}
    if pruning.schedule == "constant":
        schedule = sparsity.ConstantSparsity(
            pruning.sparsity, begin_step=0, frequency=max(1, steps // UPDATES)
        )
    else:
        end = max(1, int(pruning.ramp * steps))
        schedule = sparsity.PolynomialDecay(
            0.0, pruning.sparsity, begin_step=0, end_step=end, frequency=max(1, end // UPDATES)
        )
    block = {"block_size": tuple(pruning.block)} if pruning.pattern == "block" else {}
    return {"pruning_schedule": schedule, **block}
