"""The watched folder, the camera, and the model that follows the agent's switches."""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from edge_client.inference import live as live_module
from edge_client.inference.answering import Answerer
from edge_client.inference.camera import CameraError, camera_command, take_picture
from edge_client.inference.installed import ActiveModel, SlotError
from edge_client.inference.live import LiveModel
from edge_client.inference.predict import Answers
from edge_client.inference.slots import ModelSlots
from edge_client.inference.usage import UsageLog, read_usage
from edge_client.inference.watch import Camera, Results, Watcher, shoot, watch
from edge_client.wire.blobs import sha256
from tests.edge_client.inference_cases import SPEC, TABLE_SPEC, brightness_model, table_model

CODE = "from PIL import Image; import sys; Image.new('L', (8, 8), 255).save(sys.argv[1])"
SHOOTER = f'{sys.executable} -c "{CODE}"'


@pytest.fixture
def model() -> Answerer:
    return Answerer(ActiveModel(7, brightness_model(), SPEC))


def picture(path: Path, value: int) -> Path:
    Image.fromarray(np.full((20, 30), value, np.uint8)).save(path)
    return path


def watcher(folder: Path, model: Answers) -> Watcher:
    return Watcher(folder, Results(folder / "results.jsonl"), model)


def lines(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


# ---- the folder ----


def test_a_picture_is_answered_once_it_has_stayed_the_same(model: Answerer, tmp_path: Path) -> None:
    eye = watcher(tmp_path, model)
    file = tmp_path / "scan.png"
    whole = picture(tmp_path / "source.bmp", 255).read_bytes()
    (tmp_path / "source.bmp").unlink()
    file.write_bytes(whole[:100])  # a copy that is under way
    assert eye.look() == []
    file.write_bytes(whole)
    assert eye.look() == []
    (row,) = eye.look()
    assert (row.label, row.error) == ("bright", None)
    assert eye.look() == []
    assert [line["label"] for line in lines(tmp_path)] == ["bright"]


def test_a_restart_goes_on_and_a_changed_picture_is_new(model: Answerer, tmp_path: Path) -> None:
    file = picture(tmp_path / "a.png", 255)
    eye = watcher(tmp_path, model)
    eye.look(), eye.look()
    again = watcher(tmp_path, model)
    again.look()
    assert again.look() == []
    picture(file, 0)
    os.utime(file, ns=(1, 1))
    again.look()
    assert [row.label for row in again.look()] == ["dark"]


def test_a_line_that_a_power_cut_tore_is_written_again(model: Answerer, tmp_path: Path) -> None:
    picture(tmp_path / "a.png", 255)
    picture(tmp_path / "b.png", 255)
    eye = watcher(tmp_path, model)
    eye.look(), eye.look()
    results = tmp_path / "results.jsonl"
    results.write_bytes(results.read_bytes()[:-5])
    again = watcher(tmp_path, model)
    again.look()
    assert [Path(row.file).name for row in again.look()] == ["b.png"]
    assert len(lines(tmp_path)) == 2


def test_foreign_lines_and_files_are_passed_over(model: Answerer, tmp_path: Path) -> None:
    (tmp_path / "results.jsonl").write_text('not json\n{"file": 3}\n')
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / ".hidden.png").write_bytes(b"x")
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder.png").mkdir()
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    eye = watcher(tmp_path, model)
    eye.look()
    (row,) = eye.look()
    assert row.file == str(broken) and row.error


def test_rows_of_a_table_are_of_one_file(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("a,b\n1,0.5\n1,-0.5\n")
    model = Answerer(ActiveModel(3, table_model(), TABLE_SPEC))
    eye = watcher(tmp_path, model)
    eye.look()
    assert len(eye.look()) == 2
    again = watcher(tmp_path, model)
    again.look()
    assert again.look() == []


# ---- the camera ----


class AfterThreeLooks(threading.Event):
    """Waits for nothing, and is set by the third wait."""

    waits = 0

    def wait(self, _timeout: float | None = None) -> bool:
        self.waits += 1
        if self.waits == 3:
            self.set()
        return self.is_set()


def test_the_camera_takes_a_picture_at_each_look_and_the_oldest_make_room(
    model: Answerer, tmp_path: Path
) -> None:
    camera = Camera(camera_command(f"{SHOOTER} {{file}}"), keep=2)
    names = [shoot(camera, tmp_path).name for _ in range(3)]
    assert names == ["camera-000001.jpg", "camera-000002.jpg", "camera-000003.jpg"]
    assert sorted(path.name for path in tmp_path.glob("*.jpg")) == names[1:]


def test_a_camera_that_fails_does_not_end_the_watch(
    model: Answerer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    picture(tmp_path / "a.png", 255)
    stop, eye = AfterThreeLooks(), watcher(tmp_path, model)
    camera = Camera(camera_command("false {file}"))
    with caplog.at_level("WARNING"):
        assert list(watch(eye, tmp_path, stop, every_s=60.0, camera=camera)) == []
        assert caplog.text.count("false took no picture") == 3


@pytest.mark.parametrize("template", ["rpicam-still -o x.jpg", "'unfinished {file}", ""])
def test_a_command_without_a_place_for_the_file_is_refused(template: str) -> None:
    with pytest.raises(CameraError):
        camera_command(template)


def test_no_shell_runs(tmp_path: Path) -> None:
    with pytest.raises(CameraError, match="took no picture"):
        take_picture(camera_command("echo {file}; touch hacked"), tmp_path / "x.jpg")
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (("/nowhere/camera", "{file}"), "No such file"),
        ((sys.executable, "-c", "raise SystemExit('no lens')", "{file}"), "no lens"),
        ((sys.executable, "-c", "while True: pass", "{file}"), "within 0.5 s"),
    ],
)
def test_a_camera_that_fails_says_why(tmp_path: Path, command: tuple[str, ...], why: str) -> None:
    with pytest.raises(CameraError, match=why):
        take_picture(command, tmp_path / "x.jpg", timeout_s=0.5 if "within" in why else 30.0)


