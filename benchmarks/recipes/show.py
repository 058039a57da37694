"""A comparison of recipes as a table of text and as a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from benchmarks.recipes.compare import RecipeResult
from benchmarks.recipes.data import RecipeData
from compression.text_table import bytes_text, text_table

NEAR_SIZE, NEAR_ACCURACY = 0.05, 0.02  # of the logarithm of the size; share of the accuracies' spread
Point = tuple[float, float, str, bool]  # zipped kB, accuracy in percent, recipe, whether on the front
HEADER = (
    "recipe",
    "size",
    "zipped",
    "smaller",
    "accuracy",
    "F1",
    "precision",
    "recall",
    "AUC",
    "p50 ms",
    "p99 ms",
    "peak MB",
    "computes",
    "calibration",
    "front",
)


def comparison_text(results: Sequence[RecipeResult], data: RecipeData) -> str:
    """A line a recipe, then what a reader has to know about them."""
    measured = [result for result in results if result.figures is not None]
    lines = [
        f"{data.source}: {len(data.test)} examples of its {data.split} split, {len(data.train)} trained on",
        "",
        text_table(HEADER, [_row(result) for result in measured])
        if measured
        else "no recipe could be applied",
        "",
        "front: no other recipe is smaller when zipped and at least as accurate",
        "smaller: when zipped, than float32",
    ]
    if measured and measured[0].figures is not None:
        lines.append(f"times: one example, one thread, {measured[0].figures.runtime}, this machine")
    lines += [f"{r.recipe}: simulated, {r.simulated}" for r in results if r.simulated]
    lines += [f"{r.recipe}: left as it is, {layer}" for r in results for layer in r.skipped]
    lines += [f"{r.recipe}: not possible, {r.error}" for r in results if r.error]
    return "\n".join(lines)


def draw_front(results: Sequence[RecipeResult], file: Path) -> None:
    """Accuracy against zipped size; the front as a line. `benchmarks.plot.check_plot_file` comes before."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - a device does not have it
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter  # noqa: PLC0415

    figure = Figure(figsize=(9, 5), layout="constrained", dpi=130)
    axes = figure.subplots()
    points = sorted(
        (r.figures.zipped_bytes / 1e3, 100 * r.quality.accuracy, r.recipe, r.pareto)
        for r in results
        if r.figures is not None and r.quality is not None
    )
    front = [point for point in points if point[3]]
    axes.plot([p[0] for p in front], [p[1] for p in front], drawstyle="steps-post", linewidth=1, zorder=1)
    for size, accuracy, _, best in points:
        axes.scatter(size, accuracy, color="C0" if best else "grey", s=30, zorder=2)
    for (size, accuracy), names in labels(points).items():
        axes.annotate(
            ", ".join(names), (size, accuracy), textcoords="offset points", xytext=(4, 4), fontsize=7,
            rotation=30, rotation_mode="anchor",
        )  # fmt: skip
    axes.set(
        xscale="log",
        xlabel="zipped file, kB",
        ylabel="accuracy on held-out examples, %",
        title="What nothing else beats in size and accuracy",
    )
    axes.margins(x=0.15, y=0.15)  # for the names
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    figure.savefig(file)


def labels(points: Sequence[Point]) -> dict[tuple[float, float], list[str]]:
    """Names by where they are written: points that can hardly be told apart share one label."""
    found: dict[tuple[float, float], list[str]] = {}
    spread = max(p[1] for p in points) - min(p[1] for p in points) if points else 0.0
    for size, accuracy, name, _ in points:
        near = (
            (x, y)
            for x, y in found
            if abs(math.log(size / x)) < NEAR_SIZE and abs(accuracy - y) <= NEAR_ACCURACY * spread
        )
        found.setdefault(next(near, (size, accuracy)), []).append(name)
    return found


def _row(result: RecipeResult) -> list[str]:
    figures, quality = result.figures, result.quality
    if figures is None or quality is None:
        raise ValueError(f"{result.recipe} has no figures")
    smaller = result.size_reduction_percent
    return [
        result.recipe,
        bytes_text(figures.size_bytes),
        bytes_text(figures.zipped_bytes),
        "-" if smaller is None else f"{smaller:.1f} %",
        *[f"{100 * v:.2f} %" for v in (quality.accuracy, quality.f1, quality.precision, quality.recall)],
        "not defined" if quality.auc is None else f"{quality.auc:.4f}",
        f"{figures.latency_p50_ms:.3f}",
        f"{figures.latency_p99_ms:.3f}",
        f"{figures.peak_rss_mb:.0f}",
        figures.computes,
        result.calibration,
        "*" if result.pareto else "",
    ]
