"""A device's memory on a transfer model, with what a device has: NumPy and one TFLite runtime.

python extraction_worker.py DIRECTORY: runs DIRECTORY/extractor over pictures, trains DIRECTORY/bundle on what
came out, prints the process's largest resident set in 10^6 bytes.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from compression.spec import FeatureInput, TrainableBundle
from edge_client.data import LocalData, batches
from edge_client.training import LiteRTTrainer
from edge_client.training.features import extract_features

EXAMPLES = 40


def main(directory: Path) -> None:
    """Extract, train, evaluate."""
    bundle = TrainableBundle.from_bytes((directory / "bundle").read_bytes())
    spec = bundle.spec
    assert isinstance(spec.input, FeatureInput)
    rng = np.random.default_rng(0)
    index, none = np.arange(EXAMPLES), np.zeros(0, np.int64)
    pixels = rng.integers(0, 255, (EXAMPLES, *spec.input.picture.shape)).astype(np.uint8)
    pictures = LocalData(pixels, (index % 2).astype(np.int32), spec.classes, index, none, none, 0)
    data = extract_features(pictures, spec.input, (directory / "extractor").read_bytes)
    trainer = LiteRTTrainer(bundle)
    trainer.set_weights(dict(np.load(directory / "weights.npz")))
    sums = trainer.train(batches(data, index, spec, rng=rng), learning_rate=1e-3, rng=rng)
    trainer.evaluate(batches(data, index, spec))
    if "tensorflow" in sys.modules or not np.isfinite(sums.loss or np.nan) or sums.steps < 2:
        raise SystemExit(f"TensorFlow was imported, or training failed: {sums}")
    lines = Path("/proc/self/status").read_text().splitlines()
    print(next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM:")))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
