"""``bramble-bench report``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks.errors import BenchmarkError
from benchmarks.history import markdown
from benchmarks.output import default_history, read_results
from compression.command_line import Commands, command, count


def add_report(commands: Commands) -> None:
    """Add ``report``."""
    parser = command(
        commands,
        "report",
        _report,
        "results that --save or --history kept, as Markdown tables, and as one HTML page with plots",
        "bramble-bench report --html bench.html",
        "bramble-bench report latency.json peers.json --html bench.html",
        json="print the results as one JSON list",
    )
    parser.add_argument(
        "files", type=Path, nargs="*", metavar="FILE", help=f"of results (default: {default_history()})"
    )
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the page here")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw the newest result, as SVG, PNG or PDF"
    )
    parser.add_argument("--last", type=count, metavar="N", help="only the newest so many")


def _report(arguments: argparse.Namespace) -> int:
    files = arguments.files or [default_history()]
    results = [result for file in files for result in read_results(file)]
    results.sort(key=lambda result: str(result.get("at", "")))
    results = results[-(arguments.last or len(results)) :]
    if not results:
        raise BenchmarkError(f"{', '.join(map(str, files))}: no results")
    if arguments.html is not None or arguments.plot is not None:
        _draw(results, arguments.html, arguments.plot)
    print(json.dumps(results, indent=2) if arguments.json else markdown(results), end="")
    return 0


def _draw(results: list[dict[str, object]], page: Path | None, plot: Path | None) -> None:
    if plot is not None:
        _draw_plot(results[-1], plot)
    if page is not None:
        from benchmarks.history_page import html  # noqa: PLC0415 - imports the server's pages

        try:
            page.write_text(html(results), encoding="utf-8")
        except OSError as exc:
            raise BenchmarkError(f"{page}: {exc.strerror or exc}") from exc


def _draw_plot(result: dict[str, object], file: Path) -> None:
    try:
        from benchmarks.history_plot import draw_file  # noqa: PLC0415 - a device has no matplotlib
        from benchmarks.plot import check_plot_file  # noqa: PLC0415
    except ImportError as exc:
        raise BenchmarkError(f"plots need matplotlib, pip install 'bramble[server]': {exc}") from exc
    check_plot_file(file)
    draw_file(result, file)
