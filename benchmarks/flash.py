"""Flashing an image to a file: ours, bmaptool, and a decompressor piped into dd.

Alike for all: the same archive, read into the page cache before; a target that does not exist, in the
same folder; the whole command with the start of its program; the target synced within the time. The tools
take turns, round after round, and the median counts. Ours reads the target back within its time; the
others do not read back at all.
"""

from __future__ import annotations

import filecmp
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.errors import BenchmarkError
from benchmarks.flash_image import make_image, pack
from compression.progress import Report

DECOMPRESS = {
    "img": None,
    "xz": ("xz", "-dc", "-T0"),
    "zst": ("zstd", "-dcq"),
    "gz": ("gzip", "-dc"),
    "zip": ("unzip", "-p"),
}
Tool = Callable[[Path, Path], None]  # writes an archive to a target, which it makes


@dataclass(frozen=True, slots=True)
class FlashResult:
    """Medians of seconds for one archive; None without the tool. Ratios above 1: ours is faster."""

    compression: str
    image_mb: float
    archive_mb: float
    zeros_percent: float
    image: str  # what it was made of
    file_system: str
    repeats: int
    ours_s: float  # with the read-back
    ours_write_s: float  # of it, until the target is synced
    ours_read_back_s: float  # of it
    bmaptool_s: float | None  # with the map of the image's holes
    bmaptool_nobmap_s: float | None
    dd_s: float | None  # behind the decompressor
    ours_against_bmaptool: float | None
    ours_against_dd: float | None
    verified: bool  # read back by ours, and compared byte by byte with the image after every run
    runs: dict[str, list[float]]  # seconds of each run
    cpu_s: dict[str, float]  # medians of processor seconds: what is left of the comparison on a busy machine


def benchmark_flash(
    folder: Path, *, size: int, kinds: Sequence[str], zeros: float, repeats: int, report: Report
) -> list[FlashResult]:
    """Make an image of `size` bytes in `folder`, pack it, and flash it with everything there is.

    Raises:
        BenchmarkError: too little room, or ours or another tool failed.
    """
    needed = 3 * size
    if shutil.disk_usage(folder).free < needed:
        raise BenchmarkError(f"{folder} needs {needed / 1e6:.0f} MB of room for image, archive and target")
    image = folder / "image.img"
    report("making the image", 0)
    make_image(image, size, zeros=zeros)
    results = []
    for number, kind in enumerate(kinds):
        report(f"packing {kind}", number / len(kinds))
        archive = pack(image, kind)
        share = (number / len(kinds), 1 / len(kinds))
        results.append(
            _measure(image, archive, kind, zeros=zeros, repeats=repeats, report=report, share=share)
        )
        if archive != image:
            archive.unlink()
    return results


def _measure(
    image: Path,
    archive: Path,
    kind: str,
    *,
    zeros: float,
    repeats: int,
    report: Report,
    share: tuple[float, float],
) -> FlashResult:
    ours = _Ours()
    tools = _tools(image, kind, ours)
    runs: dict[str, list[float]] = {name: [] for name in tools}
    processor: dict[str, list[float]] = {name: [] for name in tools}
    target = image.with_name("target.img")
    same = True
    for turn in range(repeats):
        for place, (name, tool) in enumerate(tools.items()):
            done = (turn * len(tools) + place) / (repeats * len(tools))
            report(f"{kind}: {name}, {turn + 1} of {repeats}", share[0] + share[1] * done)
            before = _children_cpu()
            runs[name].append(_timed(tool, archive, target))
            processor[name].append(_children_cpu() - before)
            if not filecmp.cmp(image, target, shallow=False):
                if name != "ours":
                    raise BenchmarkError(f"{name} wrote something else than the image")
                same = False
            target.unlink()
    middle = {name: statistics.median(times) for name, times in runs.items()}
    return FlashResult(
        compression=kind,
        image_mb=image.stat().st_size / 1e6,
        archive_mb=archive.stat().st_size / 1e6,
        zeros_percent=100 * zeros,
        image="program files of this machine, and zeros",
        file_system=_file_system(image),
        repeats=repeats,
        ours_s=middle["ours"],
        ours_write_s=statistics.median(ours.write_s),
        ours_read_back_s=statistics.median(ours.read_back_s),
        bmaptool_s=middle.get("bmaptool"),
        bmaptool_nobmap_s=middle.get("bmaptool without map"),
        dd_s=middle.get("dd"),
        ours_against_bmaptool=_ratio(middle.get("bmaptool"), middle["ours"]),
        ours_against_dd=_ratio(middle.get("dd"), middle["ours"]),
        verified=same and all(ours.verified),
        runs=runs,
        cpu_s={name: statistics.median(times) for name, times in processor.items()},
    )


