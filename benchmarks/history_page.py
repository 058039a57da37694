"""A history of results as one self-contained HTML page: words, bars and tables, newest first.

Bars are drawn as SVG of the page's own width beside their names, so that they can be read on a telephone too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from xml.etree import ElementTree as ET

from benchmarks.history import KINDS, Column, Kind, Result, common_words, rows_of, where_of
from broker_server.report.markup import element, page
from broker_server.report.style import STYLE

BARS = """
.bars { display: grid; grid-template-columns: minmax(4rem, max-content) minmax(5rem, 1fr) max-content;
  gap: .25rem .7rem; align-items: center; font-size: .875rem; max-width: 34rem; margin: .3rem 0 1rem }
.bars svg { display: block; width: 100%; max-width: none; height: .85rem }
.bars rect { fill: var(--series-1) }
.bars b { font-weight: 400; text-align: right; font-variant-numeric: tabular-nums }
h2 + p { margin-top: 0 }
summary { cursor: pointer; padding: .3rem 0 }
@media (max-width: 30rem) {
  .bars { grid-template-columns: minmax(5rem, 1fr) max-content }
  .bars span { grid-column: 1 / -1; margin-top: .2rem }
}
"""
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
MOST_OPS = 12


def html(results: Sequence[Result], title: str = "bramble-bench") -> str:
    """The page."""
    sections = [_section(result) for result in reversed(results)]
    return page(title, STYLE + BARS, element("body", element("h1", title), *sections))


def _section(result: Result) -> ET.Element:
    where = ", ".join([_moment(result), where_of(result), *common_words(result)])
    section = element("section", element("h2", str(result["benchmark"])), element("p", where, class_="quiet"))
    section.extend(element("p", line) for line in str(result.get("verdict") or "").splitlines())
    kind, rows = KINDS.get(str(result["benchmark"])), rows_of(result)
    if kind is not None and rows:
        section.append(element("div", *_figures(kind, rows), class_="pairs"))
        section.append(_table(["", *[column.header for column in kind.columns]], _cells(kind.columns, rows)))
    section.extend(_ops(each) for each in result.get("operators") or () if isinstance(each, Mapping))
    section.append(_machine(result))
    return section


def _moment(result: Result) -> str:
    """To the minute, as UTC."""
    try:
        return f"{datetime.fromisoformat(str(result['at'])):%Y-%m-%d %H:%M} UTC"
    except (LookupError, ValueError):
        return "at an unknown time"


def _cells(columns: Sequence[Column], rows: Sequence[tuple[str, Result]]) -> list[list[str]]:
    return [[name, *[column.cell(row) for column in columns]] for name, row in rows]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> ET.Element:
    """The first cell of a row names it, the others are numbers."""
    head = element(
        "tr", element("th", header[0]), *[element("th", each, class_="number") for each in header[1:]]
    )
    body = element("tbody")
    for name, *cells in rows:
        numbers = [element("td", cell, class_="number") for cell in cells]
        body.append(element("tr", element("th", name, scope="row"), *numbers))
    return element("div", element("table", element("thead", head), body), class_="table scroll", tabindex="0")


def _figures(kind: Kind, rows: Sequence[tuple[str, Result]]) -> list[ET.Element]:
    """The rows side by side; of one row alone, those of its figures that have one unit."""
    if len(rows) == 1:
        [(name, row)] = rows
        columns = [kind.columns[index] for index in kind.alike]
        drawn = [(name, [(each.header, each.number(row), each.cell(row)) for each in columns])]
    else:
        columns = [kind.columns[index] for index in kind.drawn]
        drawn = [(c.header, [(name, c.number(row), c.cell(row)) for name, row in rows]) for c in columns]
    return [figure for title, bars in drawn if (figure := _bars(title, bars)) is not None]


def _bars(title: str, named: Sequence[tuple[str, float | None, str]]) -> ET.Element | None:
    """The table below says the same in numbers, so nobody has to be read the bars."""
    known = [(name, max(number, 0.0), cell) for name, number, cell in named if number is not None]
    largest = max((number for _, number, _ in known), default=0.0)
    if len(known) < 2 or largest <= 0:
        return None
    bars = element("div", class_="bars", aria_hidden="true")
    for name, number, cell in known:
        bar = element("rect", width=f"{100 * number / largest:.2f}", height="1")
        drawn = element("svg", bar, viewBox="0 0 100 1", preserveAspectRatio="none")
        bars.extend([element("span", name), drawn, element("b", cell)])
    return element("figure", element("figcaption", title), bars)


def _ops(times: Mapping[str, Any]) -> ET.Element:
    """What `compression.op_times` found out about one file."""
    name = str(times.get("model", "?"))
    if "skipped" in times:
        return element("p", f"{name}, by op: skipped, {times['skipped']}", class_="note")
    total, whole = float(times["sum_ms"]), times.get("whole_ms")
    said = f", {100 * total / whole:.0f} % of the whole" if whole else ""
    ops = [(op["what"], op["count"], op["count"] * op["ms"]) for op in times["ops"][:MOST_OPS]]
    rows = [[what, str(count), f"{ms:.3g}", f"{100 * ms / total:.0f} %"] for what, count, ms in ops]
    how = [name, f"{times.get('threads')} thr.", *([] if times.get("xnnpack") else ["no XNNPACK"])]
    summary = element("summary", f"{', '.join(how)}, by op: {total:.3g} ms in all{said}")
    note = element("p", str(times.get("method", "")), class_="note")
    return element("details", summary, note, _table(["", "ops", "ms", "share"], rows))


def _machine(result: Result) -> ET.Element:
    environment = result["environment"]
    facts = element("dl", class_="facts")
    known = {name: environment.get(name) for name in ENVIRONMENT} | dict(environment.get("packages") or {})
    for name, value in known.items():
        shown = "unknown" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
        facts.extend([element("dt", name), element("dd", shown)])
    whose = "the workstation" if isinstance(result.get("devices"), list) else "the machine"
    opened = {"open": "open"} if result["benchmark"] == "environment" else {}
    return element("details", element("summary", whose), facts, **opened)
