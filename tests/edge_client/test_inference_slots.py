"""Switching models: whole or not at all, whatever ends the process, and always a way back."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edge_client import files
from edge_client.inference.installed import ActiveModel, SlotError
from edge_client.inference.slots import POINTER, ModelSlots
from edge_client.wire.blobs import sha256
from tests.edge_client.inference_cases import SPEC
from tests.edge_client.inference_killed import NEW_MODEL

CHECKOUT = Path(__file__).resolve().parents[2]
HERE = {"PYTHONPATH": str(CHECKOUT)}


@pytest.fixture
def slots(tmp_path: Path) -> ModelSlots:
    return ModelSlots(tmp_path / "models")


def put(slots: ModelSlots, version: int) -> bytes:
    tflite = b"model %d " % version * 100
    slots.activate(slots.stage(version, tflite, SPEC, manifest=b"signed %d" % version))
    return tflite


def folders(directory: Path) -> list[Path]:
    return sorted(entry for entry in directory.iterdir() if entry.is_dir())


def test_there_is_no_model_at_first(slots: ModelSlots) -> None:
    assert slots.active() is None
    assert slots.previous() is None
    assert slots.active_version() == 0
    with pytest.raises(SlotError, match="no previous model"):
        slots.rollback()


def test_what_is_staged_does_not_answer_before_it_is_activated(slots: ModelSlots) -> None:
    first = put(slots, 1)
    staged = slots.stage(2, b"second", SPEC)
    assert slots.active() == ActiveModel(1, first, SPEC, b"signed 1")
    slots.activate(staged)
    assert slots.active() == ActiveModel(2, b"second", SPEC)
    assert slots.active_version() == 2


def test_the_previous_model_is_kept_and_no_other(slots: ModelSlots, tmp_path: Path) -> None:
    models = [put(slots, version) for version in (1, 2, 3)]
    assert slots.previous() == ActiveModel(2, models[1], SPEC, b"signed 2")
    assert len(folders(tmp_path / "models")) == 2


def test_rolling_back_twice_comes_back(slots: ModelSlots) -> None:
    put(slots, 1)
    put(slots, 2)
    assert slots.rollback().version == 1
    assert slots.active_version() == 1
    assert slots.rollback().version == 2
    assert slots.active_version() == 2


def test_the_only_model_is_withdrawn_and_nothing_is_left_of_it(slots: ModelSlots, tmp_path: Path) -> None:
    digest = sha256(put(slots, 2))
    assert not slots.withdraw(sha256(b"another")) and slots.active_version() == 2
    assert slots.withdraw(digest)
    assert slots.active() is None and slots.active_version() == 0 and slots.previous() is None
    assert folders(tmp_path / "models") == []
    assert slots.why_none() == "no model is active: model 2 was taken back, and there is none before it"
    assert not slots.withdraw(digest)
    put(slots, 3)
    assert slots.active_version() == 3 and slots.previous() is None
    (tmp_path / "models" / POINTER).unlink()
    assert "no released model yet" in slots.why_none()


def test_what_is_withdrawn_leaves_the_model_before_it(slots: ModelSlots) -> None:
    put(slots, 1)
    assert slots.withdraw(sha256(put(slots, 2)))
    assert slots.active_version() == 1 and slots.previous() is None


def test_a_release_offered_again_changes_nothing(slots: ModelSlots) -> None:
    put(slots, 1)
    put(slots, 2)
    put(slots, 2)
    previous = slots.previous()
    assert previous is not None and previous.version == 1


def test_the_same_file_with_another_manifest_is_another_installation(slots: ModelSlots) -> None:
    tflite = put(slots, 1)
    slots.activate(slots.stage(1, tflite, SPEC, manifest=b"signed anew"))
    model = slots.active()
    assert model is not None and model.manifest == b"signed anew"


def test_a_file_with_another_hash_is_not_staged(slots: ModelSlots) -> None:
    with pytest.raises(SlotError, match="not the file that was signed"):
        slots.stage(1, b"tampered", SPEC, digest=sha256(b"signed"))
    assert slots.stage(1, b"signed", SPEC, digest=sha256(b"signed"))


@pytest.mark.parametrize("name", ["model.tflite", "spec.json", "manifest", "installed.json"])
@pytest.mark.parametrize("damage", ["change", "cut", "remove"])
def test_a_staged_model_that_is_damaged_is_not_activated(
    slots: ModelSlots, tmp_path: Path, name: str, damage: str
) -> None:
    put(slots, 1)
    staged = slots.stage(2, b"second model", SPEC, manifest=b"signed 2")
    hurt(tmp_path / "models" / staged / name, damage)
    with pytest.raises(SlotError):
        slots.activate(staged)
    assert slots.active_version() == 1


@pytest.mark.parametrize("name", ["model.tflite", "spec.json", "manifest", "installed.json"])
def test_the_previous_model_answers_for_one_that_the_disk_has_damaged(
    slots: ModelSlots, tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    put(slots, 1)
    put(slots, 2)
    for folder in folders(tmp_path / "models"):
        if folder.name.startswith("2-"):
            hurt(folder / name, "change")
    assert slots.active_version() == 1
    assert "model 1 answers instead" in caplog.text
    put(slots, 2)  # sent again, it is whole again
    assert slots.active_version() == 2


def test_with_both_damaged_the_error_names_both(slots: ModelSlots, tmp_path: Path) -> None:
    put(slots, 1)
    put(slots, 2)
    for folder in folders(tmp_path / "models"):
        hurt(folder / "model.tflite", "change")
    with pytest.raises(SlotError, match=r"2-[0-9a-f]{12}.*1-[0-9a-f]{12}"):
        slots.active()
    assert slots.active_version() == 0
    assert slots.previous() is None
    with pytest.raises(SlotError, match="not the one that was installed"):
        slots.rollback()


def test_a_damaged_pointer_means_no_model_and_says_so(
    slots: ModelSlots, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(slots, 1)
    (tmp_path / "models" / POINTER).write_bytes(b'{"active":"../../etc"}')
    assert slots.active() is None
    assert "cannot be used" in caplog.text


def test_a_full_disk_leaves_both_models_and_gives_its_space_back(
    slots: ModelSlots, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(slots, 1)
    put(slots, 2)
    before = folders(tmp_path / "models")

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            slots.stage(3, b"third", SPEC)
    assert folders(tmp_path / "models") == before
    assert slots.active_version() == 2
    put(slots, 3)
    assert slots.active_version() == 3


@pytest.mark.parametrize(("operation", "before", "after"), [("install", 2, 3), ("roll_back", 2, 1)])
def test_killed_before_any_step_a_whole_model_answers(
    tmp_path: Path, operation: str, before: int, after: int
) -> None:
    seed = ModelSlots(tmp_path / "seed")
    put(seed, 1)
    put(seed, 2)
    script = Path(__file__).with_name("inference_killed.py")
    ran = subprocess.run(
        [sys.executable, script, tmp_path, operation],
        env=os.environ | HERE,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    last, seen = int(ran.stdout), []
    for number in range(1, last + 1):
        slots = ModelSlots(tmp_path / str(number))
        model, previous = slots.active(), slots.previous()
        assert model is not None and previous is not None
        assert previous.version != model.version
        assert model.version != 3 or (model.tflite, model.manifest) == (NEW_MODEL, b"signed 3")
        seen.append(model.version)
        assert slots.rollback().version == previous.version  # there is a way back from every state
        put(slots, 4)  # and forward
        assert slots.active_version() == 4
        assert len(folders(tmp_path / str(number))) == 2  # what the killed process left is gone
    switched = seen.index(after)
    assert set(seen[:switched]) == {before}
    assert set(seen[switched:]) == {after}
    assert last > (20 if operation == "install" else 4)  # the steps were counted at all


def test_killed_while_it_writes_a_large_model(tmp_path: Path) -> None:
    """Here the moment is the kernel's: the child switches for ever and is killed as it speaks."""
    slots = ModelSlots(tmp_path / "models")
    put(slots, 1)
    code = (
        "import itertools, sys\n"
        "from pathlib import Path\n"
        "from edge_client.inference.slots import ModelSlots\n"
        "from tests.edge_client.inference_cases import SPEC\n"
        "slots = ModelSlots(Path(sys.argv[1]))\n"
        "for version in itertools.count(2):\n"
        "    slot = slots.stage(version, bytes([version % 256]) * (1 << 22), SPEC)\n"
        "    print('staged', flush=True)\n"
        "    slots.activate(slot)\n"
        "    print('active', flush=True)\n"
    )
    for spoken in (1, 2, 3, 4):
        child = subprocess.Popen(
            [sys.executable, "-c", code, tmp_path / "models"],
            env=os.environ | HERE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert child.stdout is not None
        for _ in range(spoken):
            child.stdout.readline()
        child.kill()
        assert child.wait(timeout=30) == -signal.SIGKILL
        child.stdout.close()
        model = slots.active()
        assert model is not None
        assert model.version == 1 or set(model.tflite) == {model.version % 256}


def test_a_reader_beside_a_writer_always_finds_a_model(tmp_path: Path) -> None:
    slots = ModelSlots(tmp_path / "models")
    put(slots, 1)
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from edge_client.inference.slots import ModelSlots\n"
        "from tests.edge_client.inference_cases import SPEC\n"
        "slots = ModelSlots(Path(sys.argv[1]))\n"
        "for version in range(2, 40):\n"
        "    slots.activate(slots.stage(version, bytes([version]) * 1000, SPEC))\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, tmp_path / "models"], env=os.environ | HERE)
    seen = set()
    while writer.poll() is None:
        model = slots.active()
        assert model is not None
        seen.add(model.version)
    assert writer.returncode == 0
    assert len(seen) > 1


def hurt(path: Path, damage: str) -> None:
    """Damage a file as a disk or a person would."""
    if damage == "remove":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(bytes(data))
