"""The verdict: each sentence from figures whose meaning is known, and silence where there are none."""

from __future__ import annotations

from dataclasses import replace

import pytest

from broker_server.report.devices import ClientFigures, GateFigures
from broker_server.report.held_out import CentralisedFigures, FinalFigures
from broker_server.report.rounds import ByteFigures
from broker_server.report.schema import Incident, ModelFigures, RunReport
from broker_server.report.verdict import Finding, verdict, wilson_interval
from tests.broker_server.report_samples import bare_report, sample_report


def found(report: RunReport, part: str) -> Finding:
    [finding] = [finding for finding in verdict(report) if part in finding.text]
    return finding


def test_wilson_interval_is_the_textbook_one() -> None:
    low, high = wilson_interval(0.9, 100)  # Agresti and Coull (1998) give 0.826 to 0.945
    assert (round(low, 3), round(high, 3)) == (0.826, 0.945)


@pytest.mark.parametrize("accuracy", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("examples", [1, 7, 10_000])
def test_wilson_interval_holds_the_share_and_stays_within_0_and_1(accuracy: float, examples: int) -> None:
    low, high = wilson_interval(accuracy, examples)
    assert 0 <= low <= accuracy <= high <= 1
    assert high - low < 4 / examples**0.5


def with_final(accuracy: float, examples: int, matrix: tuple[tuple[int, ...], ...] = ()) -> RunReport:
    final = FinalFigures(accuracy=accuracy, examples=examples, confusion_matrix=matrix)
    return replace(sample_report(), final=final)


def test_a_difference_within_the_noise_is_called_none() -> None:
    few = replace(with_final(0.96, 100), centralised=CentralisedFigures(accuracy=0.98))
    assert found(few, "pooled data").tone == "neutral"
    assert "no clear difference on 100 examples" in found(few, "pooled data").text


def test_a_difference_beyond_the_noise_is_said_in_its_direction() -> None:
    many = replace(with_final(0.96, 100_000), centralised=CentralisedFigures(accuracy=0.98))
    assert found(many, "pooled data") == Finding(
        "bad", "Training on the pooled data would give 0.980: federated training is worse by 0.020."
    )
    assert found(many, "alone").tone == "good"


@pytest.mark.parametrize(
    ("matrix", "accuracy", "part"),
    [
        (((90, 0), (10, 0)), 0.90, "no better than always naming the largest class (0.900)"),
        (((88, 2), (5, 5)), 0.93, "not clearly better than always naming the largest class (0.900)"),
    ],
)
def test_a_model_that_only_names_the_largest_class_is_found_out(
    matrix: tuple[tuple[int, ...], ...], accuracy: float, part: str
) -> None:
    assert found(with_final(accuracy, 100, matrix), part).tone == "bad"


def test_int8_that_loses_too_much_is_bad_news() -> None:
    report = sample_report()
    assert found(report, "The int8 model").tone == "good"
    lossy = replace(report, final=replace(report.final, int8_accuracy=0.94))
    assert found(lossy, "The int8 model") == Finding(
        "bad",
        "The int8 model is right on 0.940 and 3.68 times smaller than float32, but loses 0.025 of accuracy.",
    )
    alone = replace(report, final=FinalFigures(int8_accuracy=0.9), model=ModelFigures("m", 1))
    assert found(alone, "The int8 model") == Finding("neutral", "The int8 model is right on 0.900.")


def test_refused_releases_are_counted() -> None:
    report = sample_report()
    refused = replace(report.clients[0], gate=GateFigures("refused", "accuracy 0.5"))
    mixed = replace(report, clients=(refused, *report.clients[1:]))
    assert found(mixed, "activated") == Finding(
        "bad", "3 of 4 devices activated the released model; 1 refused it or rolled it back."
    )
    silent = replace(report, clients=(replace(report.clients[0], gate=GateFigures()), *report.clients[1:]))
    assert found(silent, "3 of 4 devices").tone == "neutral"


def test_traffic_that_grew_is_said() -> None:
    larger = replace(sample_report(), bytes=ByteFigures(ratio_up=0.5, ratio_down=2.0))
    assert found(larger, "Updates up") == Finding(
        "bad", "Updates up are 2.00 times larger, models down 2.00 times smaller than float32 weights."
    )


def test_memory_names_the_worst_device_and_what_was_not_seen() -> None:
    report = sample_report()
    assert found(report, "memory").text == (
        "No device process took more than 78.3 MB of memory (device-4); none imported TensorFlow."
    )
    partly = replace(report, clients=(*report.clients, ClientFigures("silent")))
    assert found(partly, "memory").text == (
        "None of 4 measured devices took more than 78.3 MB of memory (device-4)."
    )
    heavy = ClientFigures("heavy", peak_rss_mb=480.0, imports_tensorflow=True)
    assert found(replace(report, clients=(heavy,)), "memory").tone == "bad"
    assert "1 imported TensorFlow" in found(replace(report, clients=(heavy,)), "memory").text


def test_incidents_that_were_not_survived_are_bad_news() -> None:
    lost = replace(sample_report(), incidents=(Incident(1.0, "broker", "gone"),))
    assert found(lost, "incident") == Finding("bad", "1 incident during the run, 1 not survived.")
    assert found(sample_report(), "incident").tone == "neutral"


def test_what_was_not_measured_has_no_finding() -> None:
    texts = [finding.text for finding in verdict(bare_report())]
    assert texts == [
        "1 round finished with 1 device; every device that was asked was counted.",
        "The final model was not measured on held-out examples.",
    ]
    assert verdict(replace(bare_report(), rounds=()))[0] == Finding("bad", "No round finished.")
