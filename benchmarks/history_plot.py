"""One result's figures as a picture of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.errors import BenchmarkError
from benchmarks.history import KINDS, Column, Result, rows_of, title_of
from broker_server.report.style import LIGHT

WIDTH_INCHES, BAR_INCHES, MARGIN_INCHES = 7.0, 0.32, 0.9


def draw_file(result: Result, file: Path) -> None:
    """One result's plots as a picture of its own, side by side; raise `BenchmarkError` if it has none."""
    kind, rows = KINDS.get(str(result["benchmark"])), rows_of(result)
    drawn = [kind.columns[index] for index in kind.drawn if kind.columns[index].values(rows)] if kind else []
    if not drawn:
        raise BenchmarkError(f"there is nothing to draw in a result of {result['benchmark']}")
    figure = Figure(
        figsize=(WIDTH_INCHES * (len(drawn) + 1) / 2, MARGIN_INCHES + BAR_INCHES * len(rows)),
        layout="constrained",
    )
    for axes, column in zip(figure.subplots(1, len(drawn), squeeze=False)[0], drawn, strict=True):
        _draw(axes, column, column.values(rows), LIGHT["series-1"])
    figure.suptitle(title_of(result), fontsize="medium")
    figure.savefig(file, metadata={"Date": None})


def _draw(axes: Axes, column: Column, values: Sequence[tuple[str, float]], colour: str) -> None:
    places, numbers = range(len(values)), [number for _, number in values]
    axes.barh(places, numbers, color=colour)
    for place, number in zip(places, numbers, strict=True):
        axes.text(number, place, f" {format(number, column.form)}", va="center")
    axes.set_yticks(places, [name for name, _ in values])
    axes.invert_yaxis()
    axes.margins(x=0.35)
    axes.set_xlim(left=0)
    axes.set_xlabel(column.header)
