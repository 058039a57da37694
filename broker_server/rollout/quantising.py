"""The released file of the fleet's weights: by the recipe of the settings, and calibrated as they say.

For int8 the order is: the devices' ranges, the server's own examples, none. What was asked for and is not to
be had gives way to the next. With held-out examples the other ways are made and measured too, so that the
report shows what the choice cost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from broker_server.config import ServerConfig, chosen_calibration
from broker_server.program import every_example
from broker_server.report.calibration import CalibrationFigures, ComparedCalibration, How
from broker_server.stages import Stages
from compression.errors import BrambleError
from compression.models.export import ExportedModel, export_model
from compression.spec import ModelSpec
from edge_client.data import DataSource, LocalData, batches, load_data
from edge_client.wire.evaluation import EvaluationSums

SERVER_EXAMPLES = 200
ORDER: tuple[How, ...] = ("federated", "server", "none")
Measure = Callable[[bytes], EvaluationSums | None]  # a file on the held-out examples


@dataclass(frozen=True, slots=True)
class Quantised:
    """The file to release; `figures` is None where nothing had to be calibrated."""

    exported: ExportedModel
    figures: CalibrationFigures | None = None


class Quantiser:
    """Makes the released file of one fleet's weights."""

    def __init__(self, config: ServerConfig, stages: Stages) -> None:
        self._config = config
        self._stages = stages

    def release_of(self, model: Any, spec: ModelSpec, measure: Measure) -> Quantised:
        """Export a Keras model that holds the newest weights.

        Raises:
            ExportError: no way leads to a file.
        """
        recipe = self._config.release.recipe
        if recipe != "int8":
            return Quantised(export_model(model, classes=len(spec.classes), recipe=recipe))
        asked = chosen_calibration(self._config)
        held_out = self._config.data.evaluation is not None
        made, problems = self._tried(ORDER if held_out else ORDER[ORDER.index(asked) :], model, spec)
        used = next(how for how in ORDER[ORDER.index(asked) :] if how in made)
        for how in ORDER[ORDER.index(asked) : ORDER.index(used)]:
            if how in problems:
                self._stages.calibrating.gave_up(f"calibration {how!r}: {problems[how]}")
        compared = tuple(_compared(how, file, measure) for how, file in made.items()) if held_out else ()
        return Quantised(made[used], self._figures(asked, used, compared))

    def _tried(
        self, ways: Sequence[How], model: Any, spec: ModelSpec
    ) -> tuple[dict[How, ExportedModel], dict[How, str]]:
        """The int8 file of each way that leads to one, and what went wrong with the others."""
        made: dict[How, ExportedModel] = {}
        problems: dict[How, str] = {}
        for how in ways:
            try:
                file = self._made(how, model, spec)
            except BrambleError as exc:
                if how == ORDER[-1]:
                    raise
                problems[how] = str(exc)
            else:
                made |= {how: file} if file is not None else {}
        return made, problems

    def _made(self, how: How, model: Any, spec: ModelSpec) -> ExportedModel | None:
        classes = len(spec.classes)
        if how == "none":
            return export_model(model, classes=classes, recipe="int8")
        if how == "server":
            examples = self._own_examples(spec)
            if examples is None:
                return None
            return export_model(model, classes=classes, recipe="int8", calibration=examples)
        from compression.models.ranges import quantise_with_ranges

        found = self._stages.calibrating.merged(self._stages.versions.latest.digest)
        return None if found is None else quantise_with_ranges(*found)

    def _own_examples(self, spec: ModelSpec) -> npt.NDArray[np.float32] | None:
        """For calibration if there are some for it, else of those that evaluate; None without any."""
        source = self._config.data.calibration or self._config.data.evaluation
        if source is None:
            return None
        data = load_own(source, spec)
        chosen = every_example(data)
        if len(chosen) > SERVER_EXAMPLES:
            chosen = chosen[np.linspace(0, len(chosen) - 1, SERVER_EXAMPLES).astype(int)]
        real = [batch.inputs[batch.weights > 0] for batch in batches(data, chosen, spec)]
        inputs: npt.NDArray[np.float32] = np.concatenate(real)
        return inputs

    def _figures(
        self, asked: How, used: How, compared: tuple[ComparedCalibration, ...]
    ) -> CalibrationFigures:
        calibrating = self._stages.calibrating
        ranges = calibrating.ranges(self._stages.versions.latest.digest)
        plan = calibrating.asked_for() if ranges else None
        return CalibrationFigures(
            asked=asked,
            used=used,
            devices=ranges.devices if ranges else {},
            missing=ranges.missing if ranges else {},
            clip_percent=plan.clip_percent if plan else None,
            noise=plan.noise if plan else None,
            compared=compared,
        )


def load_own(source: str, spec: ModelSpec) -> LocalData:
    """Examples that the server itself has, all of them in one split."""
    return load_data(DataSource.parse(source), spec.raw_input, spec.classes, validation_fraction=0.0, seed=0)


def _compared(how: How, file: ExportedModel, measure: Measure) -> ComparedCalibration:
    sums = measure(file.tflite)
    return ComparedCalibration(
        how=how,
        accuracy=sums.accuracy if sums else None,
        loss=sums.loss if sums else None,
        auc=sums.auc if sums else None,
        size_bytes=len(file.tflite),
        activations=file.calibration,
    )
