"""Accuracy against bytes, as a picture: where a codec stands after each round, and what the target cost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.errors import BenchmarkError

if TYPE_CHECKING:
    from benchmarks.accuracy_bytes import CodecResult

COLOURS = 10
SUFFIXES = (".svg", ".png", ".pdf")


def check_plot_file(file: Path) -> None:
    """Raise `BenchmarkError` for a file that could not be written, before time is spent on filling it."""
    if file.suffix.lower() not in SUFFIXES:
        raise BenchmarkError(f"{file}: a plot is one of {', '.join(SUFFIXES)}")
    if not file.parent.is_dir():
        raise BenchmarkError(f"{file.parent} is not a folder: make it first")
    new_figure()


def draw_accuracy(results: Sequence[CodecResult], file: Path) -> None:
    """Write the plot; codecs that did not get through their rounds are left out."""
    figure = new_figure()
    curves, prices = figure.subplots(1, 2, width_ratios=(3, 2))
    drawn = [result for result in results if result.curve and result.bytes_up and result.bytes_down]
    for number, result in enumerate(drawn):
        a_round = ((result.bytes_up or 0) + (result.bytes_down or 0)) / result.rounds / 1e3
        spent = [a_round * (done + 1) for done in range(len(result.curve))]
        line = "-" if number < COLOURS else "--"  # matplotlib's colours begin anew
        curves.plot(spent, result.curve, line, color=f"C{number}", marker=".", label=result.codec)
    curves.axhline(results[0].target, color="grey", linewidth=0.8, linestyle="--")
    curves.set(
        xscale="log" if drawn else "linear",
        xlabel="payload of one client so far, up and down, kB",
        ylabel="accuracy on held-out examples, mean of the seeds",
    )
    if drawn:
        figure.legend(loc="outside right upper", frameon=False)
    _draw_prices(prices, drawn, results[0].target)
    figure.savefig(file)


def _draw_prices(axes: Any, drawn: Sequence[CodecResult], target: float) -> None:
    for number, result in enumerate(drawn):
        up, down = result.bytes_up_to_target, result.bytes_down_to_target
        if up is None or down is None:
            reached = f"reached by {result.seeds_at_target} of {result.seeds} seeds"
            axes.text(0.02, number, reached, va="center", color="grey", transform=axes.get_yaxis_transform())
        else:
            axes.barh(number, (up + down) / 1e3, color=f"C{number}")
            axes.text((up + down) / 1e3, number, f" {(up + down) / 1e3:,.0f} kB", va="center")
    axes.set_yticks(range(len(drawn)), [result.codec for result in drawn])
    axes.set(xscale="log", xlabel=f"payload of one client to accuracy {target:g}, kB")
    axes.margins(x=0.4)
    axes.set_ylim(max(len(drawn), 1) - 0.5, -0.5)  # the first on top


def new_figure() -> Any:
    """An empty figure; raise `BenchmarkError` without matplotlib."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - a device does not have it
    except ImportError as exc:
        raise BenchmarkError(f"a plot needs matplotlib, pip install 'bramble[server]': {exc}") from exc
    return Figure(figsize=(12, 4.5), layout="constrained", dpi=130)
