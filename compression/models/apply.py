"""A recipe applied to a trained model: steps with training one after the other, then the converter."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from compression.models.aware import train_aware
from compression.models.clustering import cluster
from compression.models.errors import RecipeError
from compression.models.export import ExportedModel, export_function, export_model
from compression.models.head import inference_function
from compression.models.network import flat, largest_logit, with_logits
from compression.models.pruning import prune
from compression.models.quantisation import Ranges
from compression.models.ranges import RangeProgram, quantise_with_ranges, range_program
from compression.models.recipes import Recipe
from compression.models.training import Examples, FloatArray, Report, answers, fit, one_hot, silent
from compression.tf import quiet_loggers, tensorflow

CALIBRATION_EXAMPLES = 200  # as the server's releases take

AskDevices = Callable[[RangeProgram], Ranges]


@dataclass(frozen=True, slots=True)
class Compressed:
    """A small file and how it came about.

    Attributes:
        skipped: layers that a step left as they are: ``step: layer (reason)``.
        network: the Keras model before conversion, with logits.
    """

    recipe: Recipe
    exported: ExportedModel
    skipped: tuple[str, ...]
    network: Any


def apply_recipe(
    model: Any,
    recipe: Recipe,
    *,
    classes: int,
    examples: Examples | None = None,
    ask_devices: AskDevices | None = None,
    seed: int = 0,
    report: Report = silent,
) -> Compressed:
    """Compress a trained `tf_keras` model, which stays as it is.

    Args:
        examples: to train with and to find activation ranges on; float32, float16, dynamic and
            int8-uncalibrated do without.
        ask_devices: gives the merged ranges for a recipe with federated calibration.

    Raises:
        RecipeError, ExportError: the recipe cannot be applied to this model; it says why.
    """
    if examples is None and (recipe.trains or recipe.needs_ranges):
        raise RecipeError(f"recipe {recipe.name!r} needs examples: give them with --data")
    network, skipped = with_logits(model), list[str]()
    if recipe.trains and examples is not None:
        tensorflow().keras.utils.set_random_seed(seed)  # of dropout and of the order of examples
        network, skipped = _trained(flat(network), recipe, examples, seed, report)
    if recipe.calibration == "federated":
        if ask_devices is None:
            raise RecipeError(f"recipe {recipe.name!r} needs the devices' ranges, and there is no fleet here")
        program = range_program(network, classes)
        exported = quantise_with_ranges(program, ask_devices(program), ports=recipe.ports)
    else:
        shown = calibration_of(examples, seed) if recipe.needs_ranges and examples is not None else None
        exported = _exported(network, recipe, classes, shown)
    return Compressed(recipe, exported, tuple(skipped), network)


def calibration_of(examples: Examples, seed: int) -> FloatArray:
    """The examples that activation ranges are drawn from."""
    return examples.drawn(CALIBRATION_EXAMPLES, np.random.default_rng(seed)).inputs


def _trained(
    network: Any, recipe: Recipe, examples: Examples, seed: int, report: Report
) -> tuple[Any, list[str]]:
    inputs, targets = _lessons(network, recipe, examples, np.random.default_rng(seed))
    skipped: list[str] = []

    def fine_tune(model: Any, *, epochs: int, what: str, callbacks: Sequence[Any]) -> None:
        fit(
            model, inputs, targets, epochs=epochs, learning_rate=recipe.learning_rate,
            what=f"{recipe.name}: {what}", report=report, callbacks=callbacks,
        )  # fmt: skip

    def left(step: str, layers: Sequence[str]) -> None:
        skipped.extend(f"{step}: {layer}" for layer in layers)

    zeros, clusters = recipe.prune is not None, recipe.cluster is not None
    if recipe.prune is not None:
        with _step("prune", network):
            network, layers = prune(network, recipe.prune, len(inputs), fine_tune)
        left("prune", layers)
    if recipe.cluster is not None:
        with _step("cluster", network):
            network, layers = cluster(network, recipe.cluster, fine_tune, keep_zeros=zeros)
        left("cluster", layers)
    if recipe.aware is not None:
        with _step("fake quantisation", network):
            network, layers = train_aware(
                network, recipe.aware, fine_tune, keep_zeros=zeros, keep_clusters=clusters
            )
        left("fake quantisation", layers)
    return network, skipped


@contextmanager
def _step(name: str, network: Any) -> Iterator[None]:
    """What tensorflow-model-optimization cannot do with a model, as an error of ours."""
    try:
        with quiet_loggers():
            yield
    except RecipeError:
        raise
    except (ValueError, TypeError, RuntimeError, NotImplementedError, tensorflow().errors.OpError) as exc:
        lines = str(exc).strip().splitlines() or [type(exc).__name__]
        raise RecipeError(f"model {network.name!r}, {name}: {lines[0][:300]}") from exc


def _lessons(
    network: Any, recipe: Recipe, examples: Examples, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """What the steps train on: inputs and targets, with mixtures where the network itself is the teacher."""
    labels = one_hot(examples.labels, int(network.output_shape[-1]))
    if not recipe.distil:
        return examples.inputs, labels
    other = rng.permutation(len(examples))
    share = rng.random((len(examples), *[1] * (examples.inputs.ndim - 1)), dtype=np.float32)
    mixtures = share * examples.inputs + (1 - share) * examples.inputs[other]
    taught = answers(network, examples.inputs)
    targets = np.float32(1 - recipe.distil) * labels + np.float32(recipe.distil) * taught
    return np.concatenate([examples.inputs, mixtures]), np.concatenate([targets, answers(network, mixtures)])


def _exported(
    network: Any, recipe: Recipe, classes: int, shown: npt.NDArray[np.float32] | None
) -> ExportedModel:
    if recipe.aware is None or shown is None:
        return export_model(
            network, classes=classes, recipe=recipe.quantise, calibration=shown, ports=recipe.ports
        )
    # The ranges were learnt; the examples show only how far the logits reach.
    function = inference_function(network, classes, largest_logit=largest_logit(network, shown))
    return export_function(function, network, recipe="int8", ports=recipe.ports)
