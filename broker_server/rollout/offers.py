"""What is published of the fleet's models: numbered, with patches, to everyone or on one device's topic."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection
from dataclasses import replace

from broker_server import clock
from broker_server.publisher import Publisher
from broker_server.rollout.registry import ModelRecord, Registry
from broker_server.rollout.sources import shorter_ways
from broker_server.store.ledger import Ledger
from broker_server.store.models import ModelStore
from edge_client.session.blobs import BlobStore
from edge_client.session.mqtt import SessionError
from edge_client.wire.errors import WireError
from edge_client.wire.rollout import ModelSource, Release, WatchPlan

log = logging.getLogger(__name__)

LAST_ORDER = "model_order"  # fact: the highest order that was published


class Offers:
    """Makes releases of models in the registry and publishes them."""

    def __init__(
        self, ledger: Ledger, store: ModelStore, registry: Registry, models: BlobStore, publisher: Publisher
    ) -> None:
        self._ledger = ledger
        self._store = store
        self._registry = registry
        self._models = models
        self._publisher = publisher

    def make(
        self,
        record: ModelRecord,
        *,
        rollback: bool = False,
        cohort: tuple[str, ...] = (),
        watch: WatchPlan = WatchPlan(),  # noqa: B008 - frozen
    ) -> Release:
        """A release with a new order, and patches from what devices have."""
        return replace(
            record.release,
            order=self._next_order(),
            sources=self._sources(record),
            watch=watch,
            rollback=rollback,
            cohort=cohort,
        )

    def to_everyone(self, release: Release, *, broadcast: bool) -> None:
        """Retained; a lost connection is no loss, it is published again."""
        try:
            self._publisher.release(release, broadcast=broadcast)
        except (SessionError, WireError) as exc:
            log.info("%s; the release is published again later", exc)

    def withdraw(self) -> bool:
        """Leave nothing retained; False without a connection, then it is to be tried again."""
        try:
            self._publisher.withdraw_release()
        except SessionError as exc:
            log.info("%s; the release is withdrawn later", exc)
            return False
        return True

    def to_one(self, device: str, release: Release) -> None:
        """On the device's own topic."""
        self._publisher.announce(release)
        self._publisher.tell(device, release)

    def direct(self, device: str, wanted: int, held: int, *, after: int = 0) -> bool:
        """Tell a device by itself which version it should have; False if it was told before.

        `after` is the order of the fleet's last release: an older word than that is a replay to the device.
        """
        known = self._store.directive(device, Release)
        if known is None or known.version != wanted or known.order <= after or self._answered(device, known):
            known = self.make(self._registry.get(wanted), rollback=wanted < held, cohort=(device,))
            self._store.keep_directive(device, known)
            self.to_one(device, known)
            return True
        self.to_one(device, known)
        return False

    def directed(self, device: str) -> Release | None:
        """What a device was told last by itself."""
        return self._store.directive(device, Release)

    def _answered(self, device: str, release: Release) -> bool:
        report = self._ledger.release_reports(release.version).get(device)
        return report is not None and report.order == release.order

    def _sources(self, record: ModelRecord) -> tuple[ModelSource, ...]:
        """From the versions that devices have, the most common first."""
        models = {other.version: other.release.model for other in self._registry.all()}
        held = Counter(hello.model_version for hello in self._ledger.devices().values())
        refs = [models[version] for version, _ in held.most_common() if version in models]
        files = [self._models.read(ref) for ref in refs if self._models.has(ref)]
        return shorter_ways(self._models.read(record.release.model), files, self._models.put)

    def _next_order(self) -> int:
        """Orders only grow, also after the ledger was lost: they are never below the time in seconds."""
        order = max(int(clock.now()), int(self._ledger.fact(LAST_ORDER) or 0) + 1)
        self._ledger.set_fact(LAST_ORDER, str(order))
        return order


def is_wide(offered: Collection[str], devices: Collection[str]) -> bool:
    """Whether most devices want a model: to a few canaries its chunks go one by one."""
    return 2 * len(offered) > len(devices)
