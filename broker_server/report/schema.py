"""`RunReport`: everything that is known of a finished run, as one frozen value.

Every view (`terminal`, `json_view`, `html`) is a function of this value, and its plain form is the
``--json`` output, so a figure cannot be on the page and missing from the JSON. What was not measured is
``None``, never a guess; the views then say "not measured". The larger parts stand beside this
file: `rounds`, `held_out`, `devices`, `calibration`.

Accuracies are shares from 0 to 1, losses natural logarithms, times seconds or milliseconds as the name
says. "Held out" is the test set that only the server has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from broker_server.report.calibration import CalibrationFigures
from broker_server.report.devices import ClientFigures
from broker_server.report.fields import Amount, Count, LatencyFigures, Sentence, Word
from broker_server.report.held_out import CentralisedFigures, FinalFigures, LocalOnlyFigures
from broker_server.report.rounds import ByteFigures, RoundFigures
from compression.records import Length, Record, RecordError
from edge_client.wire.summary import Label

SIMULATED_NOTE = "The devices were processes on this {machine} host, not Raspberry Pis."


@dataclass(frozen=True, slots=True)
class ModelFigures(Record):
    """The model and the two files it became; latencies are of the server's machine, one thread."""

    name: Word
    parameters: Count
    float32_bytes: Count | None = None
    int8_bytes: Count | None = None
    int8_calibration: Literal["full-integer", "dynamic-range", "none"] | None = None
    float32_latency_ms: LatencyFigures = LatencyFigures()
    int8_latency_ms: LatencyFigures = LatencyFigures()
    float32_zipped_bytes: Count | None = None
    int8_zipped_bytes: Count | None = None


@dataclass(frozen=True, slots=True)
class DataFigures(Record):
    """What was learned from."""

    kind: Literal["image", "table"]
    classes: Annotated[tuple[Label, ...], Length(2, 4096)]
    training_examples: Count
    held_out_examples: Count
    partition: Word | None = None
    description: Sentence | None = None


@dataclass(frozen=True, slots=True)
class Incident(Record):
    """Something that went wrong during the run, and how the run went on."""

    at_s: Amount  # since the run began
    who: Word
    what: Sentence
    survived_by: Sentence | None = None  # None: it was not survived


@dataclass(frozen=True, slots=True)
class Environment(Record):
    """The server's machine; in a simulation the devices' too."""

    architecture: Word | None = None
    processor: Word | None = None
    cores: Count | None = None
    memory_mb: Amount | None = None
    system: Word | None = None
    python: Word | None = None
    packages: Mapping[Word, Word] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunReport(Record):
    """A finished run. `settings` are the choices it was made with, in words for people."""

    dataset: Word
    devices: Count
    broker: Word
    wall_s: Amount
    data: DataFigures
    model: ModelFigures
    calibration: CalibrationFigures | None = None
    rounds: tuple[RoundFigures, ...] = ()
    final: FinalFigures = FinalFigures()
    centralised: CentralisedFigures = CentralisedFigures()
    local_only: LocalOnlyFigures = LocalOnlyFigures()
    bytes: ByteFigures = ByteFigures()
    clients: tuple[ClientFigures, ...] = ()
    incidents: tuple[Incident, ...] = ()
    settings: Mapping[Word, Word] = field(default_factory=dict)
    environment: Environment = Environment()
    simulated: bool = False
    simulated_note: Sentence | None = None
    started: Word | None = None  # UTC, ISO 8601
    report_version: Literal[1] = 1

    def __post_init__(self) -> None:
        Record.__post_init__(self)
        if self.simulated != (self.simulated_note is not None):
            raise RecordError(
                "RunReport: simulated_note says how a simulated run was simulated, and only then"
            )
        if self.final.confusion_matrix and len(self.final.confusion_matrix) != len(self.data.classes):
            raise RecordError("RunReport: the confusion matrix and the classes differ in number")
        for what, names in (
            ("round", [entry.round for entry in self.rounds]),
            ("client", [client.name for client in self.clients]),
        ):
            if len(set(names)) != len(names):
                raise RecordError(f"RunReport: a {what} is in the report twice")
