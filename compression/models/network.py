"""A Keras model as the techniques need it: a copy that ends in logits, and its kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from compression.models.errors import RecipeError
from compression.tf import quiet, tensorflow

Layer = Any
KERNELS = {"Conv2D": "kernel", "Dense": "kernel", "DepthwiseConv2D": "depthwise_kernel"}  # by class of layer


def clone(model: Any, replace: Callable[[Layer], Layer] | None = None) -> Any:
    """A copy with weights of its own, each layer passed through `replace`; weights go by layer name.

    Raises:
        RecipeError: a layer cannot be made again from its configuration.
    """
    keras = tensorflow().keras
    try:
        with quiet():
            copy = keras.models.clone_model(model, clone_function=replace or _same)
            for layer in model.layers:
                copy.get_layer(layer.name).set_weights(layer.get_weights())
    except (ValueError, TypeError, NotImplementedError) as exc:
        reason = str(exc).strip().splitlines()[0][:200] if str(exc).strip() else type(exc).__name__
        raise RecipeError(f"model {model.name!r} cannot be copied layer by layer: {reason}") from exc
    return copy


def wrapped(model: Any, wrap: Callable[[Layer], Layer]) -> Any:
    """A copy whose layers `wrap` has put a wrapper around, or handed back."""
    return tensorflow().keras.models.clone_model(clone(model), clone_function=wrap)


def with_logits(model: Any) -> Any:
    """A copy without the last sigmoid or softmax."""
    last = model.outputs[0]._keras_history.layer

    def replace(layer: Layer) -> Layer:
        if layer is not last:
            return _same(layer)
        keras = tensorflow().keras
        if type(layer).__name__ == "Softmax":
            return keras.layers.Activation("linear", name=layer.name)
        config = layer.get_config()
        return type(layer).from_config(config | ({"activation": "linear"} if "activation" in config else {}))

    return clone(model, replace)


def flat(model: Any) -> Any:
    """The model itself; raise `RecipeError` where models lie within it, which no technique looks into."""
    nested = [layer.name for layer in model.layers if hasattr(layer, "layers")]
    if nested:
        raise RecipeError(
            f"model {model.name!r} holds the model {nested[0]!r}, whose layers cannot be pruned or trained "
            "with fake quantisation: build it as one graph of layers, or take a recipe without training"
        )
    return model


def kernel_of(layer: Layer) -> Any:
    """The variable that is most of a layer's weights; None for layers without one."""
    key = KERNELS.get(type(layer).__name__)
    return None if key is None else getattr(layer, key)


def largest_logit(model: Any, examples: npt.NDArray[np.float32]) -> float:
    """Magnitude that a model's outputs reach on some examples."""
    return float(np.abs(model.predict(examples, batch_size=64, verbose=0)).max())


def _same(layer: Layer) -> Layer:
    return type(layer).from_config(layer.get_config())
