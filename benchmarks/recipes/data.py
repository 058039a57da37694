"""A model and its examples, as a recipe takes them, from what a person types."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from broker_server.models import build_model, find_entry
from compression.commands import input_of
from compression.models.errors import RecipeError
from compression.models.training import Examples, Report, fit, one_hot, silent
from compression.references import SAVED_SUFFIXES, load_reference, load_saved
from compression.spec import ImageInput, TableInput
from compression.tf import quiet, tensorflow
from edge_client.data import DataSource, class_names, column_statistics, load_data, normalise, table_input
from edge_client.data.local import open_table

HELD_OUT = 0.2  # of each class, where the source has no split of its own
EPOCHS = 12  # of an architecture that comes without weights
LEARNING_RATE = 1e-3
PICTURE = (64, 64, 1)  # where neither the model nor --input says


@dataclass(frozen=True, slots=True)
class RecipeData:
    """Examples to train with and examples to judge by.

    Attributes:
        split: what `test` is: "test", or "validation" where the source has no test split.
    """

    source: str
    classes: tuple[str, ...]
    train: Examples
    test: Examples
    split: Literal["test", "validation"]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example."""
        return tuple(self.train.inputs.shape[1:])


def load_examples(text: str, shape: Sequence[int] | None, *, seed: int) -> RecipeData:
    """Read ``KIND:PATH`` for an input of this shape; a table has its own.

    Raises:
        DataError, RecipeError: it cannot be read, or has too few examples.
    """
    source = DataSource.parse(text)
    example: ImageInput | TableInput
    if source.kind == "table":
        example = table_input(column_statistics(source, open_table(source).columns))
    else:
        example = input_of(shape or PICTURE)
    classes = class_names(source)
    data = load_data(source, example, classes, validation_fraction=HELD_OUT, seed=seed)
    held_out = data.test_index if len(data.test_index) else data.validation_index

    def at(index: npt.NDArray[Any]) -> Examples:
        return Examples(normalise(data.inputs[index], example), data.labels[index])

    return RecipeData(
        text, classes, at(data.train_index), at(held_out), "test" if len(data.test_index) else "validation"
    )


def input_shape(reference: str, given: Sequence[int] | None) -> tuple[int, ...] | None:
    """What the model takes: as given, as the file says, or as the zoo has it; None for the usual."""
    if reference.endswith(SAVED_SUFFIXES):
        return tuple(int(extent) for extent in load_saved(Path(reference)).input_shape[1:])
    if given is not None:
        return tuple(given)
    entry = find_entry(reference)
    return None if entry is None else entry.default_input


def trained_model(
    reference: str, data: RecipeData, *, epochs: int | None = None, seed: int = 0, report: Report = silent
) -> Any:
    """The model that recipes start from.

    Args:
        reference: a name of the zoo, ``module:function``, or a Keras file, which keeps its weights.
        epochs: of training before any recipe; None is 12, and 0 for a file.

    Raises:
        ModelsError, ModelError: there is no such model, or it does not fit the data.
    """
    saved = reference.endswith(SAVED_SUFFIXES)
    tensorflow().keras.utils.set_random_seed(seed)
    with quiet():
        model = _built(reference, data)
    outputs, classes = int(model.output_shape[-1]), len(data.classes)
    if tuple(model.input_shape[1:]) != data.shape or outputs not in ({1, 2} if classes == 2 else {classes}):
        raise RecipeError(
            f"model {reference!r} takes {model.input_shape[1:]} and has {outputs} outputs; the data is "
            f"{data.shape} with {classes} classes"
        )
    count = epochs if epochs is not None else 0 if saved else EPOCHS
    if count:
        _train(model, data, count, report)
    return model


def _built(reference: str, data: RecipeData) -> Any:
    if reference.endswith(SAVED_SUFFIXES):
        return load_saved(Path(reference))
    build = load_reference if ":" in reference else build_model
    return build(reference, data.shape, len(data.classes))


def _train(model: Any, data: RecipeData, epochs: int, report: Report) -> None:
    from compression.models.cutting import is_transfer, parts  # noqa: PLC0415 - after TensorFlow
    from compression.models.network import with_logits  # noqa: PLC0415

    inputs, trained = data.train.inputs, model
    if is_transfer(model):  # the frozen part says the same in every epoch
        extractor, trained = parts(model)
        report("running the backbone", 0.0)
        inputs = extractor.predict(inputs, batch_size=32, verbose=0)
    network = with_logits(trained)
    targets = one_hot(data.train.labels, int(model.output_shape[-1]))
    fit(
        network,
        inputs,
        targets,
        epochs=epochs,
        learning_rate=LEARNING_RATE,
        what="training the float32 model",
        report=report,
    )
    for layer in trained.layers:
        layer.set_weights(network.get_layer(layer.name).get_weights())


def shards(examples: Examples, count: int, seed: int) -> list[npt.NDArray[np.float32]]:
    """Inputs dealt out to so many simulated devices, each with mostly one class: the harder case."""
    rng = np.random.default_rng(seed)
    order = np.argsort(examples.labels + 0.5 * rng.random(len(examples)), kind="stable")
    return [examples.inputs[part] for part in np.array_split(order, count)]
