"""The one envelope of all results, how they are printed, and where they are kept.

A result is a JSON object: ``schema``, ``benchmark``, ``at`` (UTC), ``environment`` and the benchmark's own
figures. ``--save`` and ``--history`` always write it, and ``--json`` prints it; commands that compare codecs
or strategies print its rows alone, as a list. docs/benchmarks.md describes it.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.errors import BenchmarkError
from edge_client.measure.environment import facts
from edge_client.wire.measurement import Environment

SCHEMA = 1
HISTORY = "bramble/benchmarks.jsonl"
MAX_RESULT_BYTES = 64 << 20
OWN_MACHINES = ("environment", "fleet-latency")  # whose text says where its figures are from


def add_saving(parser: argparse.ArgumentParser) -> None:
    """``--save`` and ``--history``."""
    parser.add_argument(
        "--save", type=_writable, metavar="FILE", help="write the result as JSON too, for compare"
    )
    parser.add_argument(
        "--history",
        type=Path,
        nargs="?",
        const=default_history(),
        metavar="FILE",
        help=f"append the result to a file of JSON lines, for report (alone: {default_history()})",
    )


def _writable(text: str) -> Path:
    """A file that can be written, known before minutes are spent on what it is to hold."""
    file = Path(text)
    if not file.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{file.parent} is not a folder: make it first")
    if file.is_dir() or not os.access(file if file.exists() else file.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"{file} cannot be written")
    return file


def default_history() -> Path:
    """Where results are kept by the XDG base directory specification."""
    base = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(base).expanduser() / HISTORY


def emit(
    arguments: argparse.Namespace,
    kind: str,
    environment: Environment,
    plain: Mapping[str, Any],
    text: str,
    *,
    rows: str = "",
) -> int:
    """Print a result, as JSON or as text with the machine under it, and keep it where asked; 0.

    `rows` is the key of a list that JSON prints alone, each row with the machine in it: one that is cut out
    still says where it was measured.
    """
    document = envelope(kind, environment, plain)
    if arguments.json and rows:
        shared = {"benchmark": kind, "environment": document["environment"]}
        print(json.dumps([row | shared for row in document[rows]], indent=2))
    elif arguments.json:
        print(json.dumps(document, indent=2))
    else:
        print(text if kind in OWN_MACHINES else f"{text}\n\non: {environment.label}")
    _keep(arguments, document)
    return 0


def _keep(arguments: argparse.Namespace, document: Mapping[str, Any]) -> None:
    """After it was shown: a full disk costs the file, not the result."""
    try:
        if (file := getattr(arguments, "save", None)) is not None:
            file.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        if (file := getattr(arguments, "history", None)) is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("a", encoding="utf-8") as history:
                history.write(json.dumps(document) + "\n")
    except OSError as exc:
        raise BenchmarkError(f"{file}: {exc.strerror or exc}") from exc


def envelope(kind: str, environment: Environment, plain: Mapping[str, Any]) -> dict[str, Any]:
    """A result with all that makes it readable a year later."""
    return {
        "schema": SCHEMA,
        "benchmark": kind,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": facts(environment),
        **plain,
    }


def read_results(file: Path) -> list[dict[str, Any]]:
    """The results in a file that ``--save`` or ``--history`` wrote.

    Raises:
        BenchmarkError: it is missing, or not such a file.
    """
    try:
        if file.stat().st_size > MAX_RESULT_BYTES:
            raise BenchmarkError(f"{file} has more than {MAX_RESULT_BYTES} bytes: no file of results has")
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as exc:
        raise BenchmarkError(f"{file} is not text: no file of results") from exc
    except OSError as exc:
        raise BenchmarkError(f"{file}: {exc.strerror or exc}") from exc
    try:
        found = [json.loads(text)]
    except ValueError:
        found = [
            _line(file, number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()
        ]
    if not all(_is_result(result) for result in found):
        raise BenchmarkError(
            f"{file} holds no result of bramble-bench of schema {SCHEMA}: --save and --history write them"
        )
    return found


def _is_result(found: Any) -> bool:
    """Whether it is the envelope; rows are checked where they are shown."""
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        return False
    environment = found.get("environment")
    return (
        isinstance(found.get("benchmark"), str) and isinstance(environment, dict) and "label" in environment
    )


def _line(file: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as exc:
        raise BenchmarkError(f"{file}, line {number}: not JSON: {exc}") from exc
