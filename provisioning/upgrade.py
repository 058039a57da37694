"""Another client for a device that is far away: signed, sent over the broker, and followed until it runs.

The server must not run meanwhile: both speak as the aggregator, and a broker lets only one of them in. What a
round has done by then is kept, and the server goes on with it afterwards.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from compression.errors import BrambleError
from edge_client.session.address import BrokerAddress
from edge_client.session.mqtt import ConnectionChange, Incoming, Session, SessionError
from edge_client.wire.blobs import CHUNK_BYTES, MAX_BLOB_BYTES, BlobRef
from edge_client.wire.chunks import BlobRequest, Chunk
from edge_client.wire.errors import WireError
from edge_client.wire.frame import decode, encode
from edge_client.wire.signing import Signs
from edge_client.wire.topics import AGGREGATOR, CHUNK, MESSAGE, Topics
from edge_client.wire.upgrade import Upgrade, UpgradeReport
from provisioning.wheelhouse.make import Wheelhouse

ASK_AGAIN_S = 20.0  # a device that is away, or restarts, has not heard
CONNECT_S = 30.0
FINAL = ("running", "refused", "rolled-back")
Report = Callable[[str, float], None]


class UpgradeFailedError(BrambleError):
    """The client was not made, not delivered, or does not run; the message says which, and why."""


@dataclass(frozen=True, slots=True)
class SignedUpgrade:
    """An upgrade for one device and the bytes that say so."""

    device: str
    upgrade: Upgrade
    frame: bytes
    archive: Path


def sign_upgrade(
    wheelhouse: Wheelhouse,
    fleet: str,
    device: str,
    signer: Signs,
    *,
    rollback: bool = False,
    now: float | None = None,
) -> SignedUpgrade:
    """Sign a wheelhouse's client for one device.

    Args:
        wheelhouse: the client.
        fleet: the device's fleet.
        device: its name.
        signer: the fleet's signing key.
        rollback: an older client than the running one is meant.
        now: seconds since 1970; the upgrade's number.

    Raises:
        UpgradeFailedError: the client is larger than the wire carries.
    """
    size = wheelhouse.archive.stat().st_size
    if size > MAX_BLOB_BYTES:
        raise UpgradeFailedError(f"{wheelhouse.archive} has {size} bytes; {MAX_BLOB_BYTES} can be sent")
    upgrade = Upgrade(
        fleet=fleet,
        number=int(time.time() if now is None else now),
        build=wheelhouse.lock.build,
        version=wheelhouse.lock.client,
        target=wheelhouse.lock.target,
        archive=BlobRef.of(wheelhouse.archive.read_bytes()),
        rollback=rollback,
    )
    topic = Topics(fleet).down(device, MESSAGE)
    frame = encode(upgrade, topic=topic, signer=signer)
    return SignedUpgrade(device, upgrade, frame, wheelhouse.archive)


class Delivery:
    """Sends one upgrade and answers the device's requests; `run` returns the device's last word."""

    def __init__(self, address: BrokerAddress, signed: SignedUpgrade, report: Report) -> None:
        self._signed = signed
        self._topics = Topics(signed.upgrade.fleet)
        self._report = report
        self._session = Session(address, AGGREGATOR, [f"{self._topics.prefix}/up/{signed.device}/+"])
        self._ask_at = float("-inf")
        self._sent: set[int] = set()

    def run(self, wait_s: float) -> UpgradeReport:
        """Deliver and wait.

        Raises:
            UpgradeFailedError: no final word within `wait_s`; the device may still follow later.
        """
        until, last = time.monotonic() + wait_s, None
        with self._session:
            self._session.wait_connected(CONNECT_S)
            while time.monotonic() < until:
                self._ask()
                found = self._take(self._session.receive(1.0))
                last = found or last
                if found is not None and found.outcome in FINAL:
                    return found
        how = "it waits to be installed there" if last else "nothing was heard of it"
        raise UpgradeFailedError(f"{self._signed.device}: not running within {wait_s:g} s; {how}")

    def _ask(self) -> None:
        if not self._session.connected or time.monotonic() < self._ask_at:
            return
        self._ask_at = time.monotonic() + ASK_AGAIN_S
        self._publish(MESSAGE, self._signed.frame)

    def _take(self, item: Incoming | ConnectionChange | None) -> UpgradeReport | None:
        if not isinstance(item, Incoming):
            return None
        try:
            message = decode(item.payload).message
        except WireError:
            return None  # not for us: the device says other things, too
        if isinstance(message, BlobRequest) and message.blob == self._signed.upgrade.archive.digest:
            self._send_chunks(message)
        elif isinstance(message, UpgradeReport) and message.number == self._signed.upgrade.number:
            self._report(message.outcome, 0.9)
            return message
        return None

    def _send_chunks(self, request: BlobRequest) -> None:
        ref = self._signed.upgrade.archive
        self._ask_at = time.monotonic() + ASK_AGAIN_S  # it has heard
        with self._signed.archive.open("rb") as file:
            for index in request.chunks:
                if index >= ref.count:
                    return
                file.seek(index * CHUNK_BYTES)
                self._publish(CHUNK, encode(Chunk(blob=ref.digest, index=index), file.read(CHUNK_BYTES)))
                self._sent.add(index)
        self._report(f"sent {len(self._sent)} of {ref.count} chunks", 0.9 * len(self._sent) / ref.count)

    def _publish(self, channel: str, frame: bytes) -> None:
        try:
            self._session.publish(self._topics.down(self._signed.device, channel), frame)
        except SessionError:
            self._ask_at = float("-inf")  # the connection comes back by itself
