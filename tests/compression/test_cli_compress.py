"""``bramble-compress`` from the command line: what it writes is used, what does not fit is one line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from compression.cli import main
from compression.models.export import calibration_of
from compression.spec import TrainableBundle, check_weights
from compression.weights_file import read_weights
from tests.compression.models_worker import predict

CHECKOUT = Path(__file__).resolve().parents[2]
USER_MODULE = '''
import tf_keras
from tf_keras import layers

def net(shape, classes):
    """As a user would write it."""
    steps = [layers.Input(shape), layers.Conv2D(4, 3, name="conv"), layers.Flatten()]
    steps += [layers.Dense(1 if classes == 2 else classes, name="last")]
    return tf_keras.Sequential(steps, name="net")

def not_a_model(shape, classes):
    return shape

def fails(shape, classes):
    raise ValueError("too small a picture")

def misspells(shape, classes):
    return tf_keras.Sequentail([])

def open_ended(shape, classes):
    return tf_keras.Sequential([layers.Dense(1)])

def two_ends(shape, classes):
    x = layers.Input(shape)
    return tf_keras.Model(x, [layers.Flatten()(x), layers.Flatten()(x)])

def settled():
    return net((8, 8, 1), 3)

number = 3
'''


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a module of the user's own."""
    (tmp_path / "usermodels.py").write_text(USER_MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "usermodels", raising=False)
    return tmp_path


MODEL = ["usermodels:net", "--input", "8x8x1", "--classes", "no,yes"]


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(list(arguments)) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("error: ") and captured.err.count("\n") == 1
    return captured.err


