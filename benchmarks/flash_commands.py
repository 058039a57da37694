"""``bramble-bench flash``."""

from __future__ import annotations

import argparse
import importlib
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.errors import BenchmarkError
from benchmarks.flash import FlashResult, benchmark_flash
from benchmarks.flash_image import KINDS
from benchmarks.output import add_saving, emit
from compression.command_line import Commands, command, count, names, number
from compression.progress import progress_bar
from compression.text_table import text_table
from edge_client.measure.environment import read_environment

SMALLEST_MB = 8


def add_flash(commands: Commands) -> None:
    """Add ``flash``."""
    parser = command(
        commands,
        "flash",
        run_flash,
        "write an image to a file with `bramble-provision flash`, with bmaptool and with dd",
        "bramble-bench flash --size-mb 1024 --compression xz,zst --json",
        json="print JSON: the first compression's figures, and all of them in `results`",
    )
    parser.add_argument("--size-mb", type=count, default=1024, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--compression",
        type=names,
        default=("xz",),
        metavar="A,B",
        help=f"of {', '.join(KINDS)} (default: xz)",
    )
    parser.add_argument(
        "--zeros",
        type=_percent,
        default=0.3,
        metavar="PERCENT",
        help="share of the image that is empty (default: 30)",
    )
    parser.add_argument(
        "--repeats", type=count, default=3, metavar="N", help="the median counts (default: %(default)s)"
    )
    parser.add_argument(
        "--folder",
        type=Path,
        metavar="FOLDER",
        help="where image and targets lie while it lasts (default: the system's temporary folder)",
    )
    add_saving(parser)


def run_flash(arguments: argparse.Namespace) -> int:
    for kind in arguments.compression:
        if kind not in KINDS:
            raise BenchmarkError(f"no compression is called {kind!r}; there are {', '.join(KINDS)}")
    if arguments.size_mb < SMALLEST_MB:
        raise BenchmarkError(f"--size-mb must be at least {SMALLEST_MB}")
    if arguments.folder is not None and not arguments.folder.is_dir():
        raise BenchmarkError(f"--folder {arguments.folder} is not a folder: make it first")
    importlib.import_module("provisioning.flash_commands")  # what it needs is missed here, not in a child
    environment = read_environment()
    with (
        tempfile.TemporaryDirectory(prefix="bramble-flash-", dir=arguments.folder) as folder,
        progress_bar() as report,
    ):
        results = benchmark_flash(
            Path(folder),
            size=arguments.size_mb << 20,
            kinds=arguments.compression,
            zeros=arguments.zeros,
            repeats=arguments.repeats,
            report=report,
        )
    rows = [asdict(result) for result in results]
    emit(arguments, "flash", environment, {**rows[0], "results": rows}, flash_text(results))
    return 0 if all(result.verified for result in results) else 1


def flash_text(results: Sequence[FlashResult]) -> str:
    """A table for people."""
    header = (
        "image",
        "ours",
        "write",
        "read back",
        "bmaptool",
        "no map",
        "dd",
        "x bmaptool",
        "x dd",
        "verified",
    )
    rows = []
    for each in results:
        times = (each.ours_s, each.ours_write_s, each.ours_read_back_s)
        peers = (each.bmaptool_s, each.bmaptool_nobmap_s, each.dd_s)
        ratios = (each.ours_against_bmaptool, each.ours_against_dd)
        rows.append(
            (
                each.compression,
                *(f"{value:.2f} s" for value in times),
                *("-" if value is None else f"{value:.2f} s" for value in peers),
                *("-" if value is None else f"{value:.2f}" for value in ratios),
                "yes" if each.verified else "NO",
            )
        )
    first = results[0]
    return (
        f"{first.image_mb:.0f} MB ({first.image}: {first.zeros_percent:.0f} %) to a file on "
        f"{first.file_system}; medians of {first.repeats}, sync included.\n"
        f"Ours includes reading back, which the others do not do. x: how many times faster ours is.\n\n"
        f"{text_table(header, rows)}"
    )


def _percent(text: str) -> float:
    return number(text.rstrip("%"), 0, 95, "a percentage from 0 to 95") / 100
