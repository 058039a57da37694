"""The device's half of a rollout: the release on its way, what was decided on it, how its model does."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from edge_client.config import EdgeConfig
from edge_client.extractors import extractor_blobs
from edge_client.inference.aftercare import Aftercare
from edge_client.releases import Installer
from edge_client.session.blobs import BlobStore
from edge_client.session.downloads import Downloads
from edge_client.state import DeviceState
from edge_client.uplink import Uplink
from edge_client.versions import blobs_to
from edge_client.wire.blobs import BlobRef
from edge_client.wire.rollout import Release

log = logging.getLogger(__name__)


class Rollout:
    """One device's releases, the newest order first.

    Attributes:
        release: that is to be fetched and decided on.
    """

    def __init__(
        self,
        config: EdgeConfig,
        state: DeviceState,
        blobs: BlobStore,
        downloads: Downloads,
        installer: Installer,
        aftercare: Aftercare,
        uplink: Uplink,
        now: Callable[[], float],
    ) -> None:
        self._name = config.name
        self._state = state
        self._blobs = blobs
        self._downloads = downloads
        self._installer = installer
        self._aftercare = aftercare
        self._uplink = uplink
        self._now = now
        self.release: Release | None = None
        self._frame = b""  # as it was signed
        self._told_alone = False  # it came on this device's own topic
        self._replayed: set[int] = set()  # orders of old releases that were reported

    def on_release(self, release: Release, frame: bytes, *, alone: bool) -> None:
        """Take on a release that is newer than the one at hand, or say again what became of an old one.

        Args:
            release, frame: what was signed.
            alone: this device was told by itself.
        """
        memory = self._state.memory
        if release.cohort and self._name not in release.cohort:
            return
        if release.order == memory.release and memory.release_report is not None:
            self._uplink.tell(memory.release_report)  # the server asks again: it did not hear
        elif release.order > max(memory.release, self.release.order if self.release else 0):
            self.release, self._frame, self._told_alone = release, frame, alone
            self.ready(release)
        elif release.order < memory.release and release.order not in self._replayed:
            self._replayed.add(release.order)  # once: a broker may hold an old one for ever
            self._uplink.tell(self._installer.replayed(release))

    def withdraw(self) -> None:
        """The retained release was taken away: it is not to be installed any more."""
        if self._told_alone:
            return
        self.release = None
        self._downloads.forget_all()  # a task asks again for its own

    def ready(self, release: Release) -> bool:
        """Ask for what a release needs; True when all of it is here."""
        return self._downloads.want_all(self._installer.wanted(release), self._now())

    def install(self, release: Release) -> None:
        """Decide on a release; one that cannot be decided on now, for the disk, stays and is tried again."""
        report = self._installer.install(release, self._frame)
        self.release = None
        self._state.remember(replace(self._state.memory, release=release.order, release_report=report))
        self._installer.forget(release)
        self._aftercare.begin(self._now())
        log.info("release %d: %s (%s)", release.version, report.outcome, report.reason)
        self._uplink.tell(report)

    def say_how_the_model_does(self) -> None:
        """Tell the server, if it is time."""
        now = self._now()
        if self._aftercare.due(now) and (health := self._aftercare.report(now)):
            self._uplink.tell(health)

    def in_use(self) -> list[BlobRef]:
        """What a sweep leaves: blobs of the release that may be on their way."""
        if (release := self.release) is None:
            return []
        refs = [release.model, release.bundle, *blobs_to(release.weights)]
        refs += extractor_blobs(self._blobs, release.extractor)
        return refs + [source.blob for source in release.sources]