def test_a_bundle_trains_and_its_weights_are_exported(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trainable", *MODEL, "--batch", "4", "--out", "bundle", "--json"]) == 0
    captured = capsys.readouterr()
    made = json.loads(captured.out)
    assert captured.err == ""
    bundle = TrainableBundle.from_bytes((here / "bundle" / "bundle.bin").read_bytes())
    assert made["digest"] == bundle.digest
    assert (bundle.spec.name, bundle.spec.batch_size, bundle.spec.loss) == ("net", 4, "binary_crossentropy")
    weights = read_weights(here / "bundle" / "weights.npz").weights
    check_weights(weights, bundle.spec)

    for name in weights:
        weights[name] = np.zeros_like(weights[name])
    np.savez(here / "zeros.npz", **weights)
    arguments = ["export", *MODEL, "--weights", "zeros.npz", "--out", "model.tflite"]
    assert main(arguments) == 0
    assert "model.tflite: " in capsys.readouterr().out
    examples = np.ones((2, 8, 8, 1), np.float32)
    np.testing.assert_allclose(predict((here / "model.tflite").read_bytes(), examples), 0.5)


def test_int8_is_full_integer_with_examples_and_says_so_without(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(here / "examples.npy", np.random.default_rng(0).random((16, 8, 8, 1), dtype=np.float32))
    int8 = ["export", *MODEL, "--recipe", "int8", "--out", "int8.tflite"]
    assert main([*int8, "--calibration", "examples.npy", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["calibration"] == "full-integer"
    assert calibration_of((here / "int8.tflite").read_bytes()) == "full-integer"
    assert main(int8) == 0
    assert "not full-integer" in capsys.readouterr().out


def test_a_saved_keras_file_is_exported(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from compression.references import load_reference

    load_reference("usermodels:net", (8, 8, 1), 2).save(here / "saved.keras")
    assert main(["export", "saved.keras", "--classes", "no,yes", "--out", "model.tflite"]) == 0
    assert "model.tflite: " in capsys.readouterr().out
    (here / "broken.keras").write_bytes(b"not a model")
    assert "broken.keras is not a Keras model" in error_of(
        capsys, "export", "broken.keras", "--classes", "no,yes", "--out", "x.tflite"
    )


def test_size_shows_every_file_and_layer(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["export", *MODEL, "--out", "a.tflite"])
    capsys.readouterr()
    assert main(["size", "a.tflite"]) == 0
    text = capsys.readouterr().out
    assert "a.tflite" in text and "conv" in text and "last" in text
    assert main(["size", "a.tflite", "--json"]) == 0
    [report] = json.loads(capsys.readouterr().out)
    assert report["file_bytes"] == (here / "a.tflite").stat().st_size
    assert {layer["name"] for layer in report["layers"]} >= {"conv", "last"}


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("usermodels", "is not module:function"),
        ("nowhere:net", "cannot be loaded"),
        ("usermodels:absent", "cannot be loaded"),
        ("usermodels:number", "is not a function"),
        ("usermodels:not_a_model", "returned tuple"),
        ("usermodels:fails", "too small a picture (usermodels.py, line 15)"),
        ("usermodels:misspells", "Sequentail"),
        ("usermodels:misspells", "(usermodels.py, line 18)"),
    ],
)
def test_a_wrong_reference_is_one_line(
    here: Path, capsys: pytest.CaptureFixture[str], reference: str, message: str
) -> None:
    arguments = ["export", reference, "--input", "8x8x1", "--classes", "no,yes", "--out", "x.tflite"]
    assert message in error_of(capsys, *arguments)
    assert not (here / "x.tflite").exists()


def test_a_function_of_nothing_says_its_input_and_classes_itself(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["trainable", "usermodels:settled", "--out", "bundle"]) == 0
    assert capsys.readouterr().err == ""
    spec = json.loads((here / "bundle" / "spec.json").read_text())
    assert spec["classes"] == ["0", "1", "2"]
    assert (spec["input"]["height"], spec["input"]["width"], spec["input"]["channels"]) == (8, 8, 1)
    other = ["--input", "9x8x1", "--classes", "a,b,c", "--out", "x"]
    assert "takes (8, 8, 1), not (9, 8, 1)" in error_of(capsys, "trainable", "usermodels:settled", *other)
    for reference in ("usermodels:net", "usermodels:open_ended"):
        assert "give --input and --classes" in error_of(capsys, "trainable", reference, "--plan")
    assert not (here / "x").exists()


@pytest.mark.parametrize("command", ["trainable", "tune"])
def test_a_model_that_cannot_be_compiled_is_one_line(
    here: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    for reference, message in (
        ("usermodels:open_ended", "has no fixed input: begin it with an Input layer"),
        ("usermodels:two_ends", "must have one input and one output, not 1 and 2"),
    ):
        arguments = [command, reference, "--input", "8x8x1", "--classes", "no,yes", "--out", "x"]
        assert message in error_of(capsys, *arguments)
    assert "begin it with an Input layer" in error_of(
        capsys, "trainable", "usermodels:open_ended", *MODEL[1:], "--plan"
    )
    if command == "trainable":
        assert "batch_size" in error_of(capsys, "trainable", *MODEL, "--batch", "0", "--out", "x")
    assert not (here / "x").exists()


def test_a_seed_gives_the_same_files_bit_for_bit(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = ["trainable", *MODEL, "--batch", "2", "--out"]
    for name, more in (("a", []), ("b", ["--seed", "0"]), ("c", ["--seed", "1"])):
        assert main([*made, name, *more]) == 0
    files = [{path.name: path.read_bytes() for path in sorted((here / name).iterdir())} for name in "abc"]
    assert set(files[0]) == {"bundle.bin", "spec.json", "weights.npz"}
    assert files[0] == files[1]
    assert files[2]["weights.npz"] != files[0]["weights.npz"]
    with pytest.raises(SystemExit, match="2"):
        main([*made, "d", "--seed", "-1"])


def test_files_that_do_not_fit_are_one_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export = ["export", *MODEL, "--out", "x.tflite"]
    (here / "text.npy").write_text("hello")
    np.savez(here / "two.npz", a=np.zeros(3), b=np.zeros(3))
    np.save(here / "words.npy", np.array(["a", "b"]))
    np.save(here / "few.npy", np.zeros((3, 8, 8, 1), np.float32))
    np.savez(here / "other.npz", kernel=np.zeros(3, np.float32))
    assert "not a NumPy file" in error_of(capsys, *export, "--calibration", "text.npy")
    assert "holds 2 arrays" in error_of(capsys, *export, "--calibration", "two.npz")
    assert "not numbers" in error_of(capsys, *export, "--calibration", "words.npy")
    assert "too few" in error_of(capsys, *export, "--recipe", "int8", "--calibration", "few.npy")
    assert "not those of model" in error_of(capsys, *export, "--weights", "other.npz")
    assert "not an npz" in error_of(capsys, *export, "--weights", "few.npy")
    assert "No such file" in error_of(capsys, *export, "--weights", "absent.npz")
    assert "--input is needed" in error_of(
        capsys, "export", "usermodels:net", "--classes", "no,yes", "--out", "x.tflite"
    )
    assert "not a TFLite file" in error_of(capsys, "size", "text.npy")
    assert "1 or 3 channels" in error_of(
        capsys, "trainable", "usermodels:net", "--input", "8x8x2", "--classes", "no,yes", "--out", "d"
    )
    unfit = ["trainable", *MODEL, "--loss", "categorical_crossentropy", "--out", "d"]
    assert "does not fit a model of 1 outputs" in error_of(capsys, *unfit)
    assert not (here / "x.tflite").exists() and not (here / "d").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["trainable"],
        ["export", "m:f", "--classes", "one", "--out", "x"],
        ["export", "m:f", "--classes", "a,a", "--out", "x"],
        ["export", "m:f", "--classes", "a,b", "--input", "8x8", "--out", "x"],
        ["export", "m:f", "--classes", "a,b", "--input", "0", "--out", "x"],
    ],
)
def test_wrong_usage_is_status_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2


@pytest.mark.parametrize("command", [[], ["trainable"], ["export"], ["size"]])
def test_every_help_ends_with_an_example(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*command, "--help"])
    assert ended.value.code == 0
    assert "example" in capsys.readouterr().out.rpartition("\n\n")[2]


def test_it_runs_as_a_module_without_tensorflow_for_size(tmp_path: Path) -> None:
    (tmp_path / "bad.tflite").write_bytes(b"nothing")
    ran = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "compression.cli", "size", tmp_path / "bad.tflite"],
        env=os.environ | {"PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 1
    assert "error: not a TFLite file" in ran.stderr
    assert " tensorflow" not in ran.stderr


def test_the_plan_says_what_a_device_needs_and_writes_nothing(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(here.iterdir())
    model = ["usermodels:net", "--input", "128x128x1", "--classes", "no,yes"]
    assert main(["trainable", *model, "--batch", "8", "--plan", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert [choice["rows"] for choice in plan["choices"]] == [8, 4, 2]
    arenas = [choice["train_arena_bytes"] for choice in plan["choices"]]
    assert arenas == sorted(arenas, reverse=True) and arenas[0] > 1.5 * arenas[2]
    assert plan["recommended"] == 4
    assert sorted(here.iterdir()) == before

    assert main(["trainable", *MODEL, "--batch", "2", "--plan"]) == 0
    text = capsys.readouterr().out
    assert "process, tflite-runtime" in text and "would save next to nothing.\n" in text
    assert re.search(r"Zero 2 W's 512 MB that is \d+%, besides", text)


def test_micro_batches_on_the_command_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["trainable", *MODEL, "--batch", "4", "--out", "bundle", "--micro-batch"]
    assert "micro_batch 3 does not divide" in error_of(capsys, *arguments, "3")
    assert main([*arguments, "2"]) == 0
    with pytest.raises(SystemExit, match="2"):
        main([*arguments, "few"])
    with pytest.raises(SystemExit, match="2"):
        main(["trainable", *MODEL])  # neither --out nor --plan
