"""TensorBoard event files, by TensorFlow's own writer: ``tensorboard --logdir FOLDER`` draws them."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from broker_server.report.observer import NullObserver, ReleaseResult, RoundFinished, UpdateReceived
from broker_server.tracking.metrics import Metrics, of_release, of_round, of_update
from compression.tf import quiet, tensorflow


class TensorBoardObserver(NullObserver):
    """Writes a scalar for each number; the step is the round."""

    def __init__(self, folder: Path) -> None:
        with quiet():
            self._tensorflow = tensorflow()
        self._metadata = self._tensorflow.compat.v1.SummaryMetadata()
        self._metadata.plugin_data.plugin_name = (
            "scalars"  # `summary.scalar` without its need for TensorBoard
        )
        self._lock = threading.Lock()  # events come from several threads
        self._writer: Any = self._tensorflow.summary.create_file_writer(str(folder))
        self._round = 0

    def update_received(self, event: UpdateReceived, /) -> None:
        """Scalars of one device."""
        self._write(of_update(event), event.round)

    def round_finished(self, event: RoundFinished, /) -> None:
        """Scalars of the fleet, on the disk when this returns."""
        self._round = event.figures.round
        self._write(of_round(event), event.figures.round)
        self._writer.flush()

    def release_result(self, event: ReleaseResult, /) -> None:
        """Scalars of one device, at the last round."""
        self._write(of_release(event), self._round)

    def close(self) -> None:
        """End the event file."""
        self._writer.close()

    def _write(self, metrics: Metrics, step: int) -> None:
        with self._lock, self._writer.as_default():
            for name, value in metrics.items():
                self._tensorflow.summary.write(name, value, step=step, metadata=self._metadata)
