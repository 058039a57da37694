"""What ``bramble-compress`` does, as functions: files in, files out, a value that says what was made."""

from __future__ import annotations

import argparse
import importlib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from compression.errors import BrambleError
from compression.models.export import Recipe, export_model
from compression.records import dumps
from compression.references import SAVED_SUFFIXES, load_reference, load_saved
from compression.spec import ImageInput, Loss, Optimizer, TableInput
from compression.tf import quiet, tensorflow
from compression.weights_file import ModelSource, read_weights, write_weights

MAX_EXTENT = 4096
MAX_SEED = 2**32 - 1


class CommandError(BrambleError, ValueError):
    """The options do not fit each other or the files."""


@dataclass(frozen=True, slots=True)
class MadeBundle:
    """What `make_bundle` wrote."""

    directory: str
    name: str
    digest: str
    bundle_bytes: int
    parameters: int
    lowerings: str  # what chose them, in words


@dataclass(frozen=True, slots=True)
class ExportedFile:
    """What `export_file` wrote, and what it became."""

    file: str
    recipe: str
    calibration: str
    bytes: int
    ops: tuple[str, ...]
    float_ops: tuple[str, ...]


def parse_shape(text: str) -> tuple[int, ...]:
    """``64x64x1`` or ``30``, for argparse."""
    try:
        shape = tuple(int(part) for part in text.lower().split("x"))
    except ValueError:
        shape = ()
    if len(shape) not in (1, 3) or not all(1 <= extent <= MAX_EXTENT for extent in shape):
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTHxCHANNELS or a number of columns")
    return shape


def parse_classes(text: str) -> tuple[str, ...]:
    """``normal,pneumonia``, for argparse."""
    classes = tuple(part.strip() for part in text.split(","))
    if len(classes) < 2 or not all(classes) or len(set(classes)) != len(classes):
        raise argparse.ArgumentTypeError(f"{text!r} is not two or more different names with commas between")
    return classes


def parse_seed(text: str) -> int:
    """A seed that NumPy takes, for argparse."""
    if not text.isdigit() or int(text) > MAX_SEED:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to {MAX_SEED}")
    return int(text)


def parse_micro_batch(text: str) -> int | Literal["auto"]:
    """``4`` or ``auto``, for argparse."""
    if text == "auto":
        return "auto"
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of examples, nor auto")
    return int(text)


def input_of(shape: Sequence[int]) -> ImageInput | TableInput:
    """The spec's input for a shape; a table's columns get numbers for names, and no scaling."""
    if len(shape) == 1:
        columns = tuple(f"column_{number}" for number in range(1, shape[0] + 1))
        return TableInput(columns=columns, center=(0.0,) * shape[0], spread=(1.0,) * shape[0])
    height, width, channels = shape
    if channels not in (1, 3):
        raise CommandError(f"pictures have 1 or 3 channels, not {channels}")
    return ImageInput(height=height, width=width, channels=1 if channels == 1 else 3)


def make_bundle(
    reference: str,
    *,
    input_shape: Sequence[int],
    classes: Sequence[str],
    directory: Path,
    name: str | None = None,
    loss: Loss | None = None,
    optimizer: Optimizer = "adam",
    batch_size: int = 16,
    micro_batch: int | Literal["auto"] | None = None,
    lowerings: str | None = None,
    seed: int = 0,
    calibration: Path | None = None,
) -> MadeBundle:
    """Compile a model and write bundle.bin, spec.json and weights.npz into a directory.

    Of a model whose layers up to one called "features" are frozen, the bundle is of the rest, and
    extractor.tflite lies beside it.

    Args:
        calibration: .npy of pictures for the extractor's activations; without it its weights alone are int8.
        lowerings: a file that `tune` made, or the name of a runtime whose rule is meant.
        seed: of the first weights; Python's, NumPy's and TensorFlow's generators are set to it.

    Raises:
        CommandError, ModelsError, RecordError: the model or an option does not fit.
    """
    tensorflow()  # here and not above: `size` can do without
    from compression.models.cutting import cut  # noqa: PLC0415
    from compression.trainable import TrainableError, compile_trainable  # noqa: PLC0415
    from compression.trainable.rules import RULES  # noqa: PLC0415
    from compression.trainable.tuning import read_table  # noqa: PLC0415

    example = input_of(input_shape)
    importlib.import_module("tf_keras").utils.set_random_seed(seed)
    model = load_reference(reference, input_shape, len(classes))
    try:
        with quiet():
            split = cut(model, example, None if calibration is None else read_examples(calibration))
            result = compile_trainable(
                split.trained,
                name=name or (model.name if split.extractor else reference.rpartition(":")[2]),
                input=split.input,
                classes=classes,
                loss=loss or default_loss(split.trained),
                optimizer=optimizer,
                batch_size=batch_size,
                micro_batch=micro_batch,
                lowerings=None if lowerings is None else RULES.get(lowerings) or read_table(Path(lowerings)),
            )
    except TrainableError as exc:
        raise CommandError(str(exc)) from exc
    directory.mkdir(parents=True, exist_ok=True)
    data = result.bundle.to_bytes()
    (directory / "bundle.bin").write_bytes(data)
    (directory / "spec.json").write_bytes(dumps(result.bundle.spec))
    if split.extractor is not None:
        (directory / "extractor.tflite").write_bytes(split.extractor)
    source = ModelSource(model=reference, input=tuple(input_shape), classes=tuple(classes))
    write_weights(directory / "weights.npz", result.weights, source)
    spec = result.bundle.spec
    return MadeBundle(
        str(directory), spec.name, result.bundle.digest, len(data), spec.parameters, result.lowerings
    )


