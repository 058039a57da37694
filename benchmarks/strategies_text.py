"""The comparison of strategies as lines of text, and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.plot import COLOURS, new_figure
from compression.text_table import bytes_text, text_table

if TYPE_CHECKING:
    from benchmarks.strategies import StrategyResult

HEADER = (
    "strategy",
    "held out",
    "+-",
    "last rounds",
    "worst drop",
    "own data",
    "+-",
    "tuned",
    "up",
    "down",
)


def strategies_text(results: Sequence[StrategyResult]) -> str:
    """A line a strategy, and what went wrong."""
    first = results[0]
    title = (
        f"{first.parameters:,} parameters, {first.clients} clients, {first.rounds} rounds, "
        f"{first.seeds} seeds, codec {first.codec}"
    )
    told = [
        "held out: accuracy of the global weights on examples that no client has, after the last round;",
        "own data: on all clients' validation examples together, by the weights that each client uses;",
        "up, down: payloads of one client over all rounds",
        f"simulated: {first.simulated}",
    ]
    problems = [f"{result.strategy}: {problem}" for result in results for problem in result.problems]
    return "\n".join([title, text_table(HEADER, [_row(result) for result in results]), *told, *problems])


def _row(result: StrategyResult) -> list[str]:
    shares = (
        result.accuracy_mean,
        result.accuracy_std,
        result.accuracy_last_rounds,
        result.worst_drop,
        result.own_mean,
        result.own_std,
        result.tuned_mean,
    )
    sizes = (result.bytes_up, result.bytes_down)
    return [
        result.strategy,
        *("-" if value is None else f"{value:.4f}" for value in shares),
        *("-" if value is None else bytes_text(round(value)) for value in sizes),
    ]


def draw_strategies(results: Sequence[StrategyResult], file: Path) -> None:
    """Write the plot: the mean of the seeds, and between the lowest and the highest a shade."""
    figure = new_figure()
    held_out, own = figure.subplots(1, 2, sharey=True)
    for number, result in enumerate(results):
        _draw(held_out, number, result.curve, (result.lowest, result.highest), result.strategy)
        _draw(own, number, result.own_curve, None, result.strategy)
    held_out.set(xlabel="round", ylabel="accuracy, mean of the seeds", title="held-out examples")
    own.set(xlabel="round", title="the clients' own validation examples")
    figure.legend(*own.get_legend_handles_labels(), loc="outside right upper", frameon=False)
    figure.savefig(file)


def _draw(
    axes: Any,
    number: int,
    curve: Sequence[float],
    band: tuple[Sequence[float], Sequence[float]] | None,
    label: str,
) -> None:
    if not curve:
        return
    rounds = range(1, len(curve) + 1)
    line, colour = "-" if number < COLOURS else "--", f"C{number % COLOURS}"
    axes.plot(rounds, curve, line, color=colour, marker=".", label=label)
    if band is not None:
        axes.fill_between(rounds, *band, color=colour, alpha=0.1, linewidth=0)
