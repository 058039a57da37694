"""Child with TensorFlow: compiles the model that both engines will train.

``python -m benchmarks.training_compile DIRECTORY MODEL SHAPE CLASSES BATCH OPTIMIZER``
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np

from benchmarks.training_batch import answer
from compression.commands import default_loss, input_of
from compression.spec import Optimizer
from compression.tf import quiet, tensorflow
from compression.weights_file import write_weights

SEED = 3  # of the initial weights


def main(argv: Sequence[str]) -> int:
    """Write bundle.bin, and the initial weights for each engine."""
    directory, reference, shape_text, classes, batch, optimizer = argv
    try:
        tensorflow()
    except ImportError:
        answer({"error": "TensorFlow is not installed here: measure a compiled bundle with --bundle FILE"})
        return 1
    import tf_keras  # noqa: PLC0415 - after TensorFlow

    from broker_server.models import ModelError, build_model  # noqa: PLC0415
    from compression.trainable import TrainableError, compile_trainable  # noqa: PLC0415

    shape = tuple(int(extent) for extent in shape_text.split("x"))
    tf_keras.utils.set_random_seed(SEED)
    try:
        model = build_model(reference, shape, int(classes))
        with quiet():
            result = compile_trainable(
                model,
                name=reference.rpartition(":")[2],
                input=input_of(shape),
                classes=[f"class {number}" for number in range(int(classes))],
                loss=default_loss(model),
                optimizer=cast(Optimizer, optimizer),
                batch_size=int(batch),
            )
    except (ModelError, TrainableError, ValueError) as exc:
        answer({"error": str(exc)})
        return 1
    (Path(directory) / "bundle.bin").write_bytes(result.bundle.to_bytes())
    write_weights(Path(directory) / "weights.npz", result.weights)
    np.savez(Path(directory) / "keras.npz", *model.get_weights())  # in Keras's own order
    answer({"parameters": result.bundle.spec.parameters})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
