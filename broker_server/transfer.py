"""A transfer model in a run: the extractor that each device runs once a picture, and the head that it trains.

The frozen part becomes one int8 file with ranges from the server's own calibration examples; without any its
weights alone are int8. It is made once, when the program is compiled, and from then on its SHA-256 stands in
the spec. The release is made of the whole network again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from broker_server.config import ModelConfig
from broker_server.models import ModelError
from broker_server.program import compile_model, every_example, seeded_model
from compression.spec import ImageInput, TrainableBundle, Weights
from compression.tf import quiet, tensorflow
from edge_client.data import DataSource, load_data, normalise

CALIBRATION_EXAMPLES = 200
MB = 1e6

Pictures = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class TransferProgram:
    """What a transfer model comes to.

    Attributes:
        bundle: the head's program; its spec names the extractor.
        weights: the head's first ones.
        extractor: the TFLite file.
        calibration: what it is: "full-integer", or "dynamic-range" without pictures.
        backbone: SHA-256 of the frozen weights in float32: a release must be of the same ones.
    """

    bundle: TrainableBundle
    weights: Weights
    extractor: bytes
    calibration: str
    backbone: str


def compile_transfer(
    config: ModelConfig, input: ImageInput, classes: Sequence[str], pictures: Pictures | None = None
) -> TransferProgram:
    """Cut the model, convert what is frozen and compile the rest.

    Args:
        pictures: float32 [N, *input.shape], on which activations are ranged.

    Raises:
        ModelError: there are no weights, or the extractor is larger than `config.max_extractor_mb`.
        ExportError, TrainableError: a part cannot be converted.
    """
    with quiet():
        tensorflow()
    with quiet():
        from compression.models.cutting import cut

        whole = seeded_model(config, input.shape, len(classes))
        split = cut(whole, input, pictures)
        extractor = split.extractor or b""
        check_size(config, len(extractor))
        loss = config.loss or "categorical_crossentropy"  # a softmax, of two classes too
        made = compile_model(config, split.trained, split.input, classes, name=whole.name, loss=loss)
    return TransferProgram(made.bundle, made.weights, extractor, split.calibration, backbone_digest(whole))


def check_size(config: ModelConfig, size: int) -> None:
    """Raise `ModelError` for an extractor of more bytes than the settings let every device fetch."""
    if size > config.max_extractor_mb * MB:
        raise ModelError(
            f"the frozen part of {config.name} is a file of {size / MB:.1f} MB, which each device fetches "
            f"once and keeps: raise model.max_extractor_mb ({config.max_extractor_mb:g}), or take a smaller "
            "backbone"
        )


def calibration_pictures(source: str | None, input: ImageInput, classes: Sequence[str]) -> Pictures | None:
    """The server's own examples as the extractor takes them; None without any."""
    if source is None:
        return None
    data = load_data(DataSource.parse(source), input, classes, validation_fraction=0.0, seed=0)
    return normalise(data.inputs[every_example(data)[:CALIBRATION_EXAMPLES]], input)


def backbone_digest(model: Any) -> str:
    """SHA-256 of a network's frozen weights, in the order of its layers."""
    digest = hashlib.sha256()
    for layer in model.layers:
        if not layer.trainable_weights:
            for array in layer.get_weights():
                digest.update(np.asarray(array, "<f4").tobytes())
    return digest.hexdigest()
