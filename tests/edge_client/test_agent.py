"""The agent's turns, without a network: what it says of itself, and the order in which it sees to things."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge_client.agent import Agent
from edge_client.config import DataConfig
from edge_client.device.slots import TRIAL_S
from edge_client.sd_notify import ServiceManager
from edge_client.session.inbox import ConnectionChange
from edge_client.wire.blobs import BlobRef
from edge_client.wire.chunks import BlobRequest
from edge_client.wire.presence import Hello, Presence
from tests.edge_client.agent_cases import (
    LARGE,
    UP,
    Case,
    task,
)


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    return Case(tmp_path, monkeypatch)


def test_a_bad_sensor_does_not_keep_the_device_from_saying_hello(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_client.health.temperature_c", lambda: 255.0)
    sent = case.step(UP)
    assert [type(message) for message in sent] == [Presence, Hello]


def test_chunks_that_wait_in_the_inbox_are_taken_before_anything_is_asked_for(case: Case) -> None:
    case.step(task(3, bundle=BlobRef.of(LARGE)))
    for index in range(3):
        case.chunk(LARGE, index)
    sent = case.step(seconds=100.0)
    asked = [message.blob for message in sent if isinstance(message, BlobRequest)]
    assert BlobRef.of(LARGE).digest not in asked


def test_it_says_goodbye(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    case.agent._uplink.say_goodbye()
    (farewell,) = case.session.out
    assert isinstance(farewell, Presence)
    assert farewell.state == "offline"
    case.session.connected = False
    case.agent._uplink.say_goodbye()
    assert isinstance(case.agent, Agent)
    assert case.step(ConnectionChange(False, "gone")) == []


def test_while_examples_are_counted_systemd_is_asked_for_time_and_a_trial_begins_anew(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = case.agent._state.directory.parent / "pictures"
    for name in ("a", "b"):
        (images / name).mkdir(parents=True)
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(images / name / "one.png")
    config = replace(case.config, data=DataConfig(source=f"folder:{images}"))
    asked, alarms = list[str](), [700]  # seconds left of the launcher's

    def alarm(seconds: int) -> int:
        alarms.append(seconds)
        return alarms[-2]

    monkeypatch.setattr("edge_client.agent.signal.alarm", alarm)
    manager = ServiceManager({})
    monkeypatch.setattr(manager, "_send", asked.append)
    case.agent._state.close()
    Agent(config, manager)
    assert asked == ["EXTEND_TIMEOUT_USEC=300000000"]
    assert alarms == [700, 0, TRIAL_S, 0, TRIAL_S]  # twice: one example and the next
