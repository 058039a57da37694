"""Running a released model: probabilities for preprocessed examples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from compression.errors import BrambleError
from compression.spec import ModelSpec
from edge_client.runtime import make_interpreter

FloatArray = npt.NDArray[np.float32]


class PredictionError(BrambleError, RuntimeError):
    """The file is not a model that this device can run for this spec."""


class Network:
    """One TFLite file in memory: float32 [1, *input] in, probabilities [1, classes] out.

    `exact`: the same answer on every device, whichever runtime it has (`make_interpreter`).

    Raises:
        PredictionError: the runtime refuses the file, or its shapes or types are other ones.
    """

    def __init__(
        self, model: bytes, input_shape: Sequence[int], classes: int, *, threads: int = 1, exact: bool = True
    ) -> None:
        try:
            self._interpreter = make_interpreter(model, threads=threads, exact=exact)
        except (ValueError, RuntimeError) as exc:
            raise PredictionError(f"the runtime refuses the model: {_first_line(exc)}") from exc
        inputs, outputs = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        found = [_described(detail) for detail in (*inputs, *outputs)]
        wanted = [f"float32 {[1, *input_shape]}", f"float32 {[1, classes]}"]
        if found != wanted:
            raise PredictionError(
                f"the model takes and gives {', '.join(found)} instead of {', '.join(wanted)}"
            )
        self._input, self._output = int(inputs[0]["index"]), int(outputs[0]["index"])

    def run(self, example: FloatArray) -> FloatArray:
        """Probabilities [classes] of one example."""
        try:
            self._interpreter.set_tensor(self._input, example[None])
            self._interpreter.invoke()
        except (ValueError, RuntimeError) as exc:
            raise PredictionError(f"the model does not run: {_first_line(exc)}") from exc
        return np.array(self._interpreter.get_tensor(self._output)[0], dtype=np.float32)


class Predictor:
    """A model for the examples of one spec.

    Raises:
        PredictionError: the model cannot be run for this spec.
    """

    def __init__(self, model: bytes, spec: ModelSpec, *, threads: int = 1, exact: bool = True) -> None:
        self.spec = spec
        self._network = Network(model, spec.input.shape, len(spec.classes), threads=threads, exact=exact)

    def predict_one(self, example: FloatArray) -> FloatArray:
        """Probabilities [classes] of one example [*spec.input.shape]."""
        return self._network.run(example)

    def predict(self, inputs: FloatArray) -> FloatArray:
        """Probabilities [N, classes] of examples [N, *spec.input.shape]; the file takes one at a time."""
        if not len(inputs):
            return np.empty((0, len(self.spec.classes)), np.float32)
        return np.stack([self.predict_one(example) for example in inputs])


def _described(detail: dict[str, Any]) -> str:
    return f"{np.dtype(detail['dtype']).name} {[int(extent) for extent in detail['shape']]}"


def _first_line(exc: Exception) -> str:
    lines = str(exc).strip().splitlines()
    return lines[0][:300] if lines else type(exc).__name__
