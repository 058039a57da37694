"""The frozen part of a run's transfer model as it touches the disk; every other model has none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from broker_server.config import ServerConfig, is_transfer_name
from broker_server.errors import RunError
from broker_server.store.ledger import Ledger
from broker_server.transfer import backbone_digest, calibration_pictures, compile_transfer
from compression.records import dumps, loads
from compression.spec import ImageInput, TableInput, TrainableBundle, Weights
from edge_client.extractors import MANIFEST_BYTES, extractor_blobs, put_extractor, read_extractor
from edge_client.session.blobs import BlobStore
from edge_client.wire.blobs import BlobRef

CACHE = "cache"  # folder of the server's own pictures and features, in its state directory
EXTRACTOR, BACKBONE = "extractor", "backbone"  # facts in the ledger


class Frozen:
    """What tasks and releases name of it."""

    def __init__(self, config: ServerConfig, ledger: Ledger, artefacts: BlobStore) -> None:
        self._config = config
        self._ledger = ledger
        self._artefacts = artefacts

    def compile(
        self, input: ImageInput | TableInput, classes: Sequence[str]
    ) -> tuple[TrainableBundle, Weights] | None:
        """The head's program and first weights, once the extractor is on the disk; None for other models.

        Raises:
            ModelError, ExportError, TrainableError: as `compile_transfer` raises.
        """
        model = self._config.model
        if not isinstance(input, ImageInput) or not is_transfer_name(model.name):
            return None
        pictures = calibration_pictures(self._config.data.calibration, input, classes)
        made = compile_transfer(model, input, classes, pictures)
        manifest = put_extractor(self._artefacts, made.extractor)
        with self._ledger.transaction():  # before the bundle's: what a kill leaves in between is made again
            self._ledger.set_fact(EXTRACTOR, dumps(manifest).decode())
            self._ledger.set_fact(BACKBONE, made.backbone)
        return made.bundle, made.weights

    @property
    def manifest(self) -> BlobRef | None:
        """The blob of the extractor's manifest; None for other models."""
        text = self._ledger.fact(EXTRACTOR)
        return None if text is None else loads(BlobRef, text.encode(), max_bytes=MANIFEST_BYTES)

    def blobs(self) -> list[BlobRef]:
        """All that must be kept of it."""
        return extractor_blobs(self._artefacts, self.manifest)

    def read(self) -> bytes:
        """The extractor's file; raise `RunError` for a model without one."""
        if (manifest := self.manifest) is None:
            raise RunError(f"{self._config.model.name} has no extractor")
        return read_extractor(self._artefacts, manifest)

    def check(self, model: Any) -> None:
        """Raise `RunError` if a network is built on other frozen weights than the run's head."""
        expected = self._ledger.fact(BACKBONE)
        if expected is not None and backbone_digest(model) != expected:
            raise RunError(
                "the backbone's weights are not those that this run began with: put the file of model.name "
                "back that was there, or begin a new run"
            )
