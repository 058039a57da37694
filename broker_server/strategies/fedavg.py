"""Federated averaging: the mean of the clients' deltas weighted by their example counts.

McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, 2017,
https://arxiv.org/abs/1602.05629. With the deltas weighted by n_k / n and a server learning rate of 1
this is their Algorithm 1.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from compression.spec import Weights


def weighted_mean(updates: Iterable[tuple[Weights, int]]) -> dict[str, npt.NDArray[np.float32]]:
    """Mean of (delta, example count) pairs, one in memory at a time.

    The sums are float64 and taken in the order given: the same updates in the same order give the
    same bits.

    Raises:
        ValueError: no update, or one with less than one example.
    """
    sums: dict[str, npt.NDArray[np.float64]] = {}
    total = 0
    for delta, examples in updates:
        if examples < 1:
            raise ValueError(f"an update of {examples} examples has no weight")
        total += examples
        for name, array in delta.items():
            if name in sums:
                sums[name] += np.multiply(array, examples, dtype=np.float64)
            else:
                sums[name] = np.multiply(array, examples, dtype=np.float64)
    if not total:
        raise ValueError("there is no update to average")
    return {name: (array / total).astype(np.float32) for name, array in sums.items()}
