"""Recipes as values, and applied: what each leaves in the file, what it skips, and both runtimes alike."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compression.models.errors import RecipeError
from compression.models.recipes import (
    RECIPES,
    Aware,
    Clustering,
    Pruning,
    Recipe,
    choose_recipes,
    read_recipes,
)
from compression.models.tflite_file import read_tflite
from compression.models.training import Examples
from compression.records import RecordError
from compression.size_report import size_report

CHECKOUT = Path(__file__).resolve().parents[2]
SHAPE = (12, 12, 1)
pytestmark = pytest.mark.timeout(900)  # training with three wrappers: 40 s alone, minutes beside others
INT8_STEP = 1 / 256

MINE = """
[recipes.mine]
summary = "half the weights, 8 values"
quantise = "int8"
[recipes.mine.prune]
sparsity = 0.5
epochs = 2
[recipes.mine.cluster]
clusters = 8
"""


CALIBRATION = {  # of every recipe that is shipped
    "float32": "none",
    "float16": "none",
    "dynamic": "dynamic-range",
    "int8": "full-integer",
    "int8-uint8": "full-integer",
    "int8-federated": "full-integer",
    "int8-uncalibrated": "dynamic-range",
    "int16x8": "full-integer",
    "qat": "full-integer",
    "pruned80": "none",
    "pruned80-int8": "full-integer",
    "pruned50-constant-int8": "full-integer",
    "pruned-2-4-int8": "full-integer",
    "pruned-block-int8": "full-integer",
    "clustered16-int8": "full-integer",
    "pruned80-clustered16-int8": "full-integer",
    "pqat": "full-integer",
    "cqat": "full-integer",
    "pcqat": "full-integer",
}
BRIGHTEST = 252  # of 255, as in PneumoniaMNIST: its steps would put every 42nd level in between two of them


@pytest.fixture(scope="module")
def examples() -> Examples:
    """Bright in the upper or in the lower half."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 160).astype(np.int32)
    inputs = 0.3 * rng.random((160, *SHAPE), dtype=np.float32)
    for image, label in zip(inputs, labels, strict=True):
        image[6 * label : 6 * label + 6] += 0.6
    levels = np.round(inputs / inputs.max() * BRIGHTEST)
    return Examples(np.asarray(levels / 255, np.float32), labels)


@pytest.fixture(scope="module")
def model(examples: Examples) -> Any:
    import tf_keras
    from tf_keras import layers

    tf_keras.utils.set_random_seed(7)
    steps = [
        layers.Input(SHAPE),
        layers.Conv2D(8, 3, padding="same", activation="relu", name="conv"),
        layers.MaxPooling2D(2),
        layers.Flatten(),
        layers.Dense(16, activation="relu", name="dense"),
        layers.Dense(1, activation="sigmoid", name="output"),
    ]
    network = tf_keras.Sequential(steps, name="tiny")
    network.compile("adam", "binary_crossentropy")
    network.fit(examples.inputs, examples.labels, epochs=4, batch_size=16, verbose=0)
    return network


def shortened(recipe: Recipe) -> Recipe:
    """The same with few epochs: 160 examples are 10 steps an epoch."""
    from dataclasses import replace

    return replace(
        recipe,
        prune=recipe.prune and replace(recipe.prune, epochs=4),
        cluster=recipe.cluster and replace(recipe.cluster, epochs=1, clusters=8),
        aware=recipe.aware and Aware(epochs=1),
    )


def ask(examples: Examples) -> Any:
    """Three devices."""
    from broker_server.calibration import merge_ranges
    from edge_client.inference.ranges import measure_ranges

    def devices(program: Any) -> Any:
        shares = np.array_split(examples.inputs, 3)
        return merge_ranges([measure_ranges(program.tflite, program.tensors, share) for share in shares])

    return devices


@pytest.fixture(scope="module")
def made(model: Any, examples: Examples) -> dict[str, Any]:
    from compression.models.apply import apply_recipe

    return {
        name: apply_recipe(
            model, shortened(RECIPES[name]), classes=2, examples=examples, ask_devices=ask(examples)
        )
        for name in CALIBRATION
    }


@pytest.mark.slow
def test_every_recipe_becomes_what_it_says(made: dict[str, Any]) -> None:
    assert {name: item.exported.calibration for name, item in made.items()} == CALIBRATION


