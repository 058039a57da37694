"""A run as it could have been: learning curves by formula, so that every view has something to show."""

from __future__ import annotations

import math

from broker_server.report.devices import ClientFigures, GateFigures, OwnFigures
from broker_server.report.fields import LatencyFigures
from broker_server.report.held_out import CentralisedFigures, FinalFigures, LocalOnlyFigures
from broker_server.report.rounds import ByteFigures, RoundFigures
from broker_server.report.schema import (
    SIMULATED_NOTE,
    DataFigures,
    Environment,
    Incident,
    ModelFigures,
    RunReport,
)

CLASSES = ("benign", "malignant")
NAMES = ("device-1", "device-2", "device-3", "device-4")
FLOAT32_BYTES = 241_988


def sample_rounds(rounds: int = 15, names: tuple[str, ...] = NAMES) -> tuple[RoundFigures, ...]:
    """An accuracy that rises, a loss that falls, and one device that misses a round."""
    return tuple(sample_round(number, names) for number in range(1, rounds + 1))


def sample_round(number: int, names: tuple[str, ...] = NAMES) -> RoundFigures:
    missed = number == 6 and len(names) > 1
    counted = names[:1] + names[2:] if missed else names
    wobble = 0.006 * math.sin(2.1 * number)
    return RoundFigures(
        round=number,
        accuracy=0.965 - 0.32 * math.exp(-number / 2.5) + wobble,
        loss=0.11 + 0.58 * math.exp(-number / 3.2) - wobble,
        auc=0.992 - 0.21 * math.exp(-number / 2.0),
        federated_accuracy=0.958 - 0.35 * math.exp(-number / 2.8) - wobble,
        clients=counted,
        dropped={names[1]: "killed mid-round, came back after the deadline"} if missed else {},
        bytes_up=len(counted) * (7_900 + 37 * number),
        bytes_down=len(names) * (242_400 if number == 1 else 19_300 + 11 * number),
        seconds=2.1 + 0.1 * math.cos(number) + 4.0 * missed,
    )


def sample_client(index: int, classes: tuple[str, ...] = CLASSES) -> ClientFigures:
    counts = {name: 20 + (37 * (index + 1) * (place + 2)) % 120 for place, name in enumerate(classes)}
    return ClientFigures(
        name=f"device-{index + 1}",
        examples=counts,
        validation_examples=sum(counts.values()) // 5,
        rounds=14 if index == 1 else 15,
        bytes_up=8_200 * 15,
        bytes_down=512_000 + 111 * index,
        peak_rss_mb=71.4 + 2.3 * index,
        imports_tensorflow=False,
        runtime="ai-edge-litert 2.1.0",
        architecture="x86_64",
        model_version=1,
        gate=GateFigures("activated", "", 0.961 - 0.004 * index, 0.963, sum(counts.values()) // 5),
        own=OwnFigures(40, 0.95 - 0.05 * index, 0.9, 2 + index, 1, 0.97),
        int8_latency_ms=LatencyFigures(0.082 + 0.006 * index, 0.171 + 0.03 * index, 200),
    )


def sample_report(rounds: int = 15, classes: tuple[str, ...] = CLASSES) -> RunReport:
    """A demo of four devices, one of which was killed and came back."""
    history = sample_rounds(rounds)
    clients = tuple(sample_client(index, classes) for index in range(len(NAMES)))
    size = len(classes)
    matrix = tuple(tuple(90 - 7 * i if i == j else 1 + (i + j) % 3 for j in range(size)) for i in range(size))
    return RunReport(
        dataset="wisconsin",
        devices=len(NAMES),
        broker="embedded (amqtt 0.12.1 on 127.0.0.1)",
        wall_s=58.3,
        data=DataFigures(
            "table",
            classes,
            sum(c.training_examples for c in clients),
            sum(map(sum, matrix)),
            "sizes:35,25,22,18",
            "Wisconsin breast cancer table: 569 rows of 30 columns",
        ),
        model=ModelFigures(
            "small_mlp",
            60_497,
            FLOAT32_BYTES + 1_220,
            66_112,
            "full-integer",
            LatencyFigures(0.121, 0.190, 500),
            LatencyFigures(0.064, 0.098, 500),
        ),
        rounds=history,
        final=FinalFigures(0.9649, 0.104, 0.9921, 0.9561, 0.1071, 0.9918, sum(map(sum, matrix)), matrix),
        centralised=CentralisedFigures(0.9737, 0.0892, 0.9957, 30, 6.1),
        local_only=LocalOnlyFigures(
            0.9313,
            0.191,
            0.9812,
            {"device-1": 0.956, "device-2": 0.939, "device-3": 0.921, "device-4": 0.909},
        ),
        bytes=ByteFigures.of(
            history,
            float32_bytes=FLOAT32_BYTES,
            counted="MQTT payloads with manifests, chunks and re-sends; no TCP, TLS or MQTT headers.",
        ),
        clients=clients,
        incidents=(
            Incident(
                21.4, "device-2", "killed during round 6", "rejoined after 3.1 s with its state from disk"
            ),
        ),
        settings={"Strategy": "FedAvg, weighted by examples", "Update codec": "safe", "Seed": "7"},
        environment=Environment(
            "x86_64", "Intel(R) Xeon(R)", 2, 8192.0, "Linux 6.1", "3.11.2", {"tensorflow": "2.21.0"}
        ),
        simulated=True,
        simulated_note=SIMULATED_NOTE.format(machine="x86_64"),
        started="2026-11-21T11:25:03Z",
    )


def bare_report() -> RunReport:
    """What is left when nothing optional was measured."""
    return RunReport(
        dataset="folder:scans",
        devices=1,
        broker="mosquitto 2.0.11",
        wall_s=1.0,
        data=DataFigures("image", CLASSES, 10, 0),
        model=ModelFigures("small_cnn", 73_000),
        rounds=(RoundFigures(1, clients=("pi-1",)),),
        clients=(ClientFigures("pi-1"),),
    )