def _ratio(theirs: float | None, ours: float) -> float | None:
    return None if theirs is None else theirs / ours


def _timed(tool: Tool, archive: Path, target: Path) -> float:
    """Seconds until the target is on the disk."""
    with archive.open("rb") as file:  # into the page cache, for every tool
        while file.read(1 << 22):
            pass
    os.sync()  # nobody pays for what another one left to be written
    start = time.perf_counter()
    tool(archive, target)
    descriptor = os.open(target, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
    return time.perf_counter() - start


def _children_cpu() -> float:
    """Processor seconds of all programs that were run and have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


# ---- the tools ----


class _Ours:
    """``bramble-provision flash`` in a process of its own, and what it says about itself."""

    def __init__(self) -> None:
        self.write_s: list[float] = []
        self.read_back_s: list[float] = []
        self.verified: list[bool] = []

    def __call__(self, archive: Path, target: Path) -> None:
        command = [sys.executable, "-m", "provisioning.cli", "flash", str(archive), "--device", str(target)]
        output = _run([*command, "--no-hash", "--yes", "--json"], cwd=Path(__file__).resolve().parents[1])
        result = json.loads(output)["results"][0]
        self.write_s.append(result["seconds"]["write"])
        self.read_back_s.append(result["seconds"]["verify"])
        self.verified.append(result["verified"] and result["state"] == "done")


def _tools(image: Path, kind: str, ours: _Ours) -> dict[str, Tool]:
    """Those that are installed, in the order in which they take turns."""
    tools: dict[str, Tool] = {"ours": ours}
    if shutil.which("bmaptool"):
        bmap = image.with_suffix(".bmap")
        _run(["bmaptool", "create", "--output", str(bmap), str(image)])
        tools["bmaptool"] = lambda archive, target: _bmaptool(archive, target, "--bmap", str(bmap))
        tools["bmaptool without map"] = lambda archive, target: _bmaptool(archive, target, "--nobmap")
    decompress = DECOMPRESS[kind]
    if shutil.which("dd") and (decompress is None or shutil.which(decompress[0])):
        tools["dd"] = lambda archive, target: _dd(decompress, archive, target)
    return tools


def _bmaptool(archive: Path, target: Path, *options: str) -> None:
    _run(["bmaptool", "--quiet", "copy", *options, str(archive), str(target)])


def _dd(decompress: Sequence[str] | None, archive: Path, target: Path) -> None:
    write = ["dd", f"of={target}", "bs=4M", "iflag=fullblock", "conv=fsync", "status=none"]
    if decompress is None:
        _run([*write, f"if={archive}"])
        return
    with subprocess.Popen([*decompress, str(archive)], stdout=subprocess.PIPE) as source:
        subprocess.run(write, stdin=source.stdout, check=True)
        if source.wait() != 0:
            raise BenchmarkError(f"{decompress[0]} failed")


def _run(command: Sequence[str], *, cwd: Path | None = None) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)
    if result.returncode != 0:
        raise BenchmarkError(f"{command[0]} failed: {(result.stderr or result.stdout)[-300:]}")
    return result.stdout


def _file_system(path: Path) -> str:
    result = subprocess.run(
        ["stat", "--file-system", "--format=%T", str(path)], capture_output=True, text=True, check=False
    )
    return result.stdout.strip() or "unknown"
