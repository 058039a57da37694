"""The server's voice: signed messages, and the chunks of what it has announced.

A device may ask for chunks of announced blobs only: other devices' updates lie in the same store.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence

from edge_client.extractors import extractor_blobs
from edge_client.session.blobs import BlobStore
from edge_client.session.mqtt import Session, SessionError, packet_bytes
from edge_client.wire.blobs import CHUNK_BYTES, BlobRef, split
from edge_client.wire.chunks import BlobRequest, Chunk
from edge_client.wire.errors import WireError
from edge_client.wire.fields import Message
from edge_client.wire.frame import encode
from edge_client.wire.rollout import Release
from edge_client.wire.rounds import Task
from edge_client.wire.signer import Signer
from edge_client.wire.topics import CHUNK, MESSAGE, RELEASE, TASK, Topics

log = logging.getLogger(__name__)

ACK_TIMEOUT_S = 30.0
INSIDE_BYTES = 16 * 1024  # a step up to this is inside its task, which comes again with a connection
UNWATCHED = 4  # chunks that go out without waiting for the broker: as many as are on their way at a time


class Publisher:
    """Publishes for one fleet and counts the bytes for each device."""

    def __init__(self, session: Session, topics: Topics, signer: Signer, *stores: BlobStore) -> None:
        self._session = session
        self._topics = topics
        self._signer = signer
        self._stores = stores  # a blob is served from the first that has it
        self._announced: dict[str, BlobRef] = {}
        self._broadcast: set[str] = set()
        self._once: set[str] = set()  # blobs that a device fetches once a run: the program, the first weights
        self._to_all = 0
        self._to_device: Counter[str] = Counter()
        self.setup_bytes = 0

    def task(self, task: Task, *, broadcast: Sequence[BlobRef] = ()) -> None:
        """Publish a task, retained, and once with it, or right behind it, what most devices will want."""
        self._announce(task)
        inside = next(filter(self._goes_inside, broadcast), None)
        body = self._store_of(inside).read(inside) if inside else b""
        self._to_everyone(TASK, task, body)
        self._broadcast |= {inside.digest} if inside else set()
        self._broadcast_once(broadcast)

    def _goes_inside(self, ref: BlobRef) -> bool:
        """Whether a blob is the body of the task that names it: one message in place of two."""
        sent = ref.digest in self._broadcast or ref.digest in self._once
        return ref.size <= INSIDE_BYTES and not sent

    def release(self, release: Release, *, broadcast: bool = True) -> None:
        """Publish a release, retained; broadcast once the model, or the way to it that most can take."""
        self.announce(release)
        self._to_everyone(RELEASE, release)
        if broadcast:
            ways = [release.model, *(source.blob for source in release.sources)]
            self._broadcast_once([min(ways, key=lambda ref: ref.size)])

    def withdraw_release(self) -> None:
        """Take the retained release away from the broker: a device that comes now finds none."""
        self._session.publish(self._topics.all(RELEASE), b"", retain=True, timeout_s=ACK_TIMEOUT_S)

    def announce(self, release: Release) -> None:
        """Let devices ask for what a release names."""
        self._announce(release)
        refs = [release.model, *(source.blob for source in release.sources)]
        self._announced |= {ref.digest: ref for ref in refs}

    def serve(self, ref: BlobRef) -> None:
        """Let devices ask for a blob."""
        self._announced[ref.digest] = ref

    def tell(self, device: str, message: Message) -> None:
        """Publish a signed message for one device; one that cannot be sent is asked for again."""
        topic = self._topics.down(device, MESSAGE)
        try:
            self._publish(topic, encode(message, topic=topic, signer=self._signer), device)
        except SessionError as exc:
            log.info("%s: %s", device, exc)

    def send_chunks(self, device: str, request: BlobRequest) -> None:
        """Send a device the chunks it asks for; raise `WireError` if they were never announced."""
        ref = self._announced.get(request.blob)
        if ref is None or max(request.chunks) >= ref.count:
            raise WireError(f"{device} asks for chunks that were not announced")
        topic = self._topics.down(device, CHUNK)
        for index in request.chunks:
            frame = encode(Chunk(blob=ref.digest, index=index), self._chunk(ref, index))
            self._session.publish(topic, frame)
            self._count(ref, packet_bytes(topic, frame), device)

    def take_bytes(self) -> tuple[int, Counter[str]]:
        """Bytes of PUBLISH packets that every device read, and that single devices did, since last asked.

        The training program and the first weights are not in them: `setup_bytes` counts those.
        """
        taken = self._to_all, self._to_device
        self._to_all, self._to_device = 0, Counter()
        return taken

    def _announce(self, manifest: Task | Release) -> None:
        control = manifest.control if isinstance(manifest, Task) else None
        lines = [line for line in (manifest.weights, control) if line]
        refs = [manifest.bundle] if manifest.bundle else []
        if manifest.extractor:  # not broadcast: tens of MB in every queue would hold up what comes after
            refs += extractor_blobs(self._store_of(manifest.extractor), manifest.extractor)
        refs += [line.full for line in lines if line.version == 0]
        if isinstance(manifest, Task) and manifest.ranges:
            refs.append(manifest.ranges.program)
        self._once |= {ref.digest for ref in refs}
        refs += [ref for line in lines for ref in (line.full, *(step.blob for step in line.steps))]
        self._announced |= {ref.digest: ref for ref in refs}

    def _to_everyone(self, channel: str, message: Message, body: bytes = b"") -> None:
        topic = self._topics.all(channel)
        self._publish(topic, encode(message, body, topic=topic, signer=self._signer), None, retain=True)

    def _broadcast_once(self, refs: Iterable[BlobRef]) -> None:
        topic = self._topics.all(CHUNK)
        for ref in refs:
            if ref.digest in self._broadcast:
                continue
            frames = [
                encode(Chunk(blob=ref.digest, index=index), part)
                for index, part in enumerate(split(self._store_of(ref).read(ref)))
            ]
            self._send_all(topic, frames)
            self._count(ref, sum(packet_bytes(topic, frame) for frame in frames), None)
            self._broadcast.add(ref.digest)

    def _send_all(self, topic: str, frames: Sequence[bytes]) -> None:
        if len(frames) > UNWATCHED:
            self._session.publish_many(((topic, frame) for frame in frames), timeout_s=ACK_TIMEOUT_S)
            return
        for frame in frames:
            self._session.publish(topic, frame)

    def _chunk(self, ref: BlobRef, index: int) -> bytes:
        try:
            with self._store_of(ref).path(ref.digest).open("rb") as file:
                file.seek(index * CHUNK_BYTES)
                return file.read(CHUNK_BYTES)
        except FileNotFoundError as exc:
            raise WireError(f"blob {ref.digest[:12]} is of a version that is no longer kept") from exc

    def _store_of(self, ref: BlobRef) -> BlobStore:
        return next((store for store in self._stores if store.has(ref)), self._stores[0])

    def _count(self, ref: BlobRef, size: int, device: str | None) -> None:
        if ref.digest in self._once:
            self.setup_bytes += size
        elif device is None:
            self._to_all += size
        else:
            self._to_device[device] += size

    def _publish(self, topic: str, frame: bytes, device: str | None, *, retain: bool = False) -> None:
        self._session.publish(topic, frame, retain=retain)
        if device is None:
            self._to_all += packet_bytes(topic, frame)
        else:
            self._to_device[device] += packet_bytes(topic, frame)
