"""From the ledger to the closing report: what was measured, and None for what was not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from broker_server import clock
from broker_server.baselines import BaselineResult
from broker_server.closing import CLOSING_BYTES, FINE_TUNING
from broker_server.config import ServerConfig, shown_name
from broker_server.records import FineTuning, RoundRecord
from broker_server.report.devices import ClientFigures, GateFigures, OwnFigures
from broker_server.report.environment import current_environment
from broker_server.report.fields import LatencyFigures
from broker_server.report.held_out import CentralisedFigures, FinalFigures, LocalOnlyFigures
from broker_server.report.rounds import ByteFigures, RoundFigures
from broker_server.report.schema import SIMULATED_NOTE, DataFigures, Incident, ModelFigures, RunReport
from broker_server.report.words import size
from broker_server.rollout.figures import FIGURES, ReleaseFigures
from broker_server.run_plan import constraints_in_words, stages_of
from broker_server.stages import Stages
from compression.records import Record, loads, to_plain
from edge_client.health import architecture
from edge_client.wire.evaluation import EvaluationSums
from edge_client.wire.presence import Hello
from edge_client.wire.rollout import ReleaseReport

CENTRALISED = "centralised"
SETUP_BYTES = "setup_bytes"  # fact in the ledger: what devices fetched once a run, all together
COUNTED = (
    "PUBLISH packets of the rounds, MQTT headers and control messages included. What is delivered once is "
    "not in them, {setup} to all devices together: the training program, the first weights, the program "
    "that finds activation ranges, a transfer model's extractor. Nor is what the devices sent after the "
    "last round, the closing evaluation and the ranges: {closing} from all together."
)


def round_figures(record: RoundRecord) -> RoundFigures:
    """One round for the report."""
    held_out = record.evaluation
    return RoundFigures(
        round=record.round,
        accuracy=held_out.accuracy if held_out else None,
        loss=held_out.loss if held_out else None,
        auc=held_out.auc if held_out else None,
        federated_accuracy=record.federated.accuracy if record.federated else None,
        clients=tuple(record.clients),
        dropped=dict(record.dropped),
        released=record.released,
        chosen=record.selection.chosen if record.selection else {},
        passed=record.selection.passed if record.selection else {},
        bytes_up=sum(client.bytes_up for client in record.clients.values()),
        bytes_down=sum(client.bytes_down for client in record.clients.values()) + record.dropped_bytes_down,
        seconds=record.seconds,
        sparsity=record.sparsity,
    )


def client_figures(
    name: str,
    hello: Hello,
    rounds: Sequence[RoundRecord],
    report: ReleaseReport | None,
    tuning: FineTuning | None = None,
    own: EvaluationSums | None = None,
) -> ClientFigures:
    """One device for the report; `own` is of the final weights on its validation examples."""
    parts = [record.clients[name] for record in rounds if name in record.clients]
    health = [part.health for part in parts if part.health]
    health += [report.health] if report and report.health else []
    health = health or [hello.health]
    return ClientFigures(
        name=name,
        examples=hello.data.counts,
        validation_examples=hello.data.validation_examples,
        skipped=hello.data.skipped,
        rounds=len(parts),
        bytes_up=sum(part.bytes_up for part in parts),
        bytes_down=sum(part.bytes_down for part in parts),
        peak_rss_mb=max(state.peak_rss_mb for state in health),
        imports_tensorflow=any(state.imports_tensorflow for state in health),
        runtime=hello.runtime or None,
        architecture=hello.architecture or None,
        board=hello.board or None,
        model_version=report.active_version if report else hello.model_version,
        gate=_gate(report),
        int8_latency_ms=LatencyFigures(report.latency_p50_ms, report.latency_p99_ms)
        if report
        else LatencyFigures(),
        own=OwnFigures.of(own) if own else OwnFigures(),
        fleet_accuracy=_accuracy(tuning.before.get(name)) if tuning else None,
        tuned_accuracy=_accuracy(tuning.after.get(name)) if tuning else None,
    )


def _accuracy(sums: EvaluationSums | None) -> float | None:
    return sums.accuracy if sums else None


def _gate(report: ReleaseReport | None) -> GateFigures:
    if report is None:
        return GateFigures()
    return GateFigures(
        verdict=report.outcome,
        reason=report.reason,
        accuracy=report.accuracy,
        reference_accuracy=report.reference_accuracy,
        examples=report.examples,
    )


@dataclass(frozen=True, slots=True)
class Comparison:
    """The baselines, where they were run."""

    centralised: BaselineResult | None = None
    local: Mapping[str, BaselineResult] = field(default_factory=dict)
    epochs: int | None = None


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What only the caller knows of a run."""

    dataset: str
    broker: str
    started: float  # seconds since 1970
    partition: str | None = None
    description: str | None = None
    simulated: bool = False


