"""Training what is shipped: zeros of a pruned model stay zero, and int8's rounding is in the forward pass.

Both need nothing in the program but the weights that it is given. A pruned model's mask is where the round's
model is zero, so it travels with the weights and the server can prune further between two rounds. Fake
quantisation rounds as the exported int8 file will (Jacob et al., 2018): kernels with one scale a channel,
dense ones with one in all, activations with the scale of the batch at hand; gradients pass as if nothing were
rounded. Batch normalisation that the exporter folds into a convolution scales whole channels, which the
channels' scales absorb.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from compression.sparsity import is_kernel

Tensor = Any
STEPS = 127.0  # of a symmetric int8 kernel
LEVELS = 255.0  # of an activation
LEAST = 1e-12  # keeps a scale of nothing from dividing by zero
CHANNEL_AXES = {4: (0, 1, 2), 2: (0, 1)}  # that share a scale, by rank of the kernel


@dataclass(frozen=True, slots=True)
class Constraint:
    """What training keeps to.

    Attributes:
        keep_zeros: kernel weights that are zero in the round's model stay zero.
        fake_int8: the forward pass rounds kernels and the inputs of layers with kernels to int8.
    """

    keep_zeros: bool = False
    fake_int8: bool = False


def zero_mask(parts: Mapping[str, Tensor]) -> Tensor:
    """Flat vector of 1 for what may move and 0 for kernel weights that are zero, in the order of `parts`."""
    masks = []
    for name, part in parts.items():
        flat = tf.reshape(part, [-1])
        masks.append(tf.square(tf.sign(flat)) if is_kernel(name) else tf.ones(flat.shape))
    return tf.concat(masks, axis=0)


def fake_parameters(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A layer's parameters by key, its kernels rounded."""
    return {
        key: _fake_kernel(value, depthwise=key == "depthwise_kernel") if is_kernel(key) else value
        for key, value in parameters.items()
    }


def fake_activation(x: Tensor) -> Tensor:
    """Rounded to 256 levels between the batch's extremes; zero is one of them."""
    extent = tf.maximum(tf.reduce_max(x), 0.0) - tf.minimum(tf.reduce_min(x), 0.0)
    return _rounded(x, tf.maximum(extent / LEVELS, LEAST))


def _fake_kernel(kernel: Tensor, *, depthwise: bool) -> Tensor:
    axes = (0, 1) if depthwise else CHANNEL_AXES[len(kernel.shape)]
    largest = tf.reduce_max(tf.abs(kernel), axis=axes, keepdims=True)
    return _rounded(kernel, tf.maximum(largest / STEPS, LEAST))


@tf.custom_gradient  # type: ignore[untyped-decorator]
def _rounded(x: Tensor, scale: Tensor) -> Any:
    """Nearest multiple of `scale`; the gradient passes straight through (Bengio et al., 2013)."""
    return tf.round(x / scale) * scale, lambda dy: (dy, tf.zeros_like(scale))
