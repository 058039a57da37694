"""TensorBoard and MLflow: what is written is read back with their own readers."""

from __future__ import annotations

import sys
import threading
from collections import defaultdict
from pathlib import Path

import pytest

from broker_server.config import ModelConfig, ServerConfig, TrackingConfig, load_config
from broker_server.report.observer import NullObserver, ReleaseResult, RoundFinished, UpdateReceived
from broker_server.report.rounds import RoundFigures
from broker_server.settings_text import settings_text
from broker_server.tracking.errors import TrackingError
from broker_server.tracking.metrics import of_release, of_round, of_update
from broker_server.tracking.mlflow import MlflowObserver
from broker_server.tracking.trackers import parameters_of, tracked
from compression.tf import quiet, tensorflow

UPDATE = UpdateReceived(2, "pi-1", 40, 1234, loss=0.5, seconds=None)
RELEASE = ReleaseResult("pi-1", 1, "activated", accuracy=0.75, latency_p50_ms=2.5)


def finished(number: int, accuracy: float | None) -> RoundFinished:
    return RoundFinished(
        RoundFigures(
            round=number,
            accuracy=accuracy,
            loss=0.25,
            clients=("pi-1", "pi-2"),
            dropped={"pi-3": "late"},
            bytes_up=10,
            bytes_down=20,
            seconds=1.5,
        )
    )


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """By TensorFlow's reader: name, step, value."""
    with quiet():
        tf = tensorflow()
        from tensorflow.core.util import event_pb2
    found: dict[str, dict[int, float]] = defaultdict(dict)
    for file in sorted(folder.glob("events.*")):
        for record in tf.data.TFRecordDataset(str(file)):
            event = event_pb2.Event.FromString(record.numpy())
            for value in event.summary.value:
                found[value.tag][event.step] = float(tf.make_ndarray(value.tensor))
    return found


def test_what_was_not_measured_is_left_out() -> None:
    assert of_update(UPDATE) == {"pi-1/examples": 40, "pi-1/bytes_up": 1234, "pi-1/loss": 0.5}
    assert "round/accuracy" not in of_round(finished(1, None))
    assert of_round(finished(1, 0.5))["round/dropped"] == 1
    assert of_release(RELEASE) == {"pi-1/release_accuracy": 0.75, "pi-1/release_latency_p50_ms": 2.5}


def test_event_files(tmp_path: Path) -> None:
    config = ServerConfig(fleet="ward", tracking=TrackingConfig(tensorboard=str(tmp_path / "board")))
    with tracked(config, NullObserver()) as observer:
        observer.round_finished(finished(1, 0.5))
        observer.update_received(UPDATE)
        observer.round_finished(finished(2, 0.75))
        observer.release_result(RELEASE)
    found = scalars(tmp_path / "board")
    assert found["round/accuracy"] == {1: 0.5, 2: 0.75} and found["round/clients"] == {1: 2.0, 2: 2.0}
    assert found["pi-1/bytes_up"] == {2: 1234.0} and found["pi-1/release_accuracy"] == {2: 0.75}


def test_without_settings_nothing_is_added() -> None:
    observer = NullObserver()
    with tracked(ServerConfig(fleet="ward"), observer) as told:
        assert told is observer


def test_paths_count_from_the_settings(tmp_path: Path) -> None:
    text = settings_text(ServerConfig(fleet="ward", tracking=TrackingConfig(tensorboard="board")))
    (tmp_path / "server.toml").write_text(text)
    assert load_config(tmp_path / "server.toml").tracking.tensorboard == str(tmp_path / "board")


def test_parameters_are_flat_and_tell_no_paths() -> None:
    config = ServerConfig(fleet="ward", state="/secret/place", model=ModelConfig(optimizer="sgd"))
    found = parameters_of(config)
    assert found["model.optimizer"] == "sgd" and found["model.augmentation.shift"] == "0.0"
    assert "secret" not in str(found) and "model.micro_batch" not in found


def test_mlflow_has_a_run_that_a_restart_goes_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="the extra `mlflow` is not installed")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # its client alone has no database
    uri = f"file:{tmp_path / 'mlruns'}"
    for number, accuracy in ((1, 0.5), (2, 0.75)):
        observer = MlflowObserver(uri, "ward", {"rounds.rounds": "2"}, tmp_path)
        observer.round_finished(finished(number, accuracy))
        observer.close()
    client = mlflow.MlflowClient(tracking_uri=uri)
    [run] = client.search_runs([client.get_experiment_by_name("ward").experiment_id])
    assert run.data.params == {"rounds.rounds": "2"} and run.info.status == "FINISHED"
    history = client.get_metric_history(run.info.run_id, "round/accuracy")
    assert [(metric.step, metric.value) for metric in history] == [(1, 0.5), (2, 0.75)]


def test_a_tracking_server_that_is_away_does_not_hold_up_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow", reason="the extra `mlflow` is not installed")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setattr("broker_server.tracking.mlflow.WAITING", 1)
    monkeypatch.setattr("broker_server.tracking.mlflow.CLOSE_S", 0.01)
    at_work, back = threading.Event(), threading.Event()
    observer = MlflowObserver(f"file:{tmp_path / 'mlruns'}", "ward", {}, tmp_path)

    def away(*_: object, **__: object) -> None:
        at_work.set()
        back.wait()

    monkeypatch.setattr(observer._client, "log_batch", away)
    observer.round_finished(finished(1, 0.5))
    at_work.wait()
    observer.round_finished(finished(2, 0.5))  # the queue is full
    closing = threading.Thread(target=observer.close, daemon=True)
    closing.start()
    closing.join(60.0)
    assert not closing.is_alive()
    back.set()


def test_mlflow_that_is_not_there_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(TrackingError, match=r"bramble\[mlflow\]"):
        MlflowObserver("sqlite:///x.db", "ward", {}, tmp_path)
