"""Child: the real client, whose trainer trains one batch and then makes its updates up.

``python -m benchmarks.peers.our_client EDGE_TOML``. Session, downloads, checks, codec, error feedback and
state are the product's; the TFLite program is loaded and has run once, so its memory is all there.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.wire import made_up_update
from compression.command_line import stop_on_signals
from edge_client import work
from edge_client.agent import Agent
from edge_client.config import load_config
from edge_client.training import LiteRTTrainer, TrainSums

if TYPE_CHECKING:
    from compression.spec import Weights
    from edge_client.data.batches import Batch


class StillTrainer(LiteRTTrainer):
    """Trains the first batch that it is given for real; later rounds are a made-up step.

    Its noise is drawn once, as in the bare exchange, and taken from another place each round: drawing it
    would cost as much as the rest of a round.
    """

    _noise: Weights | None = None  # each tensor twice, one behind the other

    def train(
        self,
        batches: Iterable[Batch],
        *,
        learning_rate: float,
        proximal_mu: float = 0.0,
        rng: np.random.Generator | None = None,
    ) -> TrainSums:
        """A step as large as a real one, made of heavy-tailed noise."""
        rng = rng or np.random.default_rng()
        if self._noise is None:
            first = itertools.islice(batches, 1)
            super().train(first, learning_rate=learning_rate, proximal_mu=proximal_mu, rng=rng)
            drawn = made_up_update(self.spec.trainable.tensors, int(rng.integers(1 << 30)))
            self._noise = {name: np.tile(array.ravel(), 2) for name, array in drawn.items()}
        share = rng.random()
        weights = dict(self.get_weights())
        for name, noise in self._noise.items():
            array = weights[name]
            start = int(share * array.size)
            weights[name] = array + noise[start : start + array.size].reshape(array.shape)
        self.set_weights(weights)
        return TrainSums(1.0, 1.0, 1, 1)


def main(arguments: Sequence[str]) -> int:
    """Take part until stopped."""
    stop = stop_on_signals()
    setattr(work, "LiteRTTrainer", StillTrainer)  # noqa: B010 - a name that mypy takes for a type
    Agent(load_config(Path(arguments[0]))).run(stop)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
