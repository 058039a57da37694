"""A history of results as one self-contained HTML page: tables, and bars drawn into the page as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.errors import BenchmarkError
from benchmarks.history import KINDS, Column, Result, rows_of, title_of
from broker_server.report.markup import element, page
from broker_server.report.style import LIGHT, STYLE
from broker_server.report.svg import COLOURS, drawing, to_svg

WIDTH_INCHES, BAR_INCHES, MARGIN_INCHES = 7.0, 0.32, 0.9
ENVIRONMENT = (
    "label",
    "processor",
    "cores",
    "system",
    "kernel",
    "governor",
    "temperature_c",
    "load_1min",
    "python",
)


def html(results: Sequence[Result], title: str = "bramble-bench") -> str:
    """The page; the newest result first."""
    sections = [_section(number, result) for number, result in enumerate(reversed(results))]
    return page(title, STYLE, element("body", element("h1", title), *sections))


def _section(number: int, result: Result) -> ET.Element:
    section = element("section", element("h2", title_of(result)))
    if result.get("verdict"):
        section.extend(element("p", line) for line in str(result["verdict"]).splitlines())
    kind, rows = KINDS.get(str(result["benchmark"])), rows_of(result)
    if kind is not None and rows:
        figures = [_bars(kind.columns[index], rows, f"r{number}c{index}") for index in kind.drawn]
        section.append(element("div", *[figure for figure in figures if figure is not None], class_="pairs"))
        section.append(_table(kind.columns, rows))
    environment = result["environment"]
    facts = element("dl", class_="facts")
    for name in ENVIRONMENT:
        facts.append(element("dt", name))
        facts.append(element("dd", str(environment.get(name, "unknown"))))
    for name, version in environment.get("packages", {}).items():
        facts.append(element("dt", str(name)))
        facts.append(element("dd", str(version)))
    whose = "the workstation" if isinstance(result.get("devices"), list) else "the machine"
    section.append(element("details", element("summary", whose), facts))
    return section


def _table(columns: Sequence[Column], rows: Sequence[tuple[str, Result]]) -> ET.Element:
    head = element(
        "tr", element("th", ""), *[element("th", column.header, class_="number") for column in columns]
    )
    body = element("tbody")
    for name, row in rows:
        cells = [element("td", column.cell(row), class_="number") for column in columns]
        body.append(element("tr", element("th", name, scope="row"), *cells))
    return element("div", element("table", element("thead", head), body), class_="table scroll")


def _bars(column: Column, rows: Sequence[tuple[str, Result]], prefix: str) -> ET.Element | None:
    values = column.values(rows)
    if not values:
        return None
    with drawing():
        figure = Figure(figsize=(WIDTH_INCHES, MARGIN_INCHES + BAR_INCHES * len(values)))
        _draw(figure.subplots(), column, values, COLOURS["series-1"])
        words = ", ".join(f"{name} {format(number, column.form)}" for name, number in values)
        svg = to_svg(figure, prefix=prefix, label=f"{column.header}: {words}")
    return element("figure", element("figcaption", column.header), svg)


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
