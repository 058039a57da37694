"""Running a released model: probabilities for preprocessed examples."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from compression.spec import ModelSpec
from edge_client.runtime import make_interpreter

FloatArray = npt.NDArray[np.float32]


class PredictionError(RuntimeError):
    """The file is not a model that this device can run for this spec."""


class Predictor:
    """One TFLite model in memory.

    Raises:
        PredictionError: the runtime refuses the file, or its shapes are not the spec's.
    """

    def __init__(self, model: bytes, spec: ModelSpec, *, threads: int = 1) -> None:
        self.spec = spec
        try:
            self._interpreter = make_interpreter(model, threads=threads)
        except (ValueError, RuntimeError) as exc:
            raise PredictionError(f"the runtime refuses the model: {str(exc).splitlines()[0]}") from exc
        inputs, outputs = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        shapes = [tuple(int(n) for n in detail["shape"]) for detail in (*inputs, *outputs)]
        if shapes != [(1, *spec.input.shape), (1, len(spec.classes))]:
            raise PredictionError(f"the model has shapes {shapes}, not those of {spec.name}")
        self._input, self._output = int(inputs[0]["index"]), int(outputs[0]["index"])

    def predict_one(self, example: FloatArray) -> FloatArray:
        """Probabilities [classes] of one example [*spec.input.shape]."""
        self._interpreter.set_tensor(self._input, example[None])
        self._interpreter.invoke()
        return np.array(self._interpreter.get_tensor(self._output)[0], dtype=np.float32)

    def predict(self, inputs: FloatArray) -> FloatArray:
        """Probabilities [N, classes] of examples [N, *spec.input.shape]."""
        return np.stack([self.predict_one(example) for example in inputs])
