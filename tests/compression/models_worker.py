"""Predicts with TFLite files with what a device has: numpy and one runtime.

python models_worker.py DIRECTORY: every NAME.tflite there, over inputs.npy, into NAME.npy.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_client.runtime import make_interpreter


def predict(tflite: bytes, inputs: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """First output for each input, one at a time, as a device computes it."""
    interpreter = make_interpreter(tflite, exact=True)
    source, target = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    rows = []
    if source["dtype"] == np.uint8:
        scale, zero = source["quantization"]
        inputs = np.round(inputs / scale + zero).astype(np.uint8)
    for example in inputs:
        interpreter.set_tensor(source["index"], example[None])
        interpreter.invoke()
        rows.append(np.array(interpreter.get_tensor(target["index"])[0]))
    return np.stack(rows)


def main(directory: Path) -> None:
    """Predict with every file of the directory."""
    inputs = np.load(directory / "inputs.npy")
    for path in sorted(directory.glob("*.tflite")):
        np.save(path.with_suffix(".npy"), predict(path.read_bytes(), inputs))
    if "tensorflow" in sys.modules:
        raise SystemExit("TensorFlow was imported")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
