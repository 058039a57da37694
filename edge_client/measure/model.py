"""A TFLite file ready to be run over and over on made-up inputs, whatever it takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from compression.models.errors import TFLiteFileError
from compression.models.tflite_file import TFLiteFile, read_tflite
from edge_client.measure.errors import MeasureError, UnrunnableError
from edge_client.runtime import make_interpreter

SEED = 7  # of the inputs: two files with the same input see the same numbers


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """`run` is one invocation and nothing else, `call` copies inputs and outputs as well.

    `outputs` reads what the last one came to.
    """

    run: Callable[[], object]
    call: Callable[[], object]
    outputs: Callable[[], list[npt.NDArray[Any]]]
    input_shapes: tuple[tuple[int, ...], ...]


def check_model(data: bytes) -> TFLiteFile:
    """What a file says about itself, before any runtime sees it.

    Raises:
        UnrunnableError: it needs TensorFlow's ops, which are named.
        MeasureError: it is broken, or no model.
    """
    try:
        file = read_tflite(data)
    except TFLiteFileError as exc:
        raise MeasureError(str(exc)) from exc
    flex = [name for name in file.custom_ops if name.startswith("Flex")]
    if flex:
        raise UnrunnableError(
            f"it needs {', '.join(flex)}, which no TFLite runtime on a device has: export it with "
            "builtin ops only (bramble-compress export)"
        )
    return file


def open_model(data: bytes, *, threads: int, xnnpack: bool = True, batch: int | None = None) -> LoadedModel:
    """Load a file and give it inputs; raise ValueError or RuntimeError as the runtime does."""
    interpreter = make_interpreter(data, threads=threads, xnnpack=xnnpack, batch=batch)
    rng = np.random.default_rng(SEED)
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    given = {detail["index"]: made_up(detail, rng) for detail in inputs}

    def set_inputs() -> None:
        for index, value in given.items():
            interpreter.set_tensor(index, value)

    def call() -> None:
        set_inputs()
        interpreter.invoke()
        for detail in outputs:
            interpreter.get_tensor(detail["index"])

    set_inputs()
    return LoadedModel(
        run=interpreter.invoke,
        call=call,
        outputs=lambda: [np.array(interpreter.get_tensor(detail["index"])) for detail in outputs],
        input_shapes=tuple(tuple(int(extent) for extent in detail["shape"]) for detail in inputs),
    )


def made_up(detail: dict[str, Any], rng: np.random.Generator) -> npt.NDArray[Any]:
    """Numbers from 0 to 1 for real inputs, as pictures have, and the whole range for integer ones."""
    shape, kind = tuple(detail["shape"]), np.dtype(detail["dtype"])
    if kind.kind == "f":
        return rng.random(shape).astype(kind)
    if kind.kind == "b":
        return rng.random(shape) < 0.5
    if kind.itemsize == 1:
        limits = np.iinfo(kind)
        return rng.integers(limits.min, limits.max, shape, dtype=kind, endpoint=True)
    return rng.integers(0, 2, shape).astype(kind)  # indices or labels: valid for any table