def build_report(
    stages: Stages, config: ServerConfig, facts: RunFacts, comparison: Comparison | None = None
) -> RunReport:
    """The report of a run from its ledger."""
    comparison = comparison or Comparison()
    ledger, spec = stages.ledger, stages.bundle.spec
    records = list(ledger.rounds(RoundRecord).values())
    rounds = tuple(round_figures(record) for record in records)
    release = _release_figures(stages)
    reports = ledger.release_reports(release.version) if release else {}
    hellos = ledger.devices()
    final = records[-1].evaluation if records else None
    own = _final_evaluations(stages, config)
    told = ledger.fact(FINE_TUNING)
    tuning = loads(FineTuning, told.encode(), max_bytes=1 << 26) if told else None
    return RunReport(
        dataset=facts.dataset,
        devices=len(hellos),
        broker=facts.broker,
        wall_s=clock.now() - facts.started,
        data=DataFigures(
            kind=config.model.kind,
            classes=spec.classes,
            training_examples=sum(hello.data.examples for hello in hellos.values()),
            held_out_examples=final.examples if final else 0,
            partition=facts.partition,
            description=facts.description,
        ),
        model=_model_figures(stages, config, release),
        calibration=release.calibrated if release else None,
        rounds=rounds,
        final=FinalFigures.of(final, release.int8 if release else None),
        centralised=_centralised(comparison),
        local_only=LocalOnlyFigures.of({name: result.sums for name, result in comparison.local.items()}),
        bytes=_traffic(stages, rounds),
        clients=tuple(
            client_figures(name, hello, records, reports.get(name), tuning, own.get(name))
            for name, hello in hellos.items()
        ),
        incidents=tuple(
            Incident(max(0.0, entry.at - facts.started), entry.who, entry.what, entry.remedy)
            for entry in ledger.incidents()
        ),
        settings=_settings(config),
        environment=current_environment(),
        simulated=facts.simulated,
        simulated_note=SIMULATED_NOTE.format(machine=architecture()) if facts.simulated else None,
        started=datetime.fromtimestamp(facts.started, UTC).isoformat(timespec="seconds"),
    )


def _final_evaluations(stages: Stages, config: ServerConfig) -> dict[str, EvaluationSums]:
    """What each device found of the final weights."""
    kinds = [stage.kind for stage in stages_of(config)]
    results = stages.ledger.results(kinds.index("evaluate")) if "evaluate" in kinds else {}
    return {name: result.evaluation for name, result in results.items() if result.evaluation is not None}


def _traffic(stages: Stages, rounds: Sequence[RoundFigures]) -> ByteFigures:
    setup = int(stages.ledger.fact(SETUP_BYTES) or 0)
    closing = int(stages.ledger.fact(CLOSING_BYTES) or 0)
    return ByteFigures.of(
        rounds,
        float32_bytes=4 * stages.parameters,
        setup_total=setup,
        closing_up_total=closing,
        counted=COUNTED.format(setup=size(float(setup)), closing=size(float(closing))),
    )


def _release_figures(stages: Stages) -> ReleaseFigures | None:
    text = stages.ledger.fact(FIGURES)
    return loads(ReleaseFigures, text.encode(), max_bytes=1 << 20) if text else None


def _model_figures(stages: Stages, config: ServerConfig, release: ReleaseFigures | None) -> ModelFigures:
    name, parameters = shown_name(config.model.name), stages.parameters
    if release is None:
        return ModelFigures(name=name, parameters=parameters)
    return ModelFigures(
        name=name,
        parameters=parameters,
        float32_bytes=release.float32_bytes,
        int8_bytes=release.int8_bytes,
        float32_zipped_bytes=release.float32_zipped_bytes,
        int8_zipped_bytes=release.int8_zipped_bytes,
        int8_calibration=release.calibration,
        float32_latency_ms=LatencyFigures(release.float32_p50_ms, release.float32_p99_ms, release.runs),
        int8_latency_ms=LatencyFigures(release.int8_p50_ms, release.int8_p99_ms, release.runs),
    )


def _centralised(comparison: Comparison) -> CentralisedFigures:
    result = comparison.centralised
    if result is None or comparison.epochs is None:
        return CentralisedFigures()
    return CentralisedFigures.of(result.sums, epochs=comparison.epochs, seconds=result.seconds)


def _settings(config: ServerConfig) -> dict[str, str]:
    rounds, model = config.rounds, config.model
    return {
        "strategy": _in_words(config.strategy),
        "cohort": _in_words(config.cohort),
        "rounds": str(rounds.rounds),
        "epochs a round": str(rounds.epochs),
        "learning rate": f"{rounds.learning_rate:g}",
        "optimizer": model.optimizer,
        **constraints_in_words(model),
        "batch size": str(model.batch_size),
        "codec up": config.codec.up,
        "codec down": config.codec.down,
    }


def _in_words(rule: Record) -> str:
    """A strategy or a cohort's rule with the parameters that it has: ``fedprox, mu 0.01``."""
    plain = to_plain(rule)
    name = plain.pop(rule.TAG_KEY)
    given = (f"{key.replace('_', ' ')} {value}" for key, value in plain.items() if value not in (None, []))
    return ", ".join([name, *given])
