"""MLflow: a run of the fleet is a run of an experiment that has the fleet's name."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from broker_server.report.observer import NullObserver, ReleaseResult, RoundFinished, UpdateReceived
from broker_server.tracking.errors import TrackingError
from broker_server.tracking.metrics import Metrics, of_release, of_round, of_update
from edge_client.files import write_atomically

log = logging.getLogger(__name__)

RUN_FILE = "mlflow-run"
MAX_VALUE = 500  # characters of a parameter, MLflow's own limit
WAITING = 10_000  # events; a server that is slower than this loses some rather than holding up the rounds
CLOSE_S = 30.0


class MlflowObserver(NullObserver):
    """Sends metrics from a thread of its own: a tracking server that is slow or away stops no round.

    Raises:
        TrackingError: MLflow is not installed, or the server refuses the experiment.
    """

    def __init__(self, uri: str, fleet: str, parameters: Mapping[str, str], folder: Path) -> None:
        try:
            from mlflow import MlflowClient
            from mlflow.exceptions import MlflowException
        except ImportError as exc:
            raise TrackingError(
                f"tracking.mlflow needs MLflow, pip install 'bramble[mlflow]': {exc}"
            ) from exc
        self._expected: type[Exception] = MlflowException
        try:
            self._client: Any = MlflowClient(tracking_uri=uri)
            self._run_id = self._open_run(fleet, parameters, folder / RUN_FILE)
        except MlflowException as exc:
            raise TrackingError(f"tracking.mlflow = {uri!r}: {str(exc).splitlines()[0]}") from exc
        self._round = 0
        self._queue: queue.Queue[tuple[Metrics, int, int] | None] = queue.Queue(WAITING)
        self._thread = threading.Thread(target=self._send, name="mlflow", daemon=True)
        self._thread.start()

    def _open_run(self, fleet: str, parameters: Mapping[str, str], file: Path) -> str:
        """The run that this fleet's state began, or a new one."""
        if file.exists():
            run_id = file.read_text().strip()
            self._client.update_run(run_id, status="RUNNING")
            return run_id
        experiment = self._client.get_experiment_by_name(fleet)
        number = experiment.experiment_id if experiment else self._client.create_experiment(fleet)
        run_id = str(self._client.create_run(number).info.run_id)
        for name, value in parameters.items():
            self._client.log_param(run_id, name, value[:MAX_VALUE])
        write_atomically(file, run_id.encode())
        return run_id

    def update_received(self, event: UpdateReceived, /) -> None:
        """Metrics of one device."""
        self._put(of_update(event), event.round)

    def round_finished(self, event: RoundFinished, /) -> None:
        """Metrics of the fleet."""
        self._round = event.figures.round
        self._put(of_round(event), event.figures.round)

    def release_result(self, event: ReleaseResult, /) -> None:
        """Metrics of one device, at the last round."""
        self._put(of_release(event), self._round)

    def close(self) -> None:
        """Send what waits, for a while, and end the run."""
        with contextlib.suppress(queue.Full):  # a server that is away: what waits is lost, the run has ended
            self._queue.put(None, timeout=CLOSE_S)
        self._thread.join(CLOSE_S)
        try:
            self._client.set_terminated(self._run_id)
        except self._expected as exc:
            log.warning("mlflow: %s", exc)

    def _put(self, metrics: Metrics, step: int) -> None:
        try:
            self._queue.put_nowait((metrics, step, int(time.time() * 1000)))
        except queue.Full:
            log.warning("mlflow: the tracking server is too slow, metrics of round %d are lost", step)

    def _send(self) -> None:
        from mlflow.entities import Metric

        while (item := self._queue.get()) is not None:
            metrics, step, now_ms = item
            batch = [Metric(name, value, now_ms, step) for name, value in metrics.items()]
            try:
                self._client.log_batch(self._run_id, metrics=batch)
            except self._expected as exc:
                log.warning("mlflow: %s", exc)