def default_loss(model: Any) -> Loss:
    """Cross-entropy, by the number of outputs.

    Raises:
        CommandError: the model is not one that can be compiled, so there is no such number.
    """
    from compression.trainable import TrainableError  # noqa: PLC0415
    from compression.trainable.checks import check_model  # noqa: PLC0415

    try:
        with quiet():
            check_model(model)
    except TrainableError as exc:
        raise CommandError(str(exc)) from exc
    return "binary_crossentropy" if int(model.output_shape[-1]) == 1 else "categorical_crossentropy"


def export_file(
    model: str,
    *,
    out: Path,
    classes: Sequence[str] | None = None,
    recipe: Recipe = "float32",
    input_shape: Sequence[int] | None = None,
    weights: Path | None = None,
    calibration: Path | None = None,
) -> ExportedFile:
    """Convert a model and write the TFLite file.

    Args:
        model: ``module:function``, a Keras file, or an npz of weights that says what model they are of.

    Raises:
        CommandError, ModelsError, SpecError: the model or an option does not fit.
    """
    examples = None if calibration is None else read_examples(calibration)
    if model.endswith(".npz"):
        weights, source = Path(model), _source_of(Path(model))
        model, input_shape, classes = source.model, source.input, source.classes
    if classes is None:
        raise CommandError(f"--classes is needed for {model!r}: their names, the positive one second")
    keras = _keras_model(model, input_shape, len(classes))
    if weights is not None:
        _put_weights(keras, read_weights(weights).weights)
    exported = export_model(keras, classes=len(classes), recipe=recipe, calibration=examples)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(exported.tflite)
    return ExportedFile(
        str(out), recipe, exported.calibration, len(exported.tflite), exported.ops, exported.float_ops
    )


def _source_of(path: Path) -> ModelSource:
    source = read_weights(path).source
    if source is None:
        raise CommandError(
            f"{path} does not say of which model it is: name the model, and give --weights {path}"
        )
    return source


def _keras_model(model: str, input_shape: Sequence[int] | None, classes: int) -> Any:
    if model.endswith(SAVED_SUFFIXES):
        return load_saved(Path(model))
    if input_shape is None:
        raise CommandError(f"--input is needed for {model!r}: the shape of one example, 64x64x1 for instance")
    return load_reference(model, input_shape, classes)


def _put_weights(model: Any, weights: dict[str, npt.NDArray[np.float32]]) -> None:
    from compression.trainable import TrainableError, load_keras_weights  # noqa: PLC0415

    try:
        load_keras_weights(model, weights)
    except TrainableError as exc:
        raise CommandError(str(exc)) from exc


def read_examples(path: Path) -> npt.NDArray[np.float32]:
    """A npy of examples, or the only array of an npz; raise `CommandError` for another file."""
    loaded = _load(path)
    if isinstance(loaded, dict):
        if len(loaded) != 1:
            raise CommandError(f"{path} holds {len(loaded)} arrays ({', '.join(loaded)}): give a npy of one")
        [loaded] = loaded.values()
    if loaded.dtype.kind not in "fiu":
        raise CommandError(f"{path} holds {loaded.dtype}, not numbers")
    return np.asarray(loaded, np.float32)


def _load(path: Path) -> Any:
    try:
        loaded = np.load(path, allow_pickle=False)
        return dict(loaded) if isinstance(loaded, np.lib.npyio.NpzFile) else loaded
    except (ValueError, EOFError, zipfile.BadZipFile) as exc:
        raise CommandError(f"{path} is not a NumPy file: {exc}") from exc
