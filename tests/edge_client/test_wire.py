"""The wire: what is encoded comes back, and any other bytes raise one error."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compression.records import RecordError, dumps
from edge_client.wire.blobs import CHUNK_BYTES, BlobRef, sha256, split
from edge_client.wire.chunks import Chunk
from edge_client.wire.errors import WireError
from edge_client.wire.evaluation import EvaluationSums
from edge_client.wire.frame import MAX_BODY_BYTES, MAX_FRAME_BYTES, decode, encode
from edge_client.wire.messages import MESSAGE_TYPES
from edge_client.wire.presence import Presence
from edge_client.wire.rounds import Receipt, Result, Task
from edge_client.wire.signer import Signer
from edge_client.wire.signing import Verifier
from edge_client.wire.topics import Topics
from tests.edge_client.strategies import records

any_message = st.one_of([records(cls) for cls in MESSAGE_TYPES.values()])
relaxed = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow]
)


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Signer:
    return Signer.create(tmp_path_factory.mktemp("keys") / "signing.pem")


@relaxed
@given(message=any_message, body=st.binary(max_size=200))
def test_every_message_comes_back(message, body: bytes) -> None:
    body = body if message.HAS_BODY else b""
    envelope = decode(encode(message, body))
    assert envelope.message == message
    assert envelope.body == body


@relaxed
@given(data=st.binary(max_size=400))
def test_arbitrary_bytes_raise_one_error(data: bytes) -> None:
    with pytest.raises(WireError):
        decode(data)


@relaxed
@given(message=any_message, data=st.data())
def test_a_damaged_frame_raises_or_is_another_valid_frame(message, data: st.DataObject) -> None:
    frame = bytearray(encode(message))
    position = data.draw(st.integers(0, len(frame) - 1))
    frame[position] ^= data.draw(st.integers(1, 255))
    frame = frame[: data.draw(st.integers(0, len(frame)))]
    try:
        envelope = decode(bytes(frame))
    except WireError:
        return
    assert encode(envelope.message, envelope.body) == bytes(frame)  # one encoding, one meaning


@pytest.mark.parametrize(
    ("position", "value", "complaint"),
    [
        (0, b"X", "not a Bramble frame"),
        (4, b"\x09", "version 9"),
        (5, b"\xff", "type 255"),
        (6, b"\x02", "frame"),
    ],
)
def test_header_fields_are_checked(position: int, value: bytes, complaint: str) -> None:
    frame = bytearray(encode(Receipt(task=1, accepted=True)))
    frame[position : position + 1] = value
    with pytest.raises(WireError, match=complaint):
        decode(bytes(frame))


def test_sizes_are_bounded() -> None:
    with pytest.raises(WireError, match="exceed"):
        decode(bytes(MAX_FRAME_BYTES + 1))
    with pytest.raises(WireError, match="more than a frame"):
        encode(Chunk(blob="0" * 64, index=0), bytes(MAX_BODY_BYTES + 1))
    with pytest.raises(WireError, match="no body"):
        encode(Receipt(task=1, accepted=True), b"x")


def test_a_signature_holds_for_one_topic_and_one_key(signer: Signer, tmp_path: Path) -> None:
    verifier = Verifier(signer.public_hex)
    message = Receipt(task=7, accepted=True)
    frame = encode(message, topic="a", signer=signer)
    assert decode(frame, topic="a", verifier=verifier).message == message
    with pytest.raises(WireError, match="not by the fleet's key"):
        decode(frame, topic="b", verifier=verifier)
    stranger = Signer.create(tmp_path / "other.pem")
    with pytest.raises(WireError, match="not by the fleet's key"):
        decode(encode(message, topic="a", signer=stranger), topic="a", verifier=verifier)
    with pytest.raises(WireError, match="not signed"):
        decode(encode(message), topic="a", verifier=verifier)
    with pytest.raises(WireError, match="never signed"):
        encode(Presence(state="online", session="0" * 16), topic="a", signer=signer)


def test_a_flipped_bit_breaks_the_signature(signer: Signer) -> None:
    frame = bytearray(encode(Receipt(task=7, accepted=False), topic="t", signer=signer))
    at = frame.index(b'"task":7') + 7
    frame[at] = ord("8")
    with pytest.raises(WireError, match="not by the fleet's key"):
        decode(bytes(frame), topic="t", verifier=Verifier(signer.public_hex))


def test_the_signing_key_is_private_and_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "signing.pem"
    created = Signer.create(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert Signer.load(path).public_hex == created.public_hex
    with pytest.raises(FileExistsError):
        Signer.create(path)
    (tmp_path / "bad.pem").write_text("nonsense")
    with pytest.raises(ValueError, match=r"bad\.pem"):
        Signer.load(tmp_path / "bad.pem")


def test_tasks_name_what_they_need() -> None:
    with pytest.raises(RecordError, match="needs a bundle"):
        Task(fleet="f", run="0" * 16, number=1, kind="train")
    with pytest.raises(RecordError, match="needs columns"):
        Task(fleet="f", run="0" * 16, number=1, kind="statistics")


def test_topics_name_the_sender() -> None:
    topics = Topics("ward")
    assert topics.sender("bramble/1/ward/up/pi-3/chunk") == ("pi-3", "chunk")
    for foreign in (
        "bramble/1/other/up/pi-3/chunk",
        "bramble/1/ward/down/pi-3/chunk",
        "x",
        "bramble/1/ward/up/a+/chunk",
    ):
        with pytest.raises(WireError, match="not an uplink topic"):
            topics.sender(foreign)
    with pytest.raises(RecordError):
        Topics("a/b")


@given(size=st.integers(1, 3 * CHUNK_BYTES))
@settings(max_examples=20, deadline=None)
def test_manifests_describe_their_chunks(size: int) -> None:
    data = bytes(size)
    ref = BlobRef.of(data)
    parts = split(data)
    assert ref.count == len(parts)
    for index, part in enumerate(parts):
        assert ref.chunk_digest(index) == sha256(part)
        assert ref.chunk_size(index) == len(part)


def test_a_manifest_must_list_as_many_chunks_as_its_size_needs() -> None:
    with pytest.raises(RecordError, match="need 2 digests"):
        BlobRef(digest="0" * 64, size=CHUNK_BYTES + 1)


def test_evaluation_sums_must_be_consistent() -> None:
    with pytest.raises(RecordError, match="square"):
        EvaluationSums(loss_sum=0.0, confusion=(1, 2, 3, 4, 5))
    with pytest.raises(RecordError, match="different examples"):
        EvaluationSums(loss_sum=0.0, confusion=(1, 0, 0, 0), scores=(3, 5, 5))
    with pytest.raises(RecordError, match="ascending"):
        EvaluationSums(loss_sum=0.0, confusion=(1, 1, 0, 0), scores=(3, 1, 0, 3, 1, 0))


def test_evaluation_sums_add_up_to_the_pooled_data() -> None:
    import numpy as np
    from sklearn.metrics import confusion_matrix, roc_auc_score

    rng = np.random.default_rng(5)
    labels = rng.integers(0, 2, 300)
    positive = np.clip(labels * 0.3 + rng.random(300) * 0.7, 0, 1)
    probabilities = np.stack([1 - positive, positive], axis=1)
    parts = [EvaluationSums.of(labels[s], probabilities[s], 1.0) for s in (slice(0, 40), slice(40, 300))]
    pooled = parts[0] + parts[1]
    assert pooled.examples == 300
    assert pooled.loss_sum == 2.0
    assert list(pooled.confusion) == confusion_matrix(labels, positive > 0.5).ravel().tolist()
    assert pooled.auc == pytest.approx(roc_auc_score(labels, positive), abs=1 / 512)
    assert len(dumps(pooled)) < 8192


def test_one_class_has_no_auc() -> None:
    import numpy as np

    sums = EvaluationSums.of(np.zeros(5, int), np.tile([0.9, 0.1], (5, 1)), 0.5)
    assert sums.auc is None
    assert sums.accuracy == 1.0


def test_results_may_carry_their_payload() -> None:
    payload = b"update"
    message = Result(task=3, status="done", payload=BlobRef.of(payload))
    assert decode(encode(message, payload)).body == payload
