"""Images onto files: whole and read back, or without a first block."""

from __future__ import annotations

import errno
import gzip
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from provisioning.image import flash as flash_module
from provisioning.image.errors import FlashError, VerifyError
from provisioning.image.flash import Outcome, flash
from provisioning.image.hashed_file import HashedFile
from provisioning.image.plan import Destination
from provisioning.image.target import CHUNK, HELD_BACK, Target, open_target
from provisioning.image.verify import check_body, check_head
from provisioning.image.writer import BUFFERS, Content, write_body
from tests.provisioning.flashing import MIB, SIZE, flip, folder, image_bytes, looks_unfinished, make_plan

__all__ = ["folder"]  # a fixture
CHECKOUT = Path(__file__).resolve().parents[2]


def write_image(folder: Path, data: bytes, name: str = "os.img") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def only(outcomes: list[Outcome]) -> Outcome:
    (outcome,) = outcomes
    return outcome


@pytest.mark.parametrize(
    "size",
    [512, 700 * 1024 + 512, HELD_BACK, HELD_BACK + 512, CHUNK - 1, CHUNK, CHUNK + 1, SIZE, 3 * CHUNK],
)
def test_the_target_is_the_image(size: int, folder: Path) -> None:
    data = image_bytes(size)
    outcome = only(flash(make_plan(write_image(folder, data), folder / "card.img")))
    assert (outcome.state, outcome.reason, outcome.verified, outcome.bytes) == ("done", "", True, size)
    assert outcome.sha256 == hashlib.sha256(data).hexdigest()
    assert (folder / "card.img").read_bytes() == data


def test_a_larger_file_that_was_there_leaves_nothing_behind(folder: Path) -> None:
    card = folder / "card.img"
    card.write_bytes(b"\xff" * (SIZE + 5 * MIB))
    data = image_bytes()
    assert only(flash(make_plan(write_image(folder, data), card))).state == "done"
    assert card.read_bytes() == data


def test_long_zeros_are_holes_in_a_file(folder: Path) -> None:
    data = image_bytes(64 * MIB)
    flash(make_plan(write_image(folder, gzip.compress(data, 1)), folder / "card.img"))
    assert (folder / "card.img").read_bytes() == data
    assert (folder / "card.img").stat().st_blocks * 512 < 8 * MIB


def test_a_personalised_file_is_for_its_owner_alone(folder: Path) -> None:
    flash(make_plan(write_image(folder, image_bytes()), folder / "card.img"))
    assert (folder / "card.img").stat().st_mode & 0o777 == 0o600


