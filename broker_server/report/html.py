"""The closing report as one page: no script, no network, nothing but this file."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from broker_server.report import words
from broker_server.report.calibration_grid import calibration_grid
from broker_server.report.markup import append, element, page
from broker_server.report.plots import Plot, Series, plots
from broker_server.report.schema import RunReport
from broker_server.report.style import STYLE
from broker_server.report.tables import (
    Grid,
    clients_grid,
    confusion_grid,
    examples_grid,
    facts,
    fairness_grid,
    incidents_grid,
    models_grid,
    release_grid,
    rounds_grid,
    traffic_grid,
)
from broker_server.report.verdict import Finding, verdict

MAX_UNBROKEN = 28  # characters of a cell that stay on one line
_MARKS = {"good": ("✓", "good: "), "neutral": ("–", "note: "), "bad": ("!", "bad: ")}


def to_html(report: RunReport) -> str:
    """The whole page."""
    drawn = plots(report)
    learning = [_figure(plot) for plot in drawn if plot.title.endswith("by round")]
    other = [_figure(plot) for plot in drawn if not plot.title.endswith("by round")]
    main = element(
        "main",
        _head(report),
        _verdict(report),
        _tiles(report),
        _section("Learning and traffic", _side_by_side(*learning, _table(traffic_grid(report)))),
        _section(
            "Models",
            _table(models_grid(report)),
            *([_table(calibration_grid(report))] if report.calibration else []),
            _table(confusion_grid(report), heat=True),
        ),
        _section(
            "Devices",
            _table(clients_grid(report)),
            _table(fairness_grid(report)),
            _table(release_grid(report)),
            _side_by_side(_table(examples_grid(report), heat=True), *other),
        ),
        _section("Rounds", _table(rounds_grid(report))),
        _section("Incidents", _incidents(report)),
        _section("How it was run", _facts(facts(report))),
    )
    footer = element("footer", "Made by Bramble from the figures of report.json, which is beside this page.")
    return page(f"Bramble run on {report.dataset}", STYLE, element("body", main, footer))


def _head(report: RunReport) -> ET.Element:
    parts = [
        words.plural(report.devices, "device"),
        words.plural(len(report.rounds), "round"),
        words.seconds(report.wall_s),
        *([report.started] if report.started else []),
    ]
    header = element(
        "header",
        element("h1", f"Bramble run on {report.dataset}"),
        element("p", ", ".join(parts) + ".", class_="quiet"),
    )
    if report.simulated_note:
        append(header, element("p", element("strong", "Simulated. "), report.simulated_note))
    return header


def _verdict(report: RunReport) -> ET.Element:
    items = (_finding(finding) for finding in verdict(report))
    return element("ul", *items, class_="verdict", aria_label="Verdict")


def _finding(finding: Finding) -> ET.Element:
    mark, spoken = _MARKS[finding.tone]
    return element("li", element("b", mark, role="img", aria_label=spoken), finding.text, class_=finding.tone)


def _tiles(report: RunReport) -> ET.Element:
    peaks = [client.peak_rss_mb for client in report.clients if client.peak_rss_mb is not None]
    tiles = (
        ("Accuracy, float32", words.share(report.final.accuracy)),
        ("Accuracy, int8", words.share(report.final.int8_accuracy)),
        ("AUC, float32", words.share(report.final.auc)),
        ("Highest device memory", words.megabytes(max(peaks, default=None))),
        ("Sent, device and round", words.size(report.bytes.up_per_client_round)),
        ("Received, device and round", words.size(report.bytes.down_per_client_round)),
        ("float32 model", words.size(report.model.float32_bytes)),
        ("int8 model", words.size(report.model.int8_bytes)),
    )
    return element(
        "dl",
        *(element("div", element("dt", name), _cell("dd", value, False)) for name, value in tiles),
        class_="tiles",
    )


def _section(title: str, *children: ET.Element) -> ET.Element:
    return element("section", element("h2", title), *children)


def _side_by_side(*children: ET.Element) -> ET.Element:
    return element("div", *children, class_="pairs")


def _figure(plot: Plot) -> ET.Element:
    figure = element("figure", element("h3", plot.title))
    if plot.legend:
        append(figure, element("ul", *(_legend_entry(s) for s in plot.legend), class_="legend"))
    append(figure, plot.svg)
    append(figure, element("figcaption", plot.caption))
    return figure


def _legend_entry(series: Series) -> ET.Element:
    line = element(
        "line",
        x1="0",
        y1="6",
        x2="36",
        y2="6",
        stroke_width="2.5",
        style=f"stroke:var(--{series.colour})",
        stroke_dasharray=" ".join(str(2 * length) for length in series.dash) or "none",
    )
    return element("li", element("svg", line, viewBox="0 0 36 12", aria_hidden="true"), series.label)


def _table(grid: Grid, *, heat: bool = False) -> ET.Element:
    """A table that scrolls by itself where it is too wide; with `heat`, counts are shaded by row."""
    if not grid.rows:
        return element("p", f"{grid.title}: {grid.note or 'none'}.")
    name = f"table-{grid.title.lower().replace(' ', '-')}"
    columns = zip(grid.headers, grid.numeric, strict=True)
    heads = (_cell("th", head, number, scope="col") for head, number in columns)
    table = element(
        "table",
        element("thead", element("tr", *heads)),
        element("tbody", *(_row(row, grid.numeric, heat=heat) for row in grid.rows)),
        aria_labelledby=name,
    )
    scroll = element("div", table, class_="scroll", role="region", aria_labelledby=name, tabindex="0")
    note = [element("p", grid.note, class_="note")] if grid.note else []
    return element("div", element("h3", grid.title, id=name), scroll, *note, class_="table")


def _row(row: tuple[str, ...], numeric: tuple[bool, ...], *, heat: bool) -> ET.Element:
    head = _cell("th", row[0], numeric[0], scope="row")
    if heat:
        counts = [int(cell.replace(",", "")) for cell in row[1:]]
        shares = [count / max(1, sum(counts)) for count in counts]
        cells = [_heat_cell(cell, share) for cell, share in zip(row[1:], shares, strict=True)]
    else:
        cells = [_cell("td", cell, number) for cell, number in zip(row[1:], numeric[1:], strict=True)]
    return element("tr", head, *cells)


def _cell(tag: str, text: str, number: bool, **attributes: str) -> ET.Element:
    kinds = {"number": number, "text": len(text) > MAX_UNBROKEN, "quiet": text == words.NOT_MEASURED}
    if chosen := " ".join(kind for kind, holds in kinds.items() if holds):
        attributes["class_"] = chosen
    return element(tag, text, **attributes)


def _heat_cell(text: str, share: float) -> ET.Element:
    return element("td", text, class_="number heat", style=f"--share:{share:.3f}")


def _incidents(report: RunReport) -> ET.Element:
    if not report.incidents:
        return element("p", "None was recorded.")
    return _table(incidents_grid(report))


def _facts(pairs: tuple[tuple[str, str], ...]) -> ET.Element:
    items = [child for name, value in pairs for child in (element("dt", name), element("dd", value))]
    return element("dl", *items, class_="facts")
