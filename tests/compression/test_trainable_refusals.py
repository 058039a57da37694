"""What cannot be compiled is refused by name, with what to use instead; what can is builtin ops only."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from compression.spec import Loss, TrainableBundle
from compression.trainable import TrainableError, compile_trainable
from compression.trainable.convert import op_names
from tests.compression.trainable_cases import input_of

tf_keras = pytest.importorskip("tf_keras")
layers = tf_keras.layers
regularizers = tf_keras.regularizers


class OwnDense(layers.Dense):
    """A user's layer: its call may do anything."""


class OwnRegularizer(regularizers.Regularizer):
    """A user's regulariser."""

    def __call__(self, x: Any) -> Any:
        return 0.0 * x[0, 0]


def compile_stack(*stack: Any, shape: tuple[int, ...] = (8, 8, 1), **options: Any) -> TrainableBundle:
    model = tf_keras.Sequential([layers.Input(shape), *stack])
    settings: dict[str, Any] = {"name": "net", "classes": ["no", "yes"]} | options
    settings.setdefault("input", input_of(shape) if None not in shape else input_of((8, 8, 1)))
    return compile_trainable(model, **settings).bundle


FLAT = [layers.Flatten, lambda: layers.Dense(1)]

REFUSED: list[tuple[Any, str]] = [
    (
        lambda: layers.Conv2DTranspose(2, 3, name="up"),
        "layer 'up': Conv2DTranspose.*UpSampling2D followed by Conv2D",
    ),
    (lambda: layers.PReLU(name="p"), "layer 'p': PReLU.*LeakyReLU"),
    (lambda: layers.Rescaling(1 / 255, name="r"), "layer 'r': Rescaling.*scale and offset of ImageInput"),
    (lambda: layers.RandomFlip(name="f"), "layer 'f': RandomFlip.*horizontal_flip"),
    (lambda: layers.Lambda(lambda x: x, name="l"), "layer 'l': Lambda.*layers it is made of"),
    (lambda: layers.Cropping2D(name="c"), "layer 'c': Cropping2D is not supported: use one of"),
    (lambda: OwnDense(3, name="own"), "layer 'own': OwnDense is not supported"),
    (lambda: layers.Conv2D(2, 3, dilation_rate=2, name="d"), "layer 'd': dilation_rate above 1"),
    (lambda: layers.Conv2D(2, 3, activation="selu", name="s"), "layer 's': activation 'selu'.*use one of"),
    (lambda: layers.UpSampling2D(interpolation="bilinear", name="u"), "layer 'u': interpolation.*'nearest'"),
    (lambda: layers.BatchNormalization(axis=1, name="b"), "layer 'b': axis 1: normalise the last axis"),
    (lambda: layers.ReLU(max_value=3.0, name="r3"), "layer 'r3': .*ReLU\\(max_value=6\\)"),
    (lambda: layers.LeakyReLU(1.5, name="leak"), "layer 'leak': alpha 1.5"),
    (lambda: layers.Softmax(axis=1, name="soft"), "layer 'soft': axis 1: use axis -1"),
    (lambda: layers.Dropout(0.5, noise_shape=(None, 1, 1, 1), name="drop"), "layer 'drop': noise_shape"),
    (
        lambda: layers.Conv2D(2, 3, kernel_constraint=tf_keras.constraints.NonNeg(), name="k"),
        "layer 'k': kernel_constraint.*regulariser",
    ),
    (
        lambda: layers.Conv2D(2, 3, activity_regularizer=regularizers.L2(), name="a"),
        "layer 'a': activity_regularizer.*kernel_regularizer",
    ),
    (
        lambda: layers.Conv2D(2, 3, kernel_regularizer=OwnRegularizer(), name="w"),
        "layer 'w': kernel_regularizer OwnRegularizer.*use L2",
    ),
]


@pytest.mark.parametrize(("make", "message"), REFUSED)
def test_unsupported_layer_is_named_with_what_to_use_instead(make: Any, message: str) -> None:
    with pytest.raises(TrainableError, match=message):
        compile_stack(make(), *(one() for one in FLAT))


def test_all_layers_at_fault_are_named_at_once() -> None:
    with pytest.raises(TrainableError, match=r"'one'.*; layer 'two'"):
        compile_stack(layers.PReLU(name="one"), layers.PReLU(name="two"), *(one() for one in FLAT))


def test_models_that_do_not_fit_are_refused() -> None:
    dense = [layers.Flatten(), layers.Dense(1, activation="tanh", name="end")]
    with pytest.raises(TrainableError, match="'end' ends the model with tanh"):
        compile_stack(*dense)
    with pytest.raises(TrainableError, match=re.escape("takes (8, 8, 1), the input gives (9, 9, 1)")):
        compile_stack(*(one() for one in FLAT), input=input_of((9, 9, 1)))
    with pytest.raises(TrainableError, match="label_smoothing"):
        compile_stack(*(one() for one in FLAT), label_smoothing=1.0)
    with pytest.raises(TrainableError, match="begin it with an Input layer"):
        compile_trainable(
            tf_keras.Sequential([layers.Dense(1)]), name="net", input=input_of((3,)), classes=["a", "b"]
        )
    with pytest.raises(TrainableError, match="not a tf_keras functional"):
        compile_trainable(object(), name="net", input=input_of((3,)), classes=["a", "b"])
    with pytest.raises(TrainableError, match="one input and one output"):
        compile_stack(layers.Conv2D(1, 3))
    with pytest.raises(TrainableError, match="leave at least one layer trainable"):
        compile_stack(layers.Flatten(), layers.Dense(1, trainable=False))
    with pytest.raises(TrainableError, match="give every extent"):
        compile_stack(layers.GlobalAveragePooling2D(), layers.Dense(1), shape=(None, None, 1))


@pytest.mark.parametrize(
    ("outputs", "classes", "loss"),
    [
        (1, 3, "binary_crossentropy"),
        (1, 2, "categorical_crossentropy"),
        (2, 2, "binary_crossentropy"),
        (3, 4, "focal"),
    ],
)
def test_loss_must_fit_outputs_and_classes(outputs: int, classes: int, loss: Loss) -> None:
    with pytest.raises(TrainableError, match=f"model of {outputs} outputs: use .*categorical_crossentropy"):
        compile_stack(
            layers.Flatten(), layers.Dense(outputs), classes=[str(i) for i in range(classes)], loss=loss
        )


def test_the_file_holds_builtin_ops_only_and_no_weights() -> None:
    bundle = compile_stack(layers.Flatten(), layers.Dense(64, activation="gelu"), layers.Dense(1))
    names = op_names(bundle.tflite)
    assert "FULLY_CONNECTED" in names
    assert not [name for name in names if name.startswith(("CUSTOM", "Flex", "STABLEHLO"))]
    assert "CALL_ONCE" not in names
    assert len(bundle.tflite) < 4 * bundle.spec.parameters + 30_000
    assert bundle.spec.parameters == np.sum([64 * 64, 64, 64, 1])
    assert TrainableBundle.from_bytes(bundle.to_bytes()) == bundle
