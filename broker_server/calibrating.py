"""Federated calibration as the last stage of a run: the program that goes out, the ranges that come back.

The program is made once, of the final weights, and is on the disk before a device hears of it, so a server
that is killed in the stage goes on with the same one. With fewer reports than the quorum there are no ranges
and the release is calibrated in the next best way (`broker_server.rollout.quantising`); the report says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from broker_server import clock
from broker_server.calibration import CalibrationError, merge_ranges, read_report
from broker_server.config import ServerConfig
from broker_server.program import trained_model
from broker_server.store.ledger import Ledger
from broker_server.store.payloads import Payloads
from broker_server.versions import Versions
from compression.errors import BrambleError
from compression.models.quantisation import Ranges
from compression.models.ranges import RangeProgram
from compression.models.tflite_file import read_tflite
from compression.records import Record, dumps, loads
from compression.spec import ModelSpec
from compression.tf import quiet
from edge_client.health import MEGABYTE
from edge_client.session.blobs import BlobStore
from edge_client.wire.blobs import Digest
from edge_client.wire.fields import Number
from edge_client.wire.ranges import ActivationRanges, RangesPlan
from edge_client.wire.rounds import Result
from edge_client.wire.topics import DeviceName

PLAN, RANGES = "calibration_plan", "calibration_ranges"  # facts in the ledger
MAX_FACT_BYTES = 1 << 24
FLOAT32_BYTES = 4
R = TypeVar("R", bound=Record)


@dataclass(frozen=True, slots=True)
class PlanRecord(Record):
    """What the devices are asked, and of which weights it is."""

    weights: Digest
    plan: RangesPlan


@dataclass(frozen=True, slots=True)
class FederatedRanges(Record):
    """Who took part, with how many examples, who did not and why, and what came of it."""

    weights: Digest
    devices: Mapping[DeviceName, Number] = field(default_factory=dict)
    missing: Mapping[DeviceName, str] = field(default_factory=dict)
    merged: ActivationRanges | None = None  # None: too few took part


class Calibrating:
    """The stage as it touches the disk."""

    def __init__(
        self, config: ServerConfig, ledger: Ledger, artefacts: BlobStore, payloads: Payloads
    ) -> None:
        self._config = config
        self._ledger = ledger
        self._artefacts = artefacts
        self._payloads = payloads

    def plan(self, spec: ModelSpec, versions: Versions) -> RangesPlan:
        """What the devices are asked for the newest weights; the program is made when first asked.

        Raises:
            CalibrationError: the model cannot be made into such a program, or into one that is too large.
        """
        digest = versions.latest.digest
        known = self._read(PLAN, PlanRecord)
        if known is not None and known.weights == digest:
            return known.plan
        program = self._program(spec, versions)
        settings = self._config.release.ranges
        plan = RangesPlan(
            program=self._artefacts.put(program.tflite),
            tensors=program.tensors,
            kept_bytes=_kept_bytes(program.tflite),
            examples=settings.examples,
            clip_percent=settings.clip_percent,
            noise=settings.noise,
        )
        self._ledger.set_fact(PLAN, dumps(PlanRecord(digest, plan)).decode())
        return plan

    def close(self, results: Mapping[str, Result], dropped: Mapping[str, str]) -> None:
        """Merge what came, and write down who took part."""
        asked, quorum = self._read(PLAN, PlanRecord), self._config.rounds.quorum
        if asked is None:
            return
        reports = {
            name: read_report(asked.plan, self._payloads.read(result.payload))
            for name, result in results.items()
            if result.payload is not None
        }
        record = FederatedRanges(
            weights=asked.weights,
            devices={name: report.examples for name, report in reports.items()},
            missing=dict(dropped),
            merged=_merged(list(reports.values())) if len(reports) >= quorum else None,
        )
        self._ledger.set_fact(RANGES, dumps(record).decode())
        if record.merged is None:
            self.gave_up(
                f"{len(reports)} of the {quorum} devices needed told the ranges of their activations"
            )

    def gave_up(self, reason: str) -> None:
        """Say in the run's report that the devices' ranges are not to be had."""
        remedy = "the release is calibrated with the server's own examples if it has any, else not at all"
        self._ledger.note(clock.now(), "calibration", reason[:1000], remedy)

    def ranges(self, weights: str) -> FederatedRanges | None:
        """What the fleet said of these weights; None if it was not asked."""
        record = self._read(RANGES, FederatedRanges)
        return record if record is not None and record.weights == weights else None

    def asked_for(self) -> RangesPlan | None:
        """The plan of the last task; None before there is one."""
        known = self._read(PLAN, PlanRecord)
        return known.plan if known else None

    def merged(self, weights: str) -> tuple[RangeProgram, Ranges] | None:
        """The program of these weights and the fleet's ranges in it; None without enough reports."""
        record, plan = self.ranges(weights), self.asked_for()
        if record is None or record.merged is None or plan is None:
            return None
        name, found = self._config.model.name, record.merged
        bounds = dict(zip(found.tensors, zip(found.low, found.high, strict=True), strict=True))
        return RangeProgram(self._artefacts.read(plan.program), plan.tensors, name), bounds

    def files(self) -> list[str]:
        """Digests of the artefacts that are still needed."""
        plan = self.asked_for()
        return [plan.program.digest] if plan else []

    def _program(self, spec: ModelSpec, versions: Versions) -> RangeProgram:
        from compression.models.ranges import range_program

        try:
            with quiet():
                model = trained_model(self._config.model, spec, versions.weights)
                program = range_program(model, len(spec.classes))
        except BrambleError as exc:
            raise CalibrationError(f"the program that finds ranges cannot be made: {exc}") from exc
        size, most = len(program.tflite) / MEGABYTE, self._config.release.ranges.max_program_mb
        if size > most:
            raise CalibrationError(
                f"the program that finds ranges is {size:.1f} MB, which each device would fetch: raise "
                f"release.ranges.max_program_mb ({most:g}), or calibrate on the server"
            )
        return program

    def _read(self, fact: str, kind: type[R]) -> R | None:
        text = self._ledger.fact(fact)
        return loads(kind, text.encode(), max_bytes=MAX_FACT_BYTES) if text else None


def _merged(reports: list[ActivationRanges]) -> ActivationRanges:
    bounds = merge_ranges(reports)
    return ActivationRanges(
        program=reports[0].program,
        tensors=tuple(bounds),
        low=tuple(low for low, _ in bounds.values()),
        high=tuple(high for _, high in bounds.values()),
        examples=sum(report.examples for report in reports),
    )


def _kept_bytes(tflite: bytes) -> int:
    """That all activations take together; constants are in the file."""
    activations = [tensor for tensor in read_tflite(tflite).graphs[0].tensors if not len(tensor.data)]
    return FLOAT32_BYTES * sum(tensor.elements for tensor in activations)
