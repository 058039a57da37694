"""Getting from the weights held to the weights wanted: by steps, by the whole, or not at all yet."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from compression.spec import weights_digest
from compression.updates import PROFILES, encode_update, pack_model
from edge_client.config import DataConfig, EdgeConfig
from edge_client.session.address import BrokerAddress
from edge_client.session.blobs import BlobError, BlobStore
from edge_client.state import DeviceState
from edge_client.versions import TaskError, read_bundle, wanted_blobs
from edge_client.wire.blobs import BlobRef
from edge_client.wire.weights import DeltaRef, WeightsRef
from edge_client.work import Workshop
from tests.edge_client.agent_cases import SPEC, bundle_of

BUNDLE = "b" * 64
HELD, WANTED = {"w": np.zeros(2, np.float32)}, {"w": np.ones(2, np.float32)}
STEP = encode_update(WANTED, PROFILES["lossless"], model_digest=BUNDLE, round_number=1).payload
FULL = pack_model(WANTED)
REF = WeightsRef(
    version=1,
    digest=weights_digest(WANTED),
    full=replace(BlobRef.of(FULL), size=100_000),  # in a model of real size the step is the cheaper way
    steps=(DeltaRef(weights_digest(HELD), weights_digest(WANTED), BlobRef.of(STEP)),),
)


class Device:
    def __init__(self, directory: Path) -> None:
        self.state = DeviceState(directory)
        self.blobs = BlobStore(directory / "blobs")
        config = EdgeConfig(
            name="pi-1",
            fleet="test",
            server_key="0" * 64,
            state=str(directory),
            broker=BrokerAddress("localhost", 1883),
            data=DataConfig(source="table:none.csv"),
        )
        self.workshop = Workshop(config, self.state, self.blobs)
        self.workshop._digest = BUNDLE

    def wanted(self) -> list[str]:
        return [ref.digest for ref in wanted_blobs(None, REF, self.state.memory.weights_digest)]


@pytest.fixture
def device(tmp_path: Path) -> Device:
    device = Device(tmp_path)
    device.state.use_bundle(BUNDLE)
    device.state.keep_weights(0, weights_digest(HELD), HELD)
    return device


def is_wanted(weights: object) -> bool:
    assert isinstance(weights, dict)
    return bool(np.array_equal(weights["w"], WANTED["w"]))


def test_a_step_leads_from_the_weights_held(device: Device) -> None:
    assert device.wanted() == [REF.steps[0].blob.digest]
    device.blobs.put(STEP)
    assert is_wanted(device.workshop.weights(REF, SPEC))
    assert device.state.memory.weights_version == 1
    assert device.wanted() == []
    assert is_wanted(device.workshop.weights(REF, SPEC))


def test_held_weights_that_turn_out_damaged_make_it_want_the_whole(device: Device) -> None:
    device.state.close()
    device = Device(device.state.directory)  # in memory there are none
    device.blobs.put(STEP)
    (device.state.directory / "weights.bin").write_bytes(bytes([1] * 8))
    with pytest.raises(BlobError, match="is not here"):
        device.workshop.weights(REF, SPEC)
    assert device.wanted() == [REF.full.digest]
    device.blobs.put(FULL)
    assert is_wanted(device.workshop.weights(REF, SPEC))


def test_a_damaged_step_is_wanted_again(device: Device) -> None:
    path = device.blobs.path(device.blobs.put(STEP).digest)
    path.write_bytes(b"damaged")
    with pytest.raises(BlobError, match="damaged on disk"):
        device.workshop.weights(REF, SPEC)
    assert not device.blobs.has(REF.steps[0].blob)
    device.blobs.put(STEP)
    assert is_wanted(device.workshop.weights(REF, SPEC))


def test_a_step_that_leads_elsewhere_fails_the_task(device: Device) -> None:
    wrong = encode_update(
        {"w": np.full(2, 3, np.float32)}, PROFILES["lossless"], model_digest=BUNDLE, round_number=1
    ).payload
    device.blobs.put(wrong)
    step = replace(REF.steps[0], blob=BlobRef.of(wrong))
    with pytest.raises(TaskError, match="does not have the digest"):
        device.workshop.weights(replace(REF, steps=(step,)), SPEC)


def test_a_bundle_that_is_not_there_can_be_fetched_one_that_is_none_cannot(device: Device) -> None:
    with pytest.raises(BlobError, match="is not here"):
        read_bundle(device.blobs, BlobRef.of(bundle_of()))
    with pytest.raises(TaskError, match="cannot be read"):
        read_bundle(device.blobs, device.blobs.put(b"no bundle"))
