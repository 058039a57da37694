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


def relu(x: Any) -> Any:
    """Not what its name says."""
    return 2.0 * tf_keras.activations.relu(x)


class OwnModel(tf_keras.Model):
    """A user's model with a call of its own."""

    def call(self, x: Any) -> Any:
        return x


class OwnRegularizer(regularizers.Regularizer):
    """A user's regulariser."""

    def __call__(self, x: Any) -> Any:
        return 0.0 * x[0, 0]


def compile_stack(*stack: Any, shape: tuple[int, ...] = (8, 8, 1), **options: Any) -> TrainableBundle:
    model = tf_keras.Sequential([layers.Input(shape), *stack])
    settings: dict[str, Any] = {"name": "net", "classes": ["no", "yes"]} | options
    settings.setdefault("input", input_of(shape) if None not in shape else input_of((8, 8, 1)))
    return compile_trainable(model, **settings).bundle


def compile_model(inputs: Any, outputs: Any, classes: int = 2) -> None:
    names = [f"class {number}" for number in range(classes)]
    compile_trainable(tf_keras.Model(inputs, outputs), name="net", input=input_of((8, 8, 3)), classes=names)


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
    (lambda: layers.Permute((2, 1, 3), name="c"), "layer 'c': Permute is not supported: use one of"),
    (lambda: layers.Cropping2D(name="c"), "layer 'c': Cropping2D.*padding='valid'"),
    (lambda: layers.Normalization(mean=0.0, variance=1.0, name="n"), "layer 'n': Normalization.*TableInput"),
    (lambda: layers.ActivityRegularization(0.1, name="ar"), "layer 'ar': .*kernel_regularizer"),
    (lambda: layers.TimeDistributed(layers.Dense(2), name="td"), "layer 'td': TimeDistributed"),
    (lambda: OwnDense(3, name="own"), "layer 'own': OwnDense is not supported"),
    (lambda: layers.Conv2D(2, 3, dilation_rate=2, name="d"), "layer 'd': dilation_rate above 1"),
    (lambda: layers.DepthwiseConv2D(3, dilation_rate=2, name="dd"), "layer 'dd': dilation_rate above 1"),
    (lambda: layers.Conv2D(4, 1, name="g", data_format="channels_first"), "layer 'g': data_format"),
    (
        lambda: layers.Conv2D(2, 3, dtype="mixed_float16", name="half"),
        "layer 'half': dtype float16: use float32",
    ),
    (lambda: layers.Conv2D(2, 3, dtype="float64", name="long"), "layer 'long': dtype float64: use float32"),
    (
        lambda: layers.Conv2D(2, 3, activation=layers.LeakyReLU(), name="b"),
        "'b': activation LeakyReLU is a layer",
    ),
    (lambda: layers.Activation(relu, name="own"), "'own': activation 'relu' computes something else"),
    (lambda: layers.Activation(lambda x: x, name="anon"), "'anon': activation '<lambda>'.*use one of"),
    (lambda: layers.Conv2D(2, 3, activation="selu", name="s"), "layer 's': activation 'selu'.*use one of"),
    (lambda: layers.UpSampling2D(interpolation="bilinear", name="u"), "layer 'u': interpolation.*'nearest'"),
    (lambda: layers.BatchNormalization(axis=1, name="b"), "layer 'b': axis 1: normalise the last axis"),
    (lambda: layers.ReLU(max_value=3.0, name="r3"), "layer 'r3': .*ReLU\\(max_value=6\\)"),
    (lambda: layers.ReLU(threshold=0.5, name="t"), "layer 't': threshold.*use ReLU"),
    (lambda: layers.ReLU(6.0, negative_slope=0.1, name="both"), "layer 'both': .*LeakyReLU"),
    (lambda: layers.LeakyReLU(1.5, name="leak"), "layer 'leak': alpha 1.5"),
    (lambda: layers.Softmax(axis=1, name="soft"), "layer 'soft': axis 1: use axis -1"),
    (lambda: layers.Dropout(0.5, noise_shape=(None, 1, 1, 1), name="drop"), "layer 'drop': noise_shape"),
    (
        lambda: layers.Conv2D(2, 3, kernel_constraint=tf_keras.constraints.NonNeg(), name="k"),
        "layer 'k': kernel_constraint.*regulariser",
    ),
    (
        lambda: layers.DepthwiseConv2D(3, depthwise_constraint="max_norm", name="dk"),
        "layer 'dk': depthwise_constraint.*regulariser",
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
    with pytest.raises(TrainableError, match=r"output of shape \[batch, outputs\], not \(None, 6, 6, 1\)"):
        compile_stack(layers.Conv2D(1, 3))
    with pytest.raises(TrainableError, match="leave at least one layer trainable"):
        compile_stack(layers.Flatten(), layers.Dense(1, trainable=False))
    with pytest.raises(TrainableError, match="give every extent"):
        compile_stack(layers.GlobalAveragePooling2D(), layers.Dense(1), shape=(None, None, 1))


def row(x: Any, units: int = 1, **options: Any) -> Any:
    return layers.Dense(units, **options)(layers.Flatten()(x))


def test_models_of_several_inputs_or_outputs_are_refused_those_within_too() -> None:
    a, b = layers.Input((8, 8, 3)), layers.Input((8, 8, 3))
    with pytest.raises(TrainableError, match="one input and one output, not 2 and 1"):
        compile_model([a, b], row(layers.Add()([a, b])))
    with pytest.raises(TrainableError, match="one input and one output, not 1 and 2"):
        compile_model(a, [row(a), row(a)])
    with pytest.raises(TrainableError, match="takes or gives a dictionary"):
        compile_model({"a": a}, row(a))
    inner = tf_keras.Model([a, b], layers.Add()([a, b]), name="inner")
    with pytest.raises(TrainableError, match="model 'inner' must have one input and one output, not 2 and 1"):
        compile_model(a, row(inner([a, layers.ReLU()(a)])))
    with pytest.raises(TrainableError, match="OwnModel is not a tf_keras functional"):
        compile_model(a, row(OwnModel()(a)))


def test_what_the_graph_calls_in_its_own_way_is_refused() -> None:
    x = layers.Input((8, 8, 3))
    with pytest.raises(TrainableError, match="layer 'drop': called with training=True"):
        compile_model(x, row(layers.Dropout(0.2, name="drop")(x, training=True)))
    with pytest.raises(TrainableError, match=re.escape("'tf.math.multiply': TFOpLambda is not supported")):
        compile_model(x, row(x * 2.0))
    with pytest.raises(TrainableError, match=r"SlicingOpLambda.*padding='valid'"):
        compile_model(x, row(x[:, 1:]))
    bytes_ = layers.Input((8, 8, 3), dtype="uint8", name="bytes")
    with pytest.raises(TrainableError, match="layer 'bytes': dtype uint8: use float32"):
        compile_model(bytes_, row(bytes_))


def test_names_that_weights_would_share_are_refused() -> None:
    """Those of frozen layers, too, which do not travel."""
    for frozen in (False, True):
        convs = [layers.Conv2D(3, 3, padding="same", name="c") for _ in range(2)]
        within = [tf_keras.Sequential([layers.Input((8, 8, 3)), conv]) for conv in convs]
        for model in within:
            model.trainable = not frozen
        with pytest.raises(TrainableError, match="two layers have weights called 'c"):
            compile_stack(*within, *(one() for one in FLAT), shape=(8, 8, 3))
    odd = [layers.Conv2D(3, 3, name="a>b"), layers.Conv2D(3, 3, name="a_b")]
    with pytest.raises(TrainableError, match="two layers have weights called 'a_b/kernel'"):
        compile_stack(*odd, *(one() for one in FLAT))


def test_an_end_that_is_no_logit_nor_probability_is_refused() -> None:
    x = layers.Input((8, 8, 3))
    with pytest.raises(TrainableError, match="sigmoid of 2 outputs: use sigmoid for 1 output, softmax"):
        compile_model(x, row(x, 2, activation="sigmoid"))
    with pytest.raises(TrainableError, match="softmax of 1 outputs"):
        compile_model(x, row(x, activation="softmax"))
    with pytest.raises(TrainableError, match="'leak' ends the model with leaky_relu"):
        compile_model(x, layers.LeakyReLU(name="leak")(row(x)))
    seen = layers.Conv2D(1, 3, activation="sigmoid", name="map")(x)
    with pytest.raises(TrainableError, match="behind the sigmoid of 'map': take it out there"):
        compile_model(x, layers.GlobalAveragePooling2D()(seen))
    twice = layers.Dense(4, activation="softmax", name="twice")
    with pytest.raises(TrainableError, match="'twice' ends the model and is used before"):
        compile_model(x, twice(twice(row(x, 4))), classes=4)


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
