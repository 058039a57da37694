"""Training with fake quantisation, by tensorflow-model-optimization, alone or keeping zeros and clusters.

Layers that its default scheme does not know are left in floating point, and named.
"""

from __future__ import annotations

from typing import Any

from compression.models.network import wrapped
from compression.models.pruning import Fit
from compression.models.quantisation import PICTURE, PICTURE_RANK
from compression.models.recipes import Aware
from compression.tf import quiet, tensorflow

INSIDE = ("linear", "relu", "swish", "gelu")  # activations of a layer with weights
ALONE = (*INSIDE, "relu6", "sigmoid", "softmax", "tanh")  # of an Activation layer
WITH_THE_LAYER_BEFORE = ("BatchNormalization", "SeparableConv2D")  # known to the scheme's transformations


def train_aware(
    model: Any, aware: Aware, fit: Fit, *, keep_zeros: bool, keep_clusters: bool
) -> tuple[Any, tuple[str, ...]]:
    """A copy with fake quantisation, trained, and which layers stay in floating point, with the reason."""
    tensorflow()
    import tensorflow_model_optimization as tfmot

    keras = tfmot.quantization.keras
    scheme, skipped = _scheme(keep_zeros, keep_clusters), list[str]()

    def annotate(layer: Any) -> Any:
        reason = reason_to_skip(layer)
        if reason is None:
            return keras.quantize_annotate_layer(layer)
        if type(layer).__name__ != "InputLayer":
            skipped.append(f"{layer.name} ({reason})")
        return layer

    own = {type(layer).__name__: type(layer) for layer in model.layers}  # a user's layers are among them
    with keras.quantize_scope(own), quiet():
        fake = keras.quantize_apply(wrapped(model, annotate), scheme)
    fit(fake, epochs=aware.epochs, what="fake quantisation", callbacks=[])
    for layer in fake.layers:
        if type(layer).__name__ == "QuantizeLayer":
            _take_all_levels(layer)
    return fake, tuple(skipped)


def _take_all_levels(layer: Any) -> None:
    """What stands before the first layer has learnt how bright the examples were (`quantisation.PICTURE`)."""
    low, high = layer.quantizer_vars["min_var"], layer.quantizer_vars["max_var"]
    if len(layer.output_shape) == PICTURE_RANK and float(low) >= PICTURE[0] and float(high) <= PICTURE[1]:
        low.assign(PICTURE[0])
        high.assign(PICTURE[1])


def reason_to_skip(layer: Any) -> str | None:
    """Why a layer stays in floating point; None if it does not."""
    from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import (
        default_8bit_quantize_registry,
    )

    kind = type(layer).__name__
    if kind in WITH_THE_LAYER_BEFORE:
        return None
    if not default_8bit_quantize_registry.Default8BitQuantizeRegistry().supports(layer):
        return f"{kind} has no fake quantisation"
    activation = getattr(layer, "activation", None)
    name = str(getattr(activation, "__name__", activation))
    if activation is not None and name not in (ALONE if kind == "Activation" else INSIDE):
        return f"activation {name} has no fake quantisation"
    return None


def _scheme(keep_zeros: bool, keep_clusters: bool) -> Any:
    from tensorflow_model_optimization.python.core.quantization.keras.collab_opts.cluster_preserve import (
        default_8bit_cluster_preserve_quantize_scheme as clusters,
    )
    from tensorflow_model_optimization.python.core.quantization.keras.collab_opts.prune_preserve import (
        default_8bit_prune_preserve_quantize_scheme as zeros,
    )
    from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import (
        default_8bit_quantize_scheme,
    )

    if keep_clusters:
        return clusters.Default8BitClusterPreserveQuantizeScheme(preserve_sparsity=keep_zeros)
    if keep_zeros:
        return zeros.Default8BitPrunePreserveQuantizeScheme()
    return default_8bit_quantize_scheme.Default8BitQuantizeScheme()
