"""The last step to the network's input: pixels times scale plus offset, columns centred and spread.

Training, the gate, prediction and the server all come through `normalise`, so that two sides with the
same spec see the same float32 values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from compression.spec import FeatureInput, ImageInput, Input, TableInput
from edge_client.data.errors import DataError
from edge_client.data.pictures import to_pixels

TABLE_LIMIT = 1e4  # spreads from the centre: beyond, a value says only "far", and would swamp float32

Example = bytes | Path | npt.NDArray[Any] | Sequence[float] | Mapping[str, float]


def preprocess(example: Example, input: ImageInput | TableInput) -> npt.NDArray[np.float32]:
    """One example as the network takes it.

    Args:
        example: for pictures a file's bytes or path, or an array [H, W] or [H, W, channels] of any
            size; for tables the raw values in the order of the columns, or by column name.
        input: of the model's spec.

    Returns:
        float32 of shape ``input.shape``.

    Raises:
        DataError: not a picture that can be read, or not a row that fits the columns.
    """
    if isinstance(input, TableInput):
        return normalise(_row(example, input), input)
    if not isinstance(example, bytes | Path | np.ndarray):
        raise DataError(f"the model takes pictures, not {type(example).__name__}")
    return normalise(to_pixels(example, input), input)


def normalise(inputs: npt.NDArray[Any], input: Input) -> npt.NDArray[np.float32]:
    """Raw inputs [..., *input.shape], uint8 pixels or column values, as float32; features as they are."""
    if isinstance(input, FeatureInput):
        return inputs.astype(np.float32)
    if isinstance(input, ImageInput):
        scaled: npt.NDArray[np.float32] = inputs.astype(np.float32)
        scaled *= np.float32(input.scale)
        scaled += np.float32(input.offset)
        return scaled
    spreads = (np.asarray(inputs, np.float64) - np.asarray(input.center)) / np.asarray(input.spread)
    clipped: npt.NDArray[np.float32] = np.clip(spreads, -TABLE_LIMIT, TABLE_LIMIT).astype(np.float32)
    return clipped


def _row(example: Example, input: TableInput) -> npt.NDArray[np.float64]:
    if isinstance(example, bytes | Path | str):
        raise DataError("the model takes a row of numbers, not a picture")
    if isinstance(example, Mapping):
        missing = [name for name in input.columns if name not in example]
        if missing:
            raise DataError(f"column {missing[0]!r} is missing from the row")
        example = [example[name] for name in input.columns]
    try:
        row = np.asarray(example, np.float64)
    except (TypeError, ValueError) as exc:
        raise DataError(f"the row holds something that is not a number: {exc}") from exc
    if row.shape != input.shape:
        raise DataError(f"the row has shape {row.shape}, expected {input.shape}")
    if not np.isfinite(row).all():
        name = input.columns[int(np.flatnonzero(~np.isfinite(row))[0])]
        raise DataError(f"column {name!r} is missing from the row, or not finite")
    return row
