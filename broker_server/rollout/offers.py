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

    def back(self, version: int, back_to: int, cohort: tuple[str, ...]) -> Release:
        """The release that takes a version back: of the one before, or of none where there is none."""
        if back_to:
            return self.make(self._registry.get(back_to), rollback=True, cohort=cohort)
        taken = self._registry.get(version).release
        return replace(taken, version=0, order=self._next_order(), rollback=True, cohort=cohort)

    def to_everyone(self, release: Release, *, broadcast: bool) -> bool:
        """Retained; a lost connection is no loss: False, and it is to be published again."""
        try:
            self._publisher.release(release, broadcast=broadcast)
        except SessionError as exc:
            log.info("%s; the release is published again later", exc)
            return False
        except WireError as exc:  # too many names for a message: another try would come to the same
            log.warning("%s; the release is not published", exc)
        return True

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
        """Tell a device by itself which version it should have, 0 for none; False if it was told before.

        `after` is the order of the fleet's last release: an older word than that is a replay to the device.
        """
        known, meant = self._store.directive(device, Release), self._registry.get(wanted or held).release
        same = known is not None and (known.version, known.model) == (wanted, meant.model)
        if known is not None and same and known.order > after and not self._answered(device, known):
            self.to_one(device, known)
            return False
        self.to_one(device, self._new_word(device, wanted, held))
        return True

    def _new_word(self, device: str, wanted: int, held: int) -> Release:
        alone = (device,)
        back = wanted < held
        word = self.back(held, wanted, alone) if back else self.make(self._registry.get(wanted), cohort=alone)
        self._store.keep_directive(device, word)
        return word

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