@pytest.mark.slow
def test_zeros_and_clusters_survive_to_the_file(made: dict[str, Any]) -> None:
    from compression.models.pruning import zeros

    assert zeros(made["pruned80-int8"].network) == pytest.approx(0.8, abs=0.01)
    for name in ("pruned80-int8", "pcqat"):
        assert size_report(made[name].exported.tflite).sparsity > 0.7, name
    file = read_tflite(made["clustered16-int8"].exported.tflite)
    dense = next(tensor for tensor in file.constants if tensor.shape == (16, 288))
    assert len(np.unique(np.frombuffer(dense.data, np.int8))) <= 8


@pytest.mark.slow
def test_two_of_four_neighbours_are_zero(made: dict[str, Any]) -> None:
    kernel = made["pruned-2-4-int8"].network.get_layer("dense").kernel.numpy()  # [in, out]
    assert (np.count_nonzero(kernel.T.reshape(-1, 4), axis=1) <= 2).all()
    assert "prune: conv (1 input channels are no multiple of 4)" in made["pruned-2-4-int8"].skipped


@pytest.mark.slow
def test_blocks_are_zero_as_a_whole(made: dict[str, Any]) -> None:
    kernel = made["pruned-block-int8"].network.get_layer("dense").kernel.numpy()
    counts = np.count_nonzero(kernel.reshape(288, 4, 4), axis=2)
    assert set(np.unique(counts)) <= {0, 4} and (counts == 0).mean() == pytest.approx(0.8, abs=0.01)


@pytest.mark.slow
def test_layers_that_a_step_leaves_are_named(made: dict[str, Any]) -> None:
    assert made["float16"].skipped == made["pruned80-int8"].skipped == ()
    assert "prune: output (16x1 has no whole 1x4 blocks)" in made["pruned-block-int8"].skipped


@pytest.mark.slow
def test_both_runtimes_predict_alike(made: dict[str, Any], examples: Examples, tmp_path: Path) -> None:
    from tests.compression.models_worker import predict

    python = Path(os.environ.get("BRAMBLE_TFLITE_PYTHON", CHECKOUT / ".venv-tflite" / "bin" / "python"))
    if not python.exists():
        pytest.skip("no tflite-runtime: make .venv-tflite, or name its Python in BRAMBLE_TFLITE_PYTHON")
    assert list(made) == list(RECIPES)
    inputs = examples.inputs
    np.save(tmp_path / "inputs.npy", inputs)
    for name, item in made.items():
        (tmp_path / f"{name}.tflite").write_bytes(item.exported.tflite)
    subprocess.run(
        [python, Path(__file__).with_name("models_worker.py"), tmp_path],
        env={"PYTHONPATH": str(CHECKOUT), "BRAMBLE_RUNTIME": "tflite-runtime"},
        check=True,
        timeout=120,
        capture_output=True,
    )
    for name, item in made.items():
        here, there = predict(item.exported.tflite, inputs), np.load(tmp_path / f"{name}.npy")
        if item.exported.calibration == "full-integer" and name != "int16x8":
            np.testing.assert_array_equal(there, here, err_msg=name)  # to the bit
        else:
            np.testing.assert_allclose(there, here, atol=INT8_STEP, err_msg=name)


@pytest.mark.slow
def test_bytes_in_and_out_say_the_same(made: dict[str, Any], examples: Examples) -> None:
    from benchmarks.recipes.measure import classify

    graph = read_tflite(made["int8-uint8"].exported.tflite).graphs[0]
    assert {graph.tensors[index].type for index in (*graph.inputs, *graph.outputs)} == {"uint8"}
    inputs = examples.inputs[:20]
    np.testing.assert_allclose(
        classify(made["int8-uint8"].exported.tflite, inputs),
        classify(made["int8"].exported.tflite, inputs),
        atol=INT8_STEP + 1e-6,
    )


@pytest.mark.slow
def test_what_cannot_be_applied_is_refused(model: Any, examples: Examples) -> None:
    import tf_keras

    from compression.models.apply import apply_recipe

    with pytest.raises(RecipeError, match="'pruned80' needs examples"):
        apply_recipe(model, RECIPES["pruned80"], classes=2)
    with pytest.raises(RecipeError, match="no fleet here"):
        apply_recipe(model, RECIPES["int8-federated"], classes=2, examples=examples)
    inside = tf_keras.Sequential([tf_keras.layers.Input(SHAPE), model], name="outer")
    with pytest.raises(RecipeError, match="holds the model 'tiny'"):
        apply_recipe(inside, RECIPES["pruned80"], classes=2, examples=examples)
    with pytest.raises(RecipeError, match="give one for each"):
        Examples(examples.inputs, examples.labels[:5])


