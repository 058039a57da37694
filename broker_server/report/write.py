"""Where a report ends up on disk: ``report.json`` and ``report.html`` side by side."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from broker_server.report.html import to_html
from broker_server.report.json_view import to_json
from broker_server.report.schema import RunReport


@dataclass(frozen=True, slots=True)
class ReportPaths:
    """The two files."""

    json: Path
    html: Path


def write_report(report: RunReport, directory: Path) -> ReportPaths:
    """Write both files, each whole or not at all; the JSON first, so that a plot's trouble leaves it.

    Raises:
        OSError: the directory cannot be made or written to.
    """
    directory.mkdir(parents=True, exist_ok=True)
    paths = ReportPaths(directory / "report.json", directory / "report.html")
    _write(paths.json, to_json(report))
    _write(paths.html, to_html(report))
    return paths


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f"{path.name}.part")
    with partial.open("wb") as file:
        file.write(text.encode("utf-8"))
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
