"""Every recipe on one model and one data set: size, quality, speed, and which of them nothing else beats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.recipes.data import RecipeData, input_shape, load_examples, shards, trained_model
from benchmarks.recipes.measure import FileFigures, Quality, file_figures, judge
from broker_server.calibration import merge_ranges
from broker_server.models import RANDOM
from compression.errors import BrambleError
from compression.models.apply import CALIBRATION_EXAMPLES, AskDevices, Compressed, apply_recipe
from compression.models.quantisation import Ranges
from compression.models.ranges import RangeProgram
from compression.models.recipes import Recipe
from compression.models.training import Report, silent
from edge_client.inference.ranges import measure_ranges

DEVICES = 4
CLIP_PERCENT = 0.0
LEAST_DEVICE_EXAMPLES = 8
DRY_RUN = "random weights, dry run: its accuracy says nothing"


@dataclass(frozen=True, slots=True)
class RecipeResult:
    """One line of the table.

    Attributes:
        calibration: where activation ranges came from: "pooled", "federated", "learnt" or "none".
        simulated: what of it was simulated, in words; empty for nothing.
        size_reduction_percent: of the zipped size, against the float32 file's; None before that is known.
        pareto: no other recipe has a smaller zipped file and at least the same accuracy, or the reverse.
        skipped: layers that a step left as they are, with the reason.
        error: why there are no figures.
    """

    recipe: str
    summary: str
    calibration: str
    simulated: str = ""
    quality: Quality | None = None
    figures: FileFigures | None = None
    size_reduction_percent: float | None = None
    pareto: bool = False
    skipped: tuple[str, ...] = ()
    error: str = ""

    def plain(self) -> dict[str, Any]:
        """Flat, for JSON."""
        names = [*Quality.__dataclass_fields__, *FileFigures.__dataclass_fields__]
        found = {name: getattr(self.quality, name, getattr(self.figures, name, None)) for name in names}
        own = {name: getattr(self, name) for name in RecipeResult.__dataclass_fields__}
        return {name: value for name, value in own.items() if name not in ("quality", "figures")} | found


def compare_model(
    model: str,
    recipes: Sequence[Recipe],
    *,
    source: str,
    shape: Sequence[int] | None = None,
    epochs: int | None = None,
    devices: int = DEVICES,
    seed: int = 0,
    keep: Path | None = None,
    report: Report = silent,
) -> tuple[RecipeData, list[RecipeResult]]:
    """`compare_recipes` for what a person types: the model as `trained_model` takes it, ``KIND:PATH``.

    Raises:
        BrambleError: model and data cannot be used, or not together.
    """
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
    data = load_examples(source, input_shape(model, shape), seed=seed)
    trained = trained_model(model, data, epochs=epochs, seed=seed, report=report)
    return data, compare_recipes(trained, recipes, data, devices=devices, seed=seed, keep=keep, report=report)


def compare_recipes(
    model: Any,
    recipes: Sequence[Recipe],
    data: RecipeData,
    *,
    devices: int = DEVICES,
    seed: int = 0,
    keep: Path | None = None,
    report: Report = silent,
) -> list[RecipeResult]:
    """Apply and measure each recipe; one that cannot be applied is a line with the reason.

    Args:
        devices: simulated, of recipes with federated calibration.
        keep: a folder that the files are written to.
    """
    results = [_result(model, recipe, data, devices, seed, keep, report) for recipe in recipes]
    return with_comparison(results)


def with_comparison(results: Sequence[RecipeResult]) -> list[RecipeResult]:
    """The same with what needs the others: reduction in size, and the front."""
    base = next((r.figures.zipped_bytes for r in results if r.recipe == "float32" and r.figures), None)
    return [
        replace(
            result,
            pareto=_on_front(result, results),
            size_reduction_percent=None
            if base is None or result.figures is None
            else 100 * (1 - result.figures.zipped_bytes / base),
        )
        for result in results
    ]


def simulated_fleet(data: RecipeData, devices: int, seed: int) -> AskDevices:
    """Devices on this machine: each measures its share of the calibration set, the server's rule merges."""
    drawn = data.train.drawn(
        max(CALIBRATION_EXAMPLES, devices * LEAST_DEVICE_EXAMPLES), np.random.default_rng(seed)
    )

    def ask(program: RangeProgram) -> Ranges:
        return merge_ranges(
            [
                measure_ranges(program.tflite, program.tensors, share, clip_percent=CLIP_PERCENT)
                for share in shards(drawn, devices, seed)
            ]
        )

    return ask


def _result(
    model: Any,
    recipe: Recipe,
    data: RecipeData,
    devices: int,
    seed: int,
    keep: Path | None,
    report: Report,
) -> RecipeResult:
    federated = recipe.calibration == "federated"
    line = RecipeResult(
        recipe=recipe.name,
        summary=recipe.summary,
        calibration=_calibration(recipe),
        simulated="; ".join(
            [f"{devices} devices, on this machine"] * federated
            + [DRY_RUN] * str(model.name).endswith(f"_{RANDOM}")
        ),
    )
    try:
        made: Compressed = apply_recipe(
            model,
            recipe,
            classes=len(data.classes),
            examples=data.train,
            ask_devices=simulated_fleet(data, devices, seed) if federated else None,
            seed=seed,
            report=report,
        )
        report(f"{recipe.name}: measuring", 0.0)
        tflite = made.exported.tflite
        if keep is not None:
            (keep / f"{recipe.name}.tflite").write_bytes(tflite)
        return replace(
            line, quality=judge(tflite, data.test), figures=file_figures(tflite), skipped=made.skipped
        )
    except BrambleError as exc:
        return replace(line, error=str(exc))


def _calibration(recipe: Recipe) -> str:
    if not recipe.needs_ranges:
        return "none"
    return "learnt" if recipe.aware is not None else recipe.calibration


def _on_front(result: RecipeResult, results: Sequence[RecipeResult]) -> bool:
    return _point(result) is not None and not any(_beats(other, result) for other in results)


def _beats(other: RecipeResult, result: RecipeResult) -> bool:
    theirs, ours = _point(other), _point(result)
    if theirs is None or ours is None or theirs == ours:
        return False
    return theirs[0] <= ours[0] and theirs[1] >= ours[1]


def _point(result: RecipeResult) -> tuple[int, float] | None:
    if result.figures is None or result.quality is None:
        return None
    return result.figures.zipped_bytes, result.quality.accuracy
