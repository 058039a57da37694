"""Installing a released model: gate it on the device's own data, then switch slots.

Whatever goes wrong, the model that answered before goes on answering, and the report says why. What the
disk does wrong may pass and decides nothing: the caller tries again.
"""

from __future__ import annotations

import contextlib
import logging
from typing import Literal

from compression.spec import ModelSpec
from compression.updates import CodecError
from edge_client.data import LocalData
from edge_client.data.errors import reason_for_server
from edge_client.extractors import extractor_blobs
from edge_client.health import health
from edge_client.inference.answering import at_home
from edge_client.inference.gate import (
    MAX_REASON,
    GateVerdict,
    Score,
    preparation_digest,
    refusal,
    run_gate,
    score_of,
)
from edge_client.inference.installed import ActiveModel, SlotError
from edge_client.inference.patches import apply_patch
from edge_client.inference.predictor import PredictionError, Predictor
from edge_client.inference.slots import FOLDER, ModelSlots
from edge_client.session.blobs import BlobError, BlobStore
from edge_client.state import DeviceState
from edge_client.versions import wanted_blobs
from edge_client.wire.blobs import BlobRef, sha256
from edge_client.wire.rollout import ModelSource, Release, ReleaseReport
from edge_client.work import Workshop

log = logging.getLogger(__name__)


