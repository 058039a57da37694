"""Installing a released model: gate it on the device's own data, then switch slots.

Whatever goes wrong, the model that answered before goes on answering, and the report says why. What the
disk does wrong may pass and decides nothing: the caller tries again.
"""

from __future__ import annotations

import contextlib
import logging

from edge_client.health import health
from edge_client.inference.gate import MAX_REASON, GateVerdict, refusal, run_gate
from edge_client.inference.slots import ModelSlots, SlotError
from edge_client.session.blobs import BlobError, BlobStore
from edge_client.state import DeviceState
from edge_client.wire.blobs import sha256
from edge_client.wire.messages import Release, ReleaseReport
from edge_client.work import Workshop

log = logging.getLogger(__name__)


class Installer:
    """Decides on releases for one device."""

    def __init__(self, state: DeviceState, blobs: BlobStore, workshop: Workshop, *, threads: int = 1) -> None:
        self._state = state
        self._blobs = blobs
        self._workshop = workshop
        self._threads = threads
        self._slots = ModelSlots(state.directory / "models")

    def active_version(self) -> int:
        """Version of the model that answers; 0 without one."""
        return self._slots.active_version()

    def install(self, release: Release, manifest: bytes = b"") -> ReleaseReport:
        """Gate a release whose blobs are all in the store, and activate it if it passes.

        Args:
            release: what was released.
            manifest: the signed frame that said so, kept beside the model.

        Raises:
            OSError, BlobError: nothing is decided; it may go better another time.
        """
        if self._is_active(release):  # the power went before the caller could remember it
            return self._report(release, GateVerdict(True, "it was active already"), None)
        reference: float | None = None
        try:
            model = self._blobs.read(release.model)
            trainer, data = self._workshop.open(release.bundle)
            trainer.set_weights(self._workshop.weights(release.weights, trainer.spec))
            sums = self._workshop.evaluate(trainer, data)
            reference = sums.accuracy if sums else None
            digest = release.model.digest
            verdict = run_gate(
                model, trainer.spec, data, release.gate, reference, threads=self._threads, digest=digest
            )
            if verdict.accepted:
                slot = self._slots.stage(
                    release.version, model, trainer.spec, manifest=manifest, digest=digest
                )
                self._slots.activate(slot)
        except (OSError, BlobError):
            raise
        except Exception as exc:  # whatever a model brings out in the runtime, the data or the slots
            log.exception("release %d cannot be installed", release.version)
            verdict = refusal(str(exc))
        return self._report(release, verdict, reference)

    def _is_active(self, release: Release) -> bool:
        with contextlib.suppress(SlotError):
            model = self._slots.active()
            if model is not None and model.version == release.version:
                return sha256(model.tflite) == release.model.digest
        return False

    def _report(self, release: Release, verdict: GateVerdict, reference: float | None) -> ReleaseReport:
        return ReleaseReport(
            version=release.version,
            outcome="activated" if verdict.accepted else "refused",
            reason=verdict.reason[:MAX_REASON],
            accuracy=verdict.accuracy,
            reference_accuracy=reference,
            examples=verdict.examples,
            latency_p50_ms=verdict.latency.p50_ms if verdict.latency else None,
            latency_p99_ms=verdict.latency.p99_ms if verdict.latency else None,
            active_version=self.active_version(),
            health=health(self._state.directory),
        )