def test_an_earlier_picture_is_not_taken_for_this_one(tmp_path: Path) -> None:
    (tmp_path / ".camera.jpg").write_bytes(b"of somebody else: the power went before it had its name")
    with pytest.raises(CameraError, match="took no picture"):
        shoot(Camera(camera_command("true {file}")), tmp_path)
    assert list(tmp_path.glob("*.jpg")) == []


# ---- the model that answers now ----


def activate(slots: ModelSlots, version: int, sign: float) -> None:
    slots.activate(slots.stage(version, brightness_model(sign=sign), SPEC))


def test_a_switch_takes_effect_at_the_next_answer_and_answers_are_counted(tmp_path: Path) -> None:
    slots, white = ModelSlots(tmp_path), np.ones((4, 4, 1), np.float32)
    activate(slots, 1, 1.0)
    with LiveModel(tmp_path) as live:
        assert live.answer(white).probabilities[1] > 0.9
        activate(slots, 2, -1.0)
        assert live.answer(white).probabilities[1] < 0.1
        assert live.model.version == 2
        assert read_usage(tmp_path, 1).answers == 1
        slots.activate(slots.stage(3, b"no model", SPEC))  # what no gate would let through
        assert live.answer(white).probabilities[1] < 0.1
    assert read_usage(tmp_path, 2).answers == 2
    assert read_usage(tmp_path, 9).answers == 0


def test_a_model_that_could_not_be_loaded_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a program that was short of memory for a moment would answer with a model that was taken back."""
    slots, white = ModelSlots(tmp_path), np.ones((4, 4, 1), np.float32)
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(live_module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    activate(slots, 1, 1.0)
    with LiveModel(tmp_path) as live:
        activate(slots, 2, -1.0)
        with monkeypatch.context() as short:
            short.setattr(live_module, "Answerer", lambda *_, **__: (_ for _ in ()).throw(MemoryError))
            assert live.answer(white).probabilities[1] > 0.9
        assert live.answer(white).probabilities[1] > 0.9  # not at each answer
        clock.now += live_module.AGAIN_S
        assert live.answer(white).probabilities[1] < 0.1


def test_a_withdrawn_model_answers_no_more_and_the_next_one_does(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    slots, white = ModelSlots(tmp_path / "models"), np.ones((4, 4, 1), np.float32)
    activate(slots, 2, 1.0)
    folder, stop = tmp_path / "scans", threading.Event()
    folder.mkdir()
    with LiveModel(tmp_path / "models") as live:
        slots.withdraw(sha256(brightness_model(sign=1.0)))
        for asked in (lambda: live.model, lambda: live.answer(white)):
            with pytest.raises(SlotError, match="model 2 was taken back"):
                asked()
        once = SimpleNamespace(is_set=stop.is_set, wait=lambda _: stop.set())  # one look
        assert list(watch(watcher(folder, live), folder, once, every_s=0.0)) == []  # type: ignore[arg-type]
        assert "model 2 was taken back" in caplog.text
        activate(slots, 3, -1.0)
        assert live.answer(white).probabilities[1] < 0.1


def test_without_a_model_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(SlotError, match="no released model yet"):
        LiveModel(tmp_path)


def test_counts_of_two_programs_add_up_and_a_full_disk_costs_counts_only(tmp_path: Path) -> None:
    with UsageLog(tmp_path, 1) as one, UsageLog(tmp_path, 1) as other:
        one.add(answers=3)
        other.add(errors=2, unlike=1)
    usage = read_usage(tmp_path, 1)
    assert (usage.answers, usage.errors, usage.unlike) == (3, 2, 1)
    with UsageLog(tmp_path / "gone", 1) as lost:
        lost.add(answers=1)
