"""A device's state: what survives a reboot, and what each way an update can end does to the residual."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from compression.spec import ImageInput, ModelSpec, TensorSpec, weights_digest
from edge_client.files import write_atomically
from edge_client.state import DeviceState, Memory, StateError
from edge_client.wire.blobs import BlobRef
from edge_client.wire.rounds import Result

SPEC = ModelSpec("m", ImageInput(8, 8), ("a", "b"), (TensorSpec("w", (2, 3)),))


def weights(value: float) -> dict[str, np.ndarray]:
    return {"w": np.full((2, 3), value, np.float32)}


def result(task: int = 5) -> Result:
    return Result(task=task, status="done", payload=BlobRef.of(b"payload"))


class PowerCutError(BaseException):
    """Nothing after it happens."""


def power_cut(*_: object) -> None:
    raise PowerCutError


def residual_of(state: DeviceState) -> float | None:
    held = state.kept("residual", SPEC)
    return None if held is None else float(held["w"][0, 0])


@pytest.fixture
def state(tmp_path: Path) -> DeviceState:
    state = DeviceState(tmp_path)
    state.use_bundle("b" * 64)
    state.keep_pending(result(4), b"payload", {"residual": weights(1.0)})
    state.settle(accepted=True)
    return state


def reopened(state: DeviceState) -> DeviceState:
    """As after a reboot: what the old process held in memory is gone."""
    state.close()
    return DeviceState(state.directory)


def test_accepted_the_pending_residual_becomes_the_residual(state: DeviceState) -> None:
    state.keep_pending(result(), b"payload", {"residual": weights(2.0)})
    assert residual_of(state) == 1.0  # not yet
    state.settle(accepted=True)
    assert residual_of(state) == 2.0
    again = reopened(state)
    assert residual_of(again) == 2.0
    assert again.pending is None


def test_refused_the_old_residual_stands(state: DeviceState) -> None:
    state.keep_pending(result(), b"payload", {"residual": weights(2.0)})
    state.settle(accepted=False)
    assert residual_of(state) == 1.0
    assert residual_of(reopened(state)) == 1.0


def test_after_a_reboot_the_same_bytes_are_offered(state: DeviceState) -> None:
    state.keep_pending(result(), b"payload", {"residual": weights(2.0)})
    again = reopened(state)
    assert again.pending is not None
    assert (again.pending.result, again.pending.payload) == (result(), b"payload")
    assert again.memory.task == 5
    again.settle(accepted=True)
    assert residual_of(reopened(again)) == 2.0


def test_a_reboot_between_the_two_steps_of_settling_changes_nothing(state: DeviceState) -> None:
    state.keep_pending(result(), b"payload", {"residual": weights(2.0)})
    (state.directory / "pending" / "residual.bin").replace(state.directory / "residual.bin")
    again = reopened(state)  # the power went before result.json was removed
    assert again.pending is not None
    again.settle(accepted=True)
    assert residual_of(again) == 2.0


def test_a_reboot_before_the_result_is_written_leaves_no_pending(state: DeviceState) -> None:
    write_atomically(state.directory / "pending" / "residual.bin", b"half")
    again = reopened(state)
    assert again.pending is None
    assert residual_of(again) == 1.0


def test_a_result_without_a_residual_never_takes_an_old_one(state: DeviceState) -> None:
    state.keep_pending(result(5), b"payload", {"residual": weights(2.0)})
    state.settle(accepted=False)
    write_atomically(state.directory / "pending" / "residual.bin", b"left behind")
    state.keep_pending(result(6), b"")
    state.settle(accepted=True)
    assert residual_of(state) == 1.0


def test_another_bundle_starts_afresh(state: DeviceState) -> None:
    state.keep_weights(3, weights_digest(weights(7.0)), weights(7.0))
    state.keep_pending(result(), b"payload", {"residual": weights(2.0)})
    state.use_bundle("c" * 64)
    assert state.pending is None
    assert state.kept("residual", SPEC) is None
    assert state.weights(SPEC) is None
    assert state.memory.weights_digest == ""


def test_weights_damaged_on_disk_are_not_used(state: DeviceState) -> None:
    state.keep_weights(3, weights_digest(weights(7.0)), weights(7.0))
    again = reopened(state)
    (state.directory / "weights.bin").write_bytes(bytes(24))
    assert again.weights(SPEC) is None
    assert again.memory.weights_digest == ""  # so they are fetched as a whole


def test_weights_are_read_from_the_disk_once(state: DeviceState) -> None:
    state.keep_weights(3, weights_digest(weights(7.0)), weights(7.0))
    (state.directory / "weights.bin").write_bytes(bytes(24))
    held = state.weights(SPEC)
    assert held is not None and held["w"][0, 0] == 7.0
    assert reopened(state).memory.weights_digest == ""  # what the disk has is looked at when it starts


@pytest.mark.parametrize("content", [bytes(24), b"", None])
def test_weights_damaged_while_it_was_off_are_forgotten(state: DeviceState, content: bytes | None) -> None:
    state.keep_weights(3, weights_digest(weights(7.0)), weights(7.0))
    path = state.directory / "weights.bin"
    path.unlink() if content is None else path.write_bytes(content)
    memory = reopened(state).memory
    assert (memory.weights_version, memory.weights_digest) == (0, "")


def test_a_power_cut_between_the_weights_and_their_digest_forgets_them(
    state: DeviceState, monkeypatch: pytest.MonkeyPatch
) -> None:
    state.keep_weights(3, weights_digest(weights(7.0)), weights(7.0))
    with monkeypatch.context() as patch, pytest.raises(PowerCutError):
        patch.setattr(DeviceState, "remember", power_cut)
        state.keep_weights(4, weights_digest(weights(8.0)), weights(8.0))
    assert reopened(state).memory.weights_digest == ""


def test_a_power_cut_after_the_result_is_written_never_repeats_its_task(
    state: DeviceState, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(PowerCutError):
        patch.setattr(DeviceState, "remember", power_cut)
        state.keep_pending(result(7), b"payload", {"residual": weights(2.0)})
    again = reopened(state)
    assert again.pending is not None
    assert again.memory.task == 7
    again.settle(accepted=True)
    assert reopened(again).memory.task == 7


def test_two_agents_cannot_share_a_directory(state: DeviceState) -> None:
    with pytest.raises(StateError, match=f"{state.directory} is in use by another agent"):
        DeviceState(state.directory)
    state.close()
    DeviceState(state.directory).close()


def test_the_directory_is_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.mkdir(mode=0o755)
    state = DeviceState(path)
    state.keep_pending(result(), b"payload", {"residual": weights(2.0)})
    state.keep_weights(3, weights_digest(weights(7.0)), weights(7.0))
    assert path.stat().st_mode & 0o777 == 0o700
    files = [file for file in path.rglob("*") if file.is_file() and file.name != "lock"]
    assert len(files) >= 5
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}


def test_left_overs_of_interrupted_writes_are_removed(state: DeviceState) -> None:
    left = [state.directory / ".state.json.123.tmp", state.directory / "blobs" / ".0.7.tmp"]
    kept = [state.directory / "blobs" / "0", state.directory / "blobs" / ".hidden"]
    for path in (*left, *kept):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    reopened(state)
    assert not any(path.exists() for path in left)
    assert all(path.exists() for path in kept)


def test_facts_survive(state: DeviceState) -> None:
    state.remember(replace(state.memory, release=9))
    assert reopened(state).memory.release == 9
    assert Memory().release == 0


def test_a_damaged_state_file_is_said_with_the_remedy(state: DeviceState) -> None:
    (state.directory / "state.json").write_text("{}x")
    with pytest.raises(StateError, match="remove it to start afresh"):
        reopened(state)


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def no_space(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("edge_client.files.os.fsync", no_space)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


# ---- several things kept together ----


def kept(value: float) -> dict[str, dict[str, np.ndarray]]:
    return {"residual": weights(value), "variate": weights(value + 10), "personal": weights(value + 20)}


def held(state: DeviceState) -> list[float]:
    found = [state.kept(name, SPEC) for name in ("residual", "variate", "personal")]
    return [float(one["w"][0, 0]) for one in found if one is not None]


def test_all_that_is_kept_takes_effect_together(state: DeviceState) -> None:
    state.keep_pending(result(), b"payload", kept(2.0))
    assert held(state) == [1.0]
    state.settle(accepted=True)
    assert held(reopened(state)) == [2.0, 12.0, 22.0]


def test_power_lost_while_they_take_their_places_the_rest_follows_with_the_next_receipt(
    state: DeviceState, monkeypatch: pytest.MonkeyPatch
) -> None:
    state.keep_pending(result(), b"payload", kept(2.0))
    replace_file, done = Path.replace, []

    def one_rename(path: Path, target: Path) -> Path:
        if done:
            power_cut()
        done.append(path)
        return replace_file(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", one_rename)
        with pytest.raises(PowerCutError):
            state.settle(accepted=True)
    again = reopened(state)
    assert again.pending is not None and again.pending.result == result()
    again.settle(accepted=True)
    assert held(again) == [2.0, 12.0, 22.0]


def test_what_an_older_result_left_behind_is_not_taken_for_the_newer_ones(state: DeviceState) -> None:
    state.keep_pending(result(5), b"payload", kept(2.0))
    state.keep_pending(result(6), b"payload", {"residual": weights(3.0)})
    state.settle(accepted=True)
    assert held(state) == [3.0]


def test_another_run_drops_what_was_owed_to_the_last_and_keeps_the_tuned_model(state: DeviceState) -> None:
    state.use_run("1" * 16)
    state.keep_pending(result(), b"payload", kept(2.0) | {"tuned": weights(4.0)})
    state.settle(accepted=True)
    state.use_run("1" * 16)
    assert len(held(state)) == 3
    state.use_run("2" * 16)
    assert held(reopened(state)) == []
    assert state.kept("tuned", SPEC) is not None
    state.use_bundle("c" * 64)
    assert state.kept("tuned", SPEC) is None


def test_a_control_variate_that_the_disk_damaged_is_fetched_again(state: DeviceState) -> None:
    control = weights(5.0)
    state.keep_control(weights_digest(control), control)
    assert state.control(SPEC) is not None
    (state.directory / "control.bin").write_bytes(bytes(24))
    assert state.control(SPEC) is None
    assert state.memory.control_digest == ""