@pytest.mark.slow
def test_a_layer_without_fake_quantisation_stays_in_float_and_is_named(examples: Examples) -> None:
    import tf_keras
    from tf_keras import layers

    from compression.models.apply import apply_recipe

    odd = tf_keras.Sequential(
        [layers.Input(SHAPE), layers.Flatten(), layers.Dense(8), layers.ELU(name="elu"), layers.Dense(1)],
        name="odd",
    )
    item = apply_recipe(odd, shortened(RECIPES["qat"]), classes=2, examples=examples)
    assert item.skipped == ("fake quantisation: elu (ELU has no fake quantisation)",)
    assert "ELU" in item.exported.float_ops


@pytest.mark.slow
def test_a_users_own_layer_is_named_and_not_a_stack_trace(examples: Examples) -> None:
    from tf_keras import Sequential, layers

    from compression.models.apply import apply_recipe

    class Doubled(layers.Layer):  # type: ignore[misc]
        def call(self, x: Any) -> Any:
            return 2 * x

    class Lost(Doubled):
        """Cannot be made again from its configuration."""

        def __init__(self, factor: int, **options: Any) -> None:
            super().__init__(**options)
            self.factor = factor

    def with_layer(layer: Any) -> Any:
        return Sequential([layers.Input(SHAPE), layers.Flatten(), layers.Dense(16), layer, layers.Dense(1)])

    doubled = with_layer(Doubled(name="doubled"))
    item = apply_recipe(doubled, shortened(RECIPES["qat"]), classes=2, examples=examples)
    assert "fake quantisation: doubled (Doubled has no fake quantisation)" in item.skipped
    with pytest.raises(RecipeError, match=r"fake quantisation: .*unsupported layer .*Doubled"):
        apply_recipe(doubled, shortened(RECIPES["pqat"]), classes=2, examples=examples)
    with pytest.raises(RecipeError, match="cannot be copied layer by layer"):
        apply_recipe(with_layer(Lost(2)), RECIPES["pqat"], classes=2, examples=examples)


def test_layers_that_cannot_be_pruned_say_why() -> None:
    from tf_keras import layers

    from compression.models import aware, clustering, pruning

    norm, depthwise = layers.BatchNormalization(), layers.DepthwiseConv2D(3)
    frozen, odd = layers.Dense(4, trainable=False), layers.Dense(4, activation="selu")
    assert pruning.reason_to_skip(norm, Pruning()) == "BatchNormalization has no kernel"
    assert pruning.reason_to_skip(depthwise, Pruning()) == "DepthwiseConv2D is not pruned"
    assert pruning.reason_to_skip(frozen, Pruning()) == "frozen"
    assert clustering.reason_to_skip(depthwise, Clustering()) == "DepthwiseConv2D is not clustered"
    assert aware.reason_to_skip(odd) == "activation selu has no fake quantisation"
    assert aware.reason_to_skip(norm) is None


def test_a_users_recipes_are_read_and_chosen(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(MINE)
    known = {**RECIPES, **read_recipes(path)}
    assert choose_recipes(["mine", "int8"], known) == [
        Recipe(
            "mine",
            "half the weights, 8 values",
            "int8",
            prune=Pruning(sparsity=0.5, epochs=2),
            cluster=Clustering(clusters=8),
        ),
        RECIPES["int8"],
    ]
    with pytest.raises(RecipeError, match="no recipe 'other': use float32"):
        choose_recipes(["other"], known)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = ", "is not TOML"),
        ("x = 1", "holds no recipe"),
        ("[recipes]\nmine = 3", "recipes.mine is not a table"),
        ("[recipes.mine]\nsparse = 1", "unknown key 'sparse'"),
        ('[recipes.mine]\nquantise = "int4"', "must be one of float32"),
        ("[recipes.mine.prune]\nsparsity = 1.5", "from 0.05 to 0.99"),
        ('[recipes.mine.prune]\nsparsity = 0.8\npattern = "2:4"', "2:4 is a sparsity of 0.5"),
    ],
)
def test_a_wrong_file_of_recipes_says_what_is_wrong(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=message):
        read_recipes(path)


@pytest.mark.parametrize(
    "wrong",
    [
        {"quantise": "float32", "aware": Aware()},
        {"quantise": "dynamic", "ports": "uint8"},
        {"quantise": "int8", "ports": "uint8", "calibration": "none"},
        {"quantise": "int16x8", "calibration": "federated"},
        {"quantise": "int8", "aware": Aware(), "calibration": "federated"},
    ],
)
def test_steps_that_contradict_each_other_are_no_recipe(wrong: dict[str, Any]) -> None:
    with pytest.raises(RecordError, match="recipe 'x'"):
        Recipe("x", "x", **wrong)
