"""Is this input anything like the training data? A model asked about a cat answers "pneumonia" all the same.

The distance is Mahalanobis', as Lee et al. use it ("A Simple Unified Framework for Detecting
Out-of-Distribution Samples and Adversarial Attacks", NeurIPS 2018), over a Gaussian of features. Theirs are
the network's own; a released file gives probabilities alone, and the probability itself tells little of
strange inputs (Hendrycks & Gimpel, ICLR 2017), so ours are of the input: where it is bright, how much it
varies, how fine its grain is. Their moments add up over devices, and nothing else leaves them.

It notices what is plainly something else: a photograph, noise, a blank or inverted picture, another kind
of scan. It does not notice a picture of the right kind with an illness that nobody trained for.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from compression.spec import RawInput, TableInput
from edge_client.wire.calibration import MAX_FEATURES, CalibrationSums, Likeness

GRID = 4  # blocks a side
EXAMPLES_A_FEATURE = 2  # fewer training examples than this say too little about a covariance
QUANTILE = 0.99  # of the device's own validation examples, which are answered
SMALLEST_LIMIT = 2.0  # twice the typical distance, whatever a small validation set says
RIDGE = 1e-6
LARGEST = 10.0  # absolute value of a feature: rows are clipped to it, a picture's stay below
PIXELS_AT_ONCE = 1 << 18  # float64 and some copies of it: 10 MB

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]


def describe(inputs: Floats, input: RawInput) -> Doubles:
    """Features [N, d] of preprocessed inputs [N, *input.shape]; d is at most `MAX_FEATURES`."""
    if isinstance(input, TableInput):
        return _describe_rows(np.clip(inputs.astype(np.float64), -LARGEST, LARGEST))
    step = max(1, PIXELS_AT_ONCE // int(np.prod(input.shape)))
    parts = [
        _describe_pictures(
            (inputs[start : start + step].astype(np.float64) - input.offset) / (input.scale * 255)
        )
        for start in range(0, len(inputs), step)
    ]
    return np.concatenate(parts) if parts else np.zeros((0, MAX_FEATURES))


def feature_count(input: RawInput) -> int:
    """How many features `describe` gives for such inputs."""
    return len(describe(np.zeros((1, *input.shape), np.float32), input)[0])


def moments(features: Doubles) -> CalibrationSums:
    """Sums over examples, for `CalibrationSums.seen`, `features` and `products`."""
    if not len(features):
        return CalibrationSums()
    products = features.T @ features
    return CalibrationSums(
        seen=len(features),
        features=tuple(features.sum(axis=0).tolist()),
        products=tuple(products[np.triu_indices(features.shape[1])].tolist()),
    )


def plausible(sums: CalibrationSums) -> bool:
    """Whether some examples can have these moments: bounded features, and a covariance that is one."""
    size = len(sums.features)
    mean, second = np.asarray(sums.features) / sums.seen, _square(sums.products, size) / sums.seen
    bounded = np.abs(mean).max() <= LARGEST + RIDGE and np.abs(second).max() <= LARGEST**2 + RIDGE
    return bool(bounded and np.linalg.eigvalsh(second - np.outer(mean, mean)).min() >= -RIDGE)


def fit_likeness(sums: CalibrationSums) -> Likeness | None:
    """Mean and precision from the fleet's sums; None where there are too few examples to say."""
    size = len(sums.features)
    if not size or sums.seen < EXAMPLES_A_FEATURE * size:
        return None
    mean = np.asarray(sums.features) / sums.seen
    covariance = _square(sums.products, size) / sums.seen - np.outer(mean, mean)
    shrinkage = size / (size + sums.seen)  # towards the diagonal: few examples make a wild inverse
    covariance = (1 - shrinkage) * covariance + shrinkage * np.diag(np.diag(covariance))
    precision = np.linalg.inv(covariance + RIDGE * np.eye(size))
    upper = precision[np.triu_indices(size)]
    return Likeness(mean=tuple(mean.tolist()), precision=tuple(upper.tolist()), limit=SMALLEST_LIMIT)


def distances(likeness: Likeness, features: Doubles) -> Doubles:
    """Distance [N] of features [N, d] from the training data: root mean square, 1 is typical."""
    if features.shape[1] != len(likeness.mean):
        return np.zeros(len(features))  # signed for another input: the spec decides, not this
    away = features - np.asarray(likeness.mean)
    squares = np.einsum("ni,ij,nj->n", away, _square(likeness.precision, features.shape[1]), away)
    result: Doubles = np.sqrt(np.maximum(squares, 0) / features.shape[1])
    return result


def own_limit(likeness: Likeness, features: Doubles) -> float:
    """The limit on this device: that of the release, or what answers most of its own validation examples."""
    if not len(features):
        return likeness.limit
    return max(likeness.limit, float(np.quantile(distances(likeness, features), QUANTILE)))


def _describe_pictures(pictures: Doubles) -> Doubles:
    grey = pictures.mean(axis=3)
    count, height, width = grey.shape
    rows = np.array_split(np.arange(height), min(GRID, height))
    columns = np.array_split(np.arange(width), min(GRID, width))
    blocks = [grey[:, r[0] : r[-1] + 1, c[0] : c[-1] + 1].mean(axis=(1, 2)) for r in rows for c in columns]
    down, across = np.diff(grey, axis=1), np.diff(grey, axis=2)
    grain = [down, across, np.diff(down, axis=1), np.diff(across, axis=2)]
    features = [*blocks, grey.std(axis=(1, 2))]
    features += [
        np.log(np.abs(part).reshape(count, -1).sum(axis=1) / (height * width) + 1e-3) for part in grain
    ]
    if pictures.shape[3] == 3:
        features += [np.abs(pictures[..., i] - pictures[..., i + 1]).mean(axis=(1, 2)) for i in (0, 1)]
    return np.stack(features, axis=1)


def _describe_rows(rows: Doubles) -> Doubles:
    """The columns themselves; of many columns, root mean squares of groups."""
    if rows.shape[1] <= MAX_FEATURES:
        return rows
    groups = np.arange(rows.shape[1]) % MAX_FEATURES
    return np.stack(
        [np.sqrt(np.square(rows[:, groups == group]).mean(axis=1)) for group in range(MAX_FEATURES)], axis=1
    )


def _square(upper: tuple[float, ...], size: int) -> Doubles:
    matrix = np.zeros((size, size))
    matrix[np.triu_indices(size)] = upper
    return matrix + matrix.T - np.diag(np.diag(matrix))
