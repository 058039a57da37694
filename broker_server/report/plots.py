"""What the page's plots show: series picked from a report, drawn with axes, units and a caption."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as ET

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from broker_server.report import words
from broker_server.report.schema import RunReport
from broker_server.report.svg import COLOURS, drawing, to_svg

SIZE_INCHES = (4.9, 3.0)  # 353 points wide: text of 11 stays readable where a phone shows it at 330
MAX_LATENCY_ROWS = 30  # with more devices than this the table is the better view
MAX_MARKERS = 40  # rounds; beyond this markers touch
OFF_CHART = 1e18  # a loss that has diverged this far has left the paper, and matplotlib's arithmetic
_MARKERS = {"series-1": "o", "series-2": "s", "series-3": "D", "series-4": "^"}


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a plot; a level has one value and runs across the whole plot."""

    label: str
    colour: str  # a name of the style sheet's
    points: tuple[tuple[int, float], ...]
    dash: tuple[int, ...] = ()  # lengths of strokes and gaps; empty is solid
    level: bool = False


@dataclass(frozen=True, slots=True)
class Plot:
    """A drawing and what the page writes around it."""

    title: str
    caption: str
    svg: ET.Element
    legend: tuple[Series, ...]


def plots(report: RunReport) -> tuple[Plot, ...]:
    """Every plot for which something was measured."""
    with drawing():
        made = (_accuracy(report), _loss(report), _traffic(report), _latency(report))
    return tuple(plot for plot in made if plot is not None)


def _accuracy(report: RunReport) -> Plot | None:
    held_out = _by_round(report, "held-out examples", "series-1", [r.accuracy for r in report.rounds])
    series = (
        *held_out,
        *_on_devices(report),
        *_level("centralised", "series-2", report.centralised.accuracy, (7, 3)),
        *_level("each client alone, mean", "series-3", report.local_only.accuracy_mean, (3, 2)),
    )
    caption = "Share of examples that the global model names rightly after each round."
    return _lines("Accuracy by round", "accuracy (share)", series, caption, "accuracy")


def _on_devices(report: RunReport) -> tuple[Series, ...]:
    values = [r.federated_accuracy for r in report.rounds]
    return _by_round(report, "devices' own examples", "series-4", values, (1, 2))


def _loss(report: RunReport) -> Plot | None:
    series = (
        *_by_round(report, "held-out examples", "series-1", [r.loss for r in report.rounds]),
        *_level("centralised", "series-2", report.centralised.loss, (7, 3)),
        *_level("each client alone, mean", "series-3", report.local_only.loss_mean, (3, 2)),
    )
    caption = "Mean loss of the global model on the held-out examples; lower is better."
    return _lines("Loss by round", "loss (nats)", series, caption, "loss")


def _traffic(report: RunReport) -> Plot | None:
    rounds, float32 = report.rounds, report.bytes.float32_per_client_round
    up = [_each(r.bytes_up, len(r.clients)) for r in rounds]
    down = [_each(r.bytes_down, len(r.clients) + len(r.dropped)) for r in rounds]
    series = (
        *_by_round(report, "up: update", "series-1", up),
        *_by_round(report, "down: model", "series-2", down, (3, 2)),
        *_level("plain float32", "series-3", float(float32) if float32 else None, (7, 3)),
    )
    caption = "Bytes of one device in one round, on a logarithmic axis, beside its weights as plain float32."
    return _lines("Traffic by round", "bytes per device", series, caption, "traffic", log=True)


def _each(total: int | None, parts: int) -> float | None:
    return total / parts if total and parts else None


def _by_round(
    report: RunReport,
    label: str,
    colour: str,
    values: Sequence[float | None],
    dash: tuple[int, ...] = (),
) -> tuple[Series, ...]:
    pairs = zip(report.rounds, values, strict=True)
    points = tuple(
        (entry.round, value) for entry, value in pairs if value is not None and abs(value) < OFF_CHART
    )
    return (Series(label, colour, points, dash),) if points else ()


