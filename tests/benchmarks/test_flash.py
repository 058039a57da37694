"""``bramble-bench flash`` on a small image: every tool there is writes the same bytes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from benchmarks import flash as flash_module
from benchmarks import flash_image
from benchmarks.cli import main
from benchmarks.errors import BenchmarkError
from benchmarks.flash import benchmark_flash
from benchmarks.flash_image import KINDS, make_image, pack
from benchmarks.output import read_results
from provisioning.image.errors import ImageError
from provisioning.image.hashed_file import HashedFile
from provisioning.image.sources import open_image, read_image
from tests.provisioning.flashing import folder

__all__ = ["folder"]  # a fixture
MIB = 1 << 20


def quiet(_what: str, _share: float) -> None:
    pass


def test_the_image_has_its_size_its_share_of_zeros_and_a_boot_record(tmp_path: Path) -> None:
    path = tmp_path / "a.img"
    make_image(path, 65 * MIB, zeros=0.25)
    data = path.read_bytes()
    assert len(data) == 65 * MIB and data[510:512] == b"\x55\xaa"
    assert not data[512:MIB].strip(b"\0")
    for start in (MIB, 33 * MIB):
        assert data[start : start + 24 * MIB].strip(b"\0")
        assert not data[start + 24 * MIB : start + 32 * MIB].strip(b"\0")
    assert path.stat().st_blocks * 512 < 50 * MIB


def test_each_archive_holds_the_image(tmp_path: Path) -> None:
    path = tmp_path / "a.img"
    make_image(path, 9 * MIB, zeros=0.5)
    for kind in KINDS:
        program = flash_image.COMPRESSORS.get(kind, ("sh",))[0]
        if shutil.which(program) is None:
            continue
        archive = pack(path, kind)
        try:
            image = open_image(archive, no_hash=True)
        except ImageError as exc:
            pytest.skip(str(exc))  # zst without its package
        with HashedFile(archive) as file:
            assert b"".join(read_image(image, file, limit=1 << 40)) == path.read_bytes()
        assert image.kind == kind


def test_the_command_prints_what_was_promised(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "flash",
        "--size-mb",
        "9",
        "--repeats",
        "1",
        "--compression",
        "img,xz",
        "--folder",
        str(folder),
    ]
    saved = tmp_path_factory.mktemp("saved") / "flash.json"
    assert main([*arguments, "--json", "--save", str(saved)]) == 0
    document: Any = json.loads(capsys.readouterr().out)
    assert read_results(saved) == [document]
    assert document["verified"] is True and document["ours_s"] > 0
    for key, program in (("bmaptool_s", "bmaptool"), ("bmaptool_nobmap_s", "bmaptool"), ("dd_s", "dd")):
        assert (document[key] is None) == (shutil.which(program) is None)
    assert [result["compression"] for result in document["results"]] == ["img", "xz"]
    assert document["ours_s"] >= document["ours_write_s"] + document["ours_read_back_s"]
    if document["dd_s"] is not None:
        assert document["ours_against_dd"] == pytest.approx(document["dd_s"] / document["ours_s"])
    assert set(document["runs"]) == set(document["cpu_s"])
    assert list(folder.iterdir()) == []
    assert main(arguments) == 0
    assert "Ours includes reading back" in capsys.readouterr().out


def test_peers_that_are_not_installed_are_null(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name, **_: None if name in {"bmaptool", "dd"} else real(name))
    (result,) = benchmark_flash(folder, size=9 * MIB, kinds=["img"], zeros=0.3, repeats=1, report=quiet)
    assert (result.bmaptool_s, result.bmaptool_nobmap_s, result.dd_s) == (None, None, None)
    assert (result.ours_against_bmaptool, result.ours_against_dd, result.verified) == (None, None, True)


def test_a_tool_that_writes_something_else_is_not_timed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(_decompress: object, archive: Path, target: Path) -> None:
        target.write_bytes(archive.read_bytes()[:-1] + b"?")

    monkeypatch.setattr(flash_module, "_dd", wrong)
    with pytest.raises(BenchmarkError, match="dd wrote something else"):
        benchmark_flash(folder, size=9 * MIB, kinds=["img"], zeros=0.3, repeats=1, report=quiet)


def test_what_cannot_be_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["flash", "--compression", "rar"]) == 1
    assert "there are img, xz, zst, gz, zip" in capsys.readouterr().err
    assert main(["flash", "--folder", str(tmp_path / "absent")]) == 1
    assert "absent is not a folder" in capsys.readouterr().err
    assert main(["flash", "--size-mb", "1"]) == 1
    assert "at least 8" in capsys.readouterr().err
    with pytest.raises(BenchmarkError, match="MB of room"):
        benchmark_flash(tmp_path, size=1 << 60, kinds=["img"], zeros=0, repeats=1, report=quiet)
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr(flash_image, "SOURCES", (str(tmp_path / "empty"),))
    with pytest.raises(BenchmarkError, match="no program files"):
        make_image(tmp_path / "a.img", 9 * MIB, zeros=0)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BenchmarkError, match="zstd is not installed"):
        pack(tmp_path / "a.img", "zst")
