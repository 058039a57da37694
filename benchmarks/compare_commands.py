"""``bramble-bench compare``."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.bootstrap import FLOOR
from benchmarks.changes import Comparison, compare_results, verdict
from benchmarks.errors import BenchmarkError
from benchmarks.output import read_results
from compression.command_line import Commands, command, percent
from compression.text_table import text_table


def add_compare(commands: Commands) -> None:
    """Add ``compare``."""
    parser = command(
        commands,
        "compare",
        _compare,
        "what changed between two results beyond the noise: a bootstrap interval of the raw samples",
        "bramble-bench compare before.json after.json",
    )
    parser.add_argument("before", type=Path, help="a file that --save wrote")
    parser.add_argument("after", type=Path, help="another one, of the same command")
    parser.add_argument(
        "--floor",
        type=percent,
        default=FLOOR,
        metavar="PERCENT",
        help="changes of a time up to this are none: runs of one program differ (default: 10)",
    )


def _compare(arguments: argparse.Namespace) -> int:
    before, after = (_only(file) for file in (arguments.before, arguments.after))
    comparison = compare_results(before, after, floor=arguments.floor)
    words = verdict(comparison)
    if arguments.json:
        plain = asdict(comparison) | {"changed": comparison.changed, "verdict": words}
        print(json.dumps(plain, indent=2))
    else:
        print(f"{_text(comparison)}\n\n{words}")
    return 0


def _only(file: Path) -> dict[str, Any]:
    """The newest of a file's results."""
    found = read_results(file)
    if not found:
        raise BenchmarkError(f"{file} holds no result")
    return found[-1]


def _text(comparison: Comparison) -> str:
    rows = [
        [
            each.what,
            f"{each.before:.4g}",
            f"{each.after:.4g}",
            f"{each.change.ratio:.3f}",
            f"{each.change.low:.3f} to {each.change.high:.3f}",
            each.note or ("CHANGED" if each.change.changed else "same"),
        ]
        for each in comparison.differences
    ]
    interval = f"{100 * comparison.confidence:g} % interval"
    return text_table([comparison.benchmark, "before", "after", "ratio", interval, ""], rows)