def _level(label: str, colour: str, value: float | None, dash: tuple[int, ...]) -> tuple[Series, ...]:
    return (
        ()
        if value is None or abs(value) >= OFF_CHART
        else (Series(label, colour, ((0, value),), dash, level=True),)
    )


def _lines(
    title: str, unit: str, series: tuple[Series, ...], caption: str, prefix: str, *, log: bool = False
) -> Plot | None:
    if all(line.level for line in series):
        return None
    figure = Figure(figsize=SIZE_INCHES)
    axes = figure.subplots()
    for line in series:
        _draw(axes, line)
    axes.set_xlabel("round")
    axes.set_ylabel(unit)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    if log:
        _log_bytes(axes, [value for line in series for _, value in line.points])
    spoken = "; ".join(_spoken(line, log) for line in series)
    return Plot(title, caption, to_svg(figure, prefix=prefix, label=f"{title}. {spoken}."), series)


def _draw(axes: Axes, line: Series) -> None:
    style = (0, line.dash) if line.dash else "-"
    colour = COLOURS[line.colour]
    if line.level:
        axes.axhline(line.points[0][1], color=colour, linewidth=1.6, linestyle=style)
        return
    x, y = zip(*line.points, strict=True)
    marker = _MARKERS[line.colour] if len(x) <= MAX_MARKERS else None
    axes.plot(x, y, color=colour, linewidth=1.8, linestyle=style, marker=marker, markersize=4)


def _log_bytes(axes: Axes, values: Sequence[float]) -> None:
    axes.set_yscale("log")
    axes.set_ylim(min(values) / 2, max(values) * 2)
    axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1, 3)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _position: _round_size(value)))


def _round_size(value: float) -> str:
    number, unit = words.size(value).split(" ")
    return f"{float(number.replace(',', '')):g} {unit}"


def _spoken(line: Series, log: bool) -> str:
    """The series in words, for who cannot see the drawing."""
    say = words.size if log else words.share
    first, last = line.points[0][1], line.points[-1][1]
    return f"{line.label}: {say(first)}" if line.level else f"{line.label}: from {say(first)} to {say(last)}"


def _latency(report: RunReport) -> Plot | None:
    rows = (
        ("server, float32", report.model.float32_latency_ms),
        ("server, int8", report.model.int8_latency_ms),
        *((client.name, client.int8_latency_ms) for client in report.clients[:MAX_LATENCY_ROWS]),
    )
    known = [(name, times.p50, times.p99) for name, times in rows if times.p50 is not None]
    if not known:
        return None
    figure = Figure(figsize=(SIZE_INCHES[0], 1.1 + 0.28 * len(known)))
    axes = figure.subplots()
    for row, (_name, p50, p99) in enumerate(known):
        _draw_latency(axes, row, p50, p99)
    axes.set_yticks(range(len(known)), [_shortened(name) for name, _, _ in known])
    axes.set_ylim(len(known) - 0.5, -0.5)
    axes.set_xlim(left=0)
    axes.set_xlabel("one answer (ms)")
    axes.grid(visible=False, axis="y")
    times = [f"{name} {words.milliseconds(p50)}, p99 {words.milliseconds(p99)}" for name, p50, p99 in known]
    svg = to_svg(figure, prefix="latency", label=f"Time of one answer, p50: {'; '.join(times)}.")
    caption = "Dot: half of the answers took less (p50). End of the line: 99 of 100 took less (p99)."
    return Plot("Time of one answer", caption, svg, ())


def _draw_latency(axes: Axes, row: int, p50: float, p99: float | None) -> None:
    colour = COLOURS["series-2"]
    if p99 is not None:
        axes.plot([p50, p99], [row, row], color=colour, linewidth=1.8)
        axes.plot([p99], [row], color=colour, marker="|", markersize=9, linestyle="none")
    axes.plot([p50], [row], color=colour, marker="o", markersize=6, linestyle="none")


def _shortened(name: str) -> str:
    return name if len(name) <= 20 else name[:19] + "…"
