"""Enrolment beside a fleet's broker: devices get their certificates, and who has joined is written down."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from broker_server.broker.base import Broker
from broker_server.config import ServerConfig
from broker_server.report.observer import DeviceJoined, Note, NullObserver, Observers, RunObserver
from provisioning.enrolment.desk import EnrolmentDesk
from provisioning.enrolment.service import EnrolmentService
from provisioning.pki.authority import FleetCA

log = logging.getLogger(__name__)


class JoinRecorder(NullObserver):
    """Writes down that the server has heard a device, for ``bramble-provision watch``."""

    def __init__(self, desk: EnrolmentDesk) -> None:
        self._desk = desk

    def device_joined(self, event: DeviceJoined, /) -> None:
        """A hello that the server took."""
        try:
            self._desk.joined(event.device)
        except (OSError, sqlite3.Error) as exc:  # an observer must not stop the run
            log.warning("%s joined, which could not be written down: %s", event.device, exc)


@contextmanager
def fleet_enrolment(config: ServerConfig, broker: Broker, observer: RunObserver) -> Iterator[RunObserver]:
    """The enrolment service while the body runs, and the observer that the run is to tell.

    Only beside a mosquitto of ours: any other broker knows its clients in another way.
    """
    if broker.kind != "mosquitto":
        yield observer
        return
    authority = FleetCA.open(Path(config.pki))
    desk = EnrolmentDesk(authority, days=config.enrolment.days)
    observers = Observers([observer, JoinRecorder(desk)])
    if not config.enrolment.enabled:
        yield observers
        return
    host, port = config.broker.host, _port(config)
    with EnrolmentService(authority, desk, host=host, port=port, names=config.broker.names) as service:
        observer.note(Note(f"devices enrol at {host}:{service.port}"))
        yield observers


def _port(config: ServerConfig) -> int:
    if config.enrolment.port is not None:
        return config.enrolment.port
    return config.broker.port + 1 if config.broker.port else 0