def test_many_cards_from_one_decompression(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = image_bytes()
    plan = make_plan(write_image(folder, gzip.compress(data, 1)), *(folder / f"{n}.img" for n in range(3)))
    opened = []
    monkeypatch.setattr(
        flash_module,
        "HashedFile",
        lambda path, real=flash_module.HashedFile: opened.append(path) or real(path),
    )
    assert [outcome.state for outcome in flash(plan)] == ["done"] * 3
    assert {(folder / f"{n}.img").read_bytes() for n in range(3)} == {data}
    assert len(opened) == 1


# ---- the first block is the last ----


def test_nothing_looks_finished_before_it_is(folder: Path) -> None:
    """Personalising sees the whole image but its first bytes, which it is given."""
    data, card = image_bytes(), folder / "card.img"
    seen = []

    def personalise(destination: Destination, head: bytes) -> Callable[[], None]:
        assert destination.path == card and head == data[:HELD_BACK]
        seen.append((looks_unfinished(card), card.read_bytes()[HELD_BACK:] == data[HELD_BACK:]))
        flip(card, CHUNK)
        return lambda: seen.append((looks_unfinished(card), card.read_bytes()[CHUNK] != data[CHUNK]))

    outcome = only(flash(make_plan(write_image(folder, data), card), personalise=personalise))
    assert (outcome.state, outcome.personalised) == ("done", True)
    assert seen == [(True, True), (True, True)]
    assert card.read_bytes()[:HELD_BACK] == data[:HELD_BACK]


@pytest.mark.parametrize("when", ["writing it", "reading it again"])
def test_a_card_that_cannot_be_personalised_is_unfinished(when: str, folder: Path) -> None:
    def fail() -> None:
        raise FlashError("no room")

    def personalise(_destination: Destination, _head: bytes) -> Callable[[], None]:
        return fail if when == "reading it again" else fail()  # type: ignore[func-returns-value, return-value]

    plan = make_plan(write_image(folder, image_bytes()), folder / "card.img")
    outcome = only(flash(plan, personalise=personalise))
    assert (outcome.state, outcome.reason, outcome.personalised) == ("unfinished", "no room", False)
    assert looks_unfinished(folder / "card.img")


@pytest.mark.parametrize("damage", ["truncated", "changed", "wrong hash", "too large"])
def test_a_bad_image_leaves_nothing_that_looks_finished(
    damage: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = bytearray(gzip.compress(image_bytes(), 1))
    digest = hashlib.sha256(packed).hexdigest()
    if damage == "truncated":
        del packed[-100:]
    elif damage == "changed":
        packed[-3000] ^= 1
    elif damage == "wrong hash":
        digest = "0" * 64
    else:
        monkeypatch.setattr(flash_module, "UNLIMITED", SIZE - 1)
    plan = make_plan(write_image(folder, bytes(packed)), folder / "a.img", folder / "b.img", sha256=digest)
    outcomes = flash(plan)
    assert [(outcome.state, outcome.verified) for outcome in outcomes] == [("unfinished", False)] * 2
    assert all(outcome.reason and "os.img" in outcome.reason for outcome in outcomes)
    assert looks_unfinished(folder / "a.img") and looks_unfinished(folder / "b.img")


def test_an_image_that_cannot_be_read_any_more(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_file: HashedFile, _size: int) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    plan = make_plan(write_image(folder, image_bytes()), folder / "card.img")
    monkeypatch.setattr(HashedFile, "read", fail)
    outcome = only(flash(plan))
    assert outcome.state == "unfinished" and "Input/output" in outcome.reason


# ---- interruptions ----


@pytest.mark.parametrize("step", ["writing", "reading back", "personalising"])
def test_ctrl_c_leaves_no_first_block(step: str, folder: Path) -> None:
    def on_progress(now: str, _count: int) -> None:
        if now == step:
            raise KeyboardInterrupt

    plan = make_plan(write_image(folder, image_bytes()), folder / "card.img")
    with pytest.raises(KeyboardInterrupt):
        flash(plan, personalise=lambda _destination, _head: lambda: None, on_progress=on_progress)
    assert looks_unfinished(folder / "card.img")


KILLED = """
import os, signal, sys
from pathlib import Path
from provisioning.image.flash import flash
from tests.provisioning.flashing import make_plan
def on_progress(step, count):
    if step == sys.argv[3]:
        os.kill(os.getpid(), signal.SIGKILL)
plan = make_plan(Path(sys.argv[1]), Path(sys.argv[2]))
flash(plan, personalise=lambda *_: lambda: None, on_progress=on_progress)
"""


@pytest.mark.parametrize("step", ["writing", "reading back", "personalising"])
def test_a_killed_writer_leaves_no_first_block(step: str, folder: Path) -> None:
    card = folder / "card.img"
    card.write_bytes(image_bytes(3 * CHUNK))  # a finished card of another time
    command = [sys.executable, "-c", KILLED, str(write_image(folder, image_bytes())), str(card), step]
    result = subprocess.run(command, cwd=CHECKOUT, check=False, timeout=120)
    assert result.returncode == -signal.SIGKILL
    assert looks_unfinished(card)


class Failing(Target):
    """A target that fails at a position, as a card that is full or pulled out."""

    position = CHUNK
    error = errno.ENOSPC

    def write(self, data: memoryview, position: int) -> None:
        if position + len(data) > self.position:
            raise OSError(self.error, os.strerror(self.error))
        super().write(data, position)


@pytest.mark.parametrize(("number", "words"), [(errno.ENOSPC, "No space left"), (errno.EIO, "Input/output")])
def test_one_bad_card_holds_up_nobody(
    number: int, words: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = image_bytes()

    def open_one(path: Path, disk: None) -> Target:
        target = open_target(path, disk)
        if path.name == "bad.img":
            target.__class__ = Failing
            target.error = number  # type: ignore[attr-defined]
        return target

    monkeypatch.setattr(flash_module, "open_target", open_one)
    bad, good = flash(make_plan(write_image(folder, data), folder / "bad.img", folder / "good.img"))
    assert (good.state, (folder / "good.img").read_bytes() == data) == ("done", True)
    assert bad.state == "unfinished" and words in bad.reason and looks_unfinished(folder / "bad.img")
    alone = only(flash(make_plan(folder / "os.img", folder / "bad.img")))  # nobody is left: it ends early
    assert alone.state == "unfinished" and words in alone.reason


class Odd(Target):
    """Fails as nothing does that somebody thought of."""

    def write(self, data: memoryview, position: int) -> None:
        if position:
            raise AssertionError
        super().write(data, position)


@pytest.mark.timeout(60)
def test_an_error_of_no_known_kind_leaves_nobody_waiting_for_its_chunks(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = image_bytes() + b"x" * (BUFFERS * CHUNK)  # more than all buffers hold

    def open_one(path: Path, disk: None) -> Target:
        target = open_target(path, disk)
        if path.name == "bad.img":
            target.__class__ = Odd
        return target

    monkeypatch.setattr(flash_module, "open_target", open_one)
    bad, good = flash(make_plan(write_image(folder, data), folder / "bad.img", folder / "good.img"))
    assert (good.state, bad.state, bad.reason) == ("done", "unfinished", "AssertionError")
    assert looks_unfinished(folder / "bad.img")


def test_what_begins_once_the_cards_are_held_is_not_done_for_one_that_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []
    plan = make_plan(write_image(folder, image_bytes()), folder / "card.img")

    def begin() -> None:
        begun.append("now")

    def busy(_path: Path, _disk: None) -> Target:
        raise FlashError("in use")

    with monkeypatch.context() as patch:
        patch.setattr(flash_module, "open_target", busy)
        with pytest.raises(FlashError, match="in use"):
            flash(plan, begin=begin)
    assert begun == []
    assert only(flash(plan, begin=begin)).state == "done"
    assert begun == ["now"]


def test_a_first_block_that_does_not_read_back_is_taken_away(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(target: Target, content: Content) -> None:
        flip(target.path, 5)
        check_head(target, content)

    monkeypatch.setattr(flash_module, "check_head", damaged)
    outcome = only(flash(make_plan(write_image(folder, image_bytes()), folder / "card.img")))
    assert outcome.state == "unfinished" and "first block reads back differently" in outcome.reason
    assert looks_unfinished(folder / "card.img")


# ---- reading back ----


@pytest.fixture
def written(folder: Path) -> tuple[Path, Content]:
    """A card with everything on it but the first block."""
    target = open_target(folder / "card.img", None)
    target.blank_head()
    content, failed = write_body([image_bytes()], [target], lambda _count: None)
    target.close()
    assert failed == {}
    return folder / "card.img", content


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(position=st.integers(0, SIZE - 1))
def test_a_flipped_byte_anywhere_is_found(position: int, written: tuple[Path, Content]) -> None:
    path, content = written
    target = open_target(path, None)
    try:
        check_body(target, content, lambda _count: None)
        if position < HELD_BACK:
            target.write_head(content.head)
            check_head(target, content)
            flip(path, position)
            with pytest.raises(VerifyError, match="first block"):
                check_head(target, content)
            target.write_head(bytes(HELD_BACK))
        else:
            flip(path, position)
            start = position // CHUNK * CHUNK
            with pytest.raises(VerifyError, match=f"between bytes {start} and"):
                check_body(target, content, lambda _count: None)
            flip(path, position)
    finally:
        target.close()


def test_a_card_that_ends_too_early(written: tuple[Path, Content]) -> None:
    path, content = written
    os.truncate(path, CHUNK + 4096)
    target = open_target(path, None)
    with pytest.raises(VerifyError, match=f"ends at {CHUNK + 4096} bytes"):
        check_body(target, content, lambda _count: None)
    target.close()


def test_somebody_else_writes_to_the_first_block(written: tuple[Path, Content]) -> None:
    path, content = written
    flip(path, 100)
    target = open_target(path, None)
    with pytest.raises(VerifyError, match="something else wrote"):
        check_body(target, content, lambda _count: None)
    target.close()


def test_where_the_cache_cannot_be_bypassed_nothing_is_called_done(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def no_direct(path: str, flags: int, *mode: int) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(path, flags, *mode)

    monkeypatch.setattr(os, "open", no_direct)
    monkeypatch.setattr("provisioning.image.target.SYNC_EVERY", CHUNK)
    outcome = only(flash(make_plan(write_image(folder, image_bytes()), folder / "card.img")))
    assert outcome.state == "unfinished" and "no direct I/O" in outcome.reason
    assert looks_unfinished(folder / "card.img")
    assert (folder / "card.img").read_bytes()[HELD_BACK:] == image_bytes()[HELD_BACK:]