class Installer:
    """Decides on releases for one device."""

    def __init__(self, state: DeviceState, blobs: BlobStore, workshop: Workshop, *, threads: int = 1) -> None:
        self._state = state
        self._blobs = blobs
        self._workshop = workshop
        self._threads = threads
        self._slots = ModelSlots(state.directory / FOLDER)
        self._held: dict[str, bytes] | None = None  # files of the models here; read once, not every second
        self._bad: set[str] = set()  # patches that did not make what was signed
        self._here: tuple[int, bool] = (
            -1,
            False,
        )  # order of a release, and whether its model is here already

    def active_version(self) -> int:
        """Version of the model that answers; 0 without one."""
        return self._slots.active_version()

    # ---- fetching ----

    def wanted(self, release: Release) -> list[BlobRef]:
        """What must be fetched for a release: the shortest way to its model, and what the gate asks for."""
        if self._here[0] != release.order:  # asked every second while chunks come in
            here = release.withdraws or self._is_active(release) or self._way_back(release)
            self._here = release.order, here
        if self._here[1]:
            return []
        memory = self._state.memory
        held = memory.weights_digest if release.bundle.digest == memory.bundle else ""
        refs = wanted_blobs(release.bundle, release.weights, held)
        refs += extractor_blobs(self._blobs, release.extractor)
        source = self._source(release)
        return [*refs, source.blob if source else release.model]

    def forget(self, release: Release) -> None:
        """Give back the space of a model's file, which lies in its slot by now or was refused."""
        self._held, self._here = None, (-1, False)
        for ref in (release.model, *(source.blob for source in release.sources)):
            self._blobs.path(ref.digest).unlink(missing_ok=True)

    def _source(self, release: Release) -> ModelSource | None:
        """The patch or packed file that is smaller than the file itself; None for the file."""
        if self._blobs.has(release.model):
            return None
        if self._held is None:
            models = filter(None, (self._active(), self._slots.previous()))
            self._held = {sha256(model.tflite): model.tflite for model in models}
        usable = [
            source
            for source in release.sources
            if source.blob.digest not in self._bad
            and (source.from_digest is None or source.from_digest in self._held)
        ]
        best = min(usable, key=lambda source: source.blob.size, default=None)
        return best if best and best.blob.size < release.model.size else None

    def _model(self, release: Release) -> bytes:
        """The model's file; raise `BlobError` where a patch did not lead to it: then it is fetched whole."""
        source = self._source(release)
        if source is None:
            return self._blobs.read(release.model)
        base = (self._held or {}).get(source.from_digest or "", b"")
        patch = self._blobs.read(source.blob)
        try:
            model = apply_patch(patch, base, release.model.size)
        except CodecError as exc:
            self._bad.add(source.blob.digest)
            raise BlobError(f"{exc}; the whole model is fetched") from exc
        if sha256(model) != release.model.digest:
            self._bad.add(source.blob.digest)
            raise BlobError("the patch makes another file than was signed; the whole model is fetched")
        return model

    # ---- deciding ----

    def install(self, release: Release, manifest: bytes = b"") -> ReleaseReport:
        """Gate a release whose blobs are all in the store, and activate it if it passes.

        Args:
            release: what was released.
            manifest: the signed frame that said so, kept beside the model.

        Raises:
            OSError, BlobError: nothing is decided; it may go better another time.
        """
        if release.withdraws:
            return self._report(release, self._withdrawn(release), None)
        if self._is_active(release):  # the power went before the caller could remember it, or a rollback
            return self._report(release, GateVerdict(True, "it was active already"), None)
        if self._way_back(release):
            self._slots.rollback()
            return self._report(release, GateVerdict(True, "back to the model before"), None)
        if not release.rollback and (newer := self.active_version()) > release.version:
            reason = f"version {release.version} is older than version {newer}, which answers: "
            return self._report(release, refusal(reason + "only a signed rollback goes back"), None)
        try:
            verdict, reference = self._gated(release, manifest)
        except (OSError, BlobError):
            raise
        except Exception as exc:  # whatever a model brings out in the runtime, the data or the slots
            log.exception("release %d cannot be installed", release.version)
            verdict, reference = refusal(reason_for_server(exc)), None
        return self._report(release, verdict, reference)

    def _withdrawn(self, release: Release) -> GateVerdict:
        if self._slots.withdraw(release.model.digest):
            now = self.active_version()
            return GateVerdict(True, f"model {now} answers again" if now else self._slots.why_none())
        return GateVerdict(True, "it did not answer here")

    def replayed(self, release: Release) -> ReleaseReport:
        """The answer to a release with an older order than one that was decided on."""
        reason = f"a replay: order {release.order}, this device has seen {self._state.memory.release}"
        return self._report(release, refusal(reason), None)

    def _gated(self, release: Release, manifest: bytes) -> tuple[GateVerdict, float | None]:
        model = self._model(release)
        trainer, examples = self._workshop.open(release.bundle, release.extractor)
        spec, data = trainer.spec.whole, examples.raw
        if preparation_digest(spec) != release.preparation:
            return refusal("the model was made for other classes or another preprocessing"), None
        trainer.set_weights(self._workshop.weights(release.weights, trainer.spec))
        sums = self._workshop.evaluate(trainer, examples.trained)
        reference = sums.accuracy if sums else None
        digest = release.model.digest
        verdict = run_gate(
            model,
            spec,
            data,
            release.gate,
            reference,
            threads=self._threads,
            digest=digest,
            active=None if release.rollback else self._active_score(spec, data),
        )
        if verdict.accepted:
            slot = self._slots.stage(
                release.version,
                model,
                spec,
                manifest=manifest,
                digest=digest,
                answering=at_home(release.answering, spec, data),
            )
            self._slots.activate(slot)
        return verdict, reference

    def _active_score(self, spec: ModelSpec, data: LocalData) -> Score | None:
        """How the model that answers does on these examples; None if it is for others, or fails."""
        model = self._active()
        if model is None or preparation_digest(model.spec) != preparation_digest(spec):
            return None
        with contextlib.suppress(PredictionError):
            return score_of(Predictor(model.tflite, spec, threads=self._threads), data)
        return None

    def _active(self) -> ActiveModel | None:
        with contextlib.suppress(SlotError):
            return self._slots.active()
        return None

    def _is_active(self, release: Release) -> bool:
        return _is(self._active(), release)

    def _way_back(self, release: Release) -> bool:
        """Whether a rollback is to the model that answered before: it has passed the gate here."""
        return release.rollback and _is(self._slots.previous(), release)

    def _report(self, release: Release, verdict: GateVerdict, reference: float | None) -> ReleaseReport:
        done: Literal["activated", "rolled-back"] = "rolled-back" if release.rollback else "activated"
        return ReleaseReport(
            order=release.order,
            version=release.version,
            outcome=done if verdict.accepted else "refused",
            reason=verdict.reason[:MAX_REASON],
            accuracy=verdict.accuracy,
            reference_accuracy=reference,
            examples=verdict.examples,
            latency_p50_ms=verdict.latency.p50_ms if verdict.latency else None,
            latency_p99_ms=verdict.latency.p99_ms if verdict.latency else None,
            active_version=self.active_version(),
            health=health(self._state.directory),
        )


def _is(model: ActiveModel | None, release: Release) -> bool:
    return (
        model is not None
        and model.version == release.version
        and sha256(model.tflite) == release.model.digest
    )
