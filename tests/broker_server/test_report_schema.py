"""The report's value: its keys, its arithmetic, and that what does not fit is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker_server.report.devices import ClientFigures
from broker_server.report.environment import current_environment
from broker_server.report.held_out import CentralisedFigures, FinalFigures, LocalOnlyFigures
from broker_server.report.json_view import MAX_REPORT_BYTES, from_json, to_json
from broker_server.report.rounds import ByteFigures, RoundFigures
from broker_server.report.schema import RunReport
from compression.records import RecordError, dumps, from_plain
from edge_client.wire.evaluation import EvaluationSums
from tests.broker_server.report_samples import bare_report, sample_report
from tests.edge_client.strategies import records

relaxed = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow, HealthCheck.large_base_example],
)
PROMISED = (  # the keys of issue 2; a number steps into a list
    "dataset",
    "devices",
    "broker",
    "wall_s",
    "simulated",
    "simulated_note",
    "environment",
    "incidents",
    "rounds.0.round",
    "rounds.0.accuracy",
    "rounds.0.loss",
    "rounds.0.auc",
    "rounds.0.federated_accuracy",
    "rounds.0.clients",
    "rounds.0.dropped",
    "rounds.0.bytes_up",
    "rounds.0.bytes_down",
    "rounds.0.seconds",
    "final.accuracy",
    "final.int8_accuracy",
    "final.loss",
    "final.auc",
    "final.confusion_matrix",
    "centralised.accuracy",
    "local_only.accuracy_mean",
    "local_only.accuracy",
    "bytes.up_per_client_round",
    "bytes.down_per_client_round",
    "bytes.float32_per_client_round",
    "bytes.ratio_up",
    "bytes.ratio_down",
    "clients.0.name",
    "clients.0.examples",
    "clients.0.peak_rss_mb",
    "clients.0.imports_tensorflow",
    "clients.0.model_version",
    "clients.0.gate.verdict",
    "clients.0.gate.accuracy",
    "clients.0.int8_latency_ms.p50",
    "clients.0.int8_latency_ms.p99",
    "clients.0.bytes_up",
    "clients.0.bytes_down",
    "clients.0.runtime",
    "model.name",
    "model.parameters",
    "model.float32_bytes",
    "model.int8_bytes",
    "model.int8_calibration",
    "model.float32_latency_ms.p50",
)


def evaluation(right: int, wrong: int) -> EvaluationSums:
    labels = np.array([0, 1] * ((right + wrong) // 2))
    predicted = labels.copy()
    predicted[:wrong] = 1 - predicted[:wrong]
    return EvaluationSums.of(labels, np.eye(2)[predicted], 0.3 * len(labels))


@pytest.mark.parametrize("report", [sample_report(), bare_report()], ids=["sample", "bare"])
@pytest.mark.parametrize("path", PROMISED)
def test_promised_keys_are_there_even_where_nothing_was_measured(report: RunReport, path: str) -> None:
    value = json.loads(to_json(report))
    for step in path.split("."):
        value = value[int(step)] if isinstance(value, list) else value[step]


@relaxed
@given(report=records(RunReport))
def test_json_comes_back_as_the_same_report(report: RunReport) -> None:
    assert from_json(to_json(report).encode("ascii")) == report


def test_json_is_the_canonical_form_but_for_blanks() -> None:
    report = sample_report()
    assert json.loads(to_json(report)) == json.loads(dumps(report))
    assert list(json.loads(to_json(report))) == sorted(json.loads(to_json(report)))


@pytest.mark.parametrize("data", [b"{", b"[1]", b"{}", b"\xff", b"[" * 100_000])
def test_what_is_no_report_is_refused(data: bytes) -> None:
    with pytest.raises(RecordError):
        from_json(data)


def test_a_report_beyond_the_limit_is_refused() -> None:
    with pytest.raises(RecordError, match="exceed"):
        from_json(b" " * (MAX_REPORT_BYTES + 1))


def test_figures_of_evaluations_are_those_of_the_counts() -> None:
    final = FinalFigures.of(evaluation(18, 2), evaluation(16, 4))
    assert (final.accuracy, final.int8_accuracy, final.examples) == (0.9, 0.8, 20)
    assert final.loss == pytest.approx(0.3)
    assert final.confusion_matrix == ((9, 1), (1, 9))
    assert FinalFigures.of(None, evaluation(16, 4)).examples == 20
    assert FinalFigures.of(None, None) == FinalFigures()
    central = CentralisedFigures.of(evaluation(19, 1), epochs=3, seconds=1.5)
    assert (central.accuracy, central.epochs, central.seconds) == (0.95, 3, 1.5)


def test_local_only_means_count_clients_alike() -> None:
    alone = LocalOnlyFigures.of({"a": evaluation(8, 2), "b": evaluation(600, 400)})
    assert alone.accuracy == {"a": 0.8, "b": 0.6}
    assert alone.accuracy_mean == pytest.approx(0.7)
    assert LocalOnlyFigures.of({}) == LocalOnlyFigures()


def test_bytes_are_per_counted_update_up_and_per_asked_device_down() -> None:
    rounds = (
        RoundFigures(1, clients=("a", "b"), bytes_up=300, bytes_down=1000),
        RoundFigures(2, clients=("a",), dropped={"b": "late"}, bytes_up=150, bytes_down=1000),
    )
    traffic = ByteFigures.of(rounds, float32_bytes=6000)
    assert (traffic.up_per_client_round, traffic.down_per_client_round) == (150.0, 500.0)
    assert (traffic.ratio_up, traffic.ratio_down) == (40.0, 12.0)
    assert (traffic.up_total, traffic.down_total) == (450, 2000)


@pytest.mark.parametrize("rounds", [(), (RoundFigures(1, clients=("a",), bytes_up=5), RoundFigures(2))])
def test_bytes_that_are_not_all_known_are_not_averaged(rounds: tuple[RoundFigures, ...]) -> None:
    traffic = ByteFigures.of(rounds, float32_bytes=6000)
    assert traffic.up_per_client_round is traffic.ratio_up is traffic.down_total is None


def test_a_round_without_a_single_update_divides_by_nothing() -> None:
    lost = (RoundFigures(1, dropped={"a": "away"}, bytes_up=0, bytes_down=0),)
    assert ByteFigures.of(lost, float32_bytes=6000).ratio_up is None
    assert ByteFigures.of(lost, float32_bytes=6000).ratio_down is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"simulated_note": None}, "simulated"),
        ({"simulated": False}, "simulated"),
        ({"rounds": (RoundFigures(1), RoundFigures(1))}, "a round is in the report twice"),
        ({"clients": (ClientFigures("a"), ClientFigures("a"))}, "a client is in the report twice"),
        ({"final": FinalFigures(confusion_matrix=((1,),))}, "differ in number"),
        ({"wall_s": -1.0}, "wall_s"),
        ({"devices": True}, "devices"),
    ],
)
def test_contradictions_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(RecordError, match=message):
        replace(sample_report(), **change)  # type: ignore[arg-type]


def test_a_confusion_matrix_is_square() -> None:
    with pytest.raises(RecordError, match="square"):
        FinalFigures(confusion_matrix=((1, 2), (3,)))


@given(extra=st.text(min_size=1, max_size=5))
def test_unknown_keys_are_refused(extra: str) -> None:
    with pytest.raises(RecordError, match="unknown key"):
        from_plain(RoundFigures, {"round": 1, "x" + extra: 1})


def test_the_environment_is_measured_and_names_nobody(tmp_path: object) -> None:
    import getpass
    import platform

    place = current_environment(("numpy", "no-such-package-anywhere"))
    assert place.packages == {"numpy": np.__version__}
    assert place.cores
    assert place.memory_mb
    said = dumps(place).decode()
    assert platform.node() not in said or platform.node() in platform.platform()
    assert f'"{getpass.getuser()}"' not in said


def test_the_processor_of_a_pi_is_its_model(tmp_path: object) -> None:
    from pathlib import Path

    info = Path(str(tmp_path)) / "cpuinfo"
    info.write_text("processor\t: 0\nCPU part\t: 0xd08\nModel\t\t: Raspberry Pi 4 Model B Rev 1.5\n")
    assert current_environment((), cpu_info=info).processor == "Raspberry Pi 4 Model B Rev 1.5"
    current_environment((), cpu_info=info.with_name("absent"))  # no such file is no error
