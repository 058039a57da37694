"""``bramble-compress compare``: every recipe on one model. Like `recipe_commands` a part of the program."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from compression.command_line import Commands, command, count, names
from compression.commands import CommandError
from compression.models.recipes import Recipe, choose_recipes, read_recipes
from compression.progress import progress_bar
from compression.recipe_commands import add_data, known_recipes, printed

FIRST = "float32"  # what the others are measured against


def add_compare(commands: Commands) -> None:
    """Many recipes."""
    parser = command(
        commands,
        "compare",
        _compare,
        "apply every recipe to one model and measure size, quality, latency and memory of each file",
        "bramble-compress compare --model small_cnn --data npz:pneumoniamnist.npz --plot pareto.svg",
    )
    what = "a name of the zoo, module:function, or a .keras or .h5 file"
    parser.add_argument("positional", metavar="MODEL", nargs="?", help=what)
    parser.add_argument("--model", metavar="MODEL", help="the same, as an option")
    add_data(parser)
    parser.add_argument(
        "--recipes",
        type=names,
        default=(),
        metavar="A,B",
        help="names, and files of recipes in TOML, all of whose are taken (default: all that are shipped)",
    )
    parser.add_argument(
        "--devices",
        type=count,
        default=4,
        metavar="N",
        help="simulated ones, for federated calibration (default: %(default)s)",
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="the Pareto front as .svg, .png or .pdf")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="write the TFLite files there")


def _compare(arguments: argparse.Namespace) -> int:
    if (arguments.positional is None) == (arguments.model is None):
        raise CommandError("name one model: bramble-compress compare MODEL --data KIND:PATH")
    recipes = chosen_recipes(arguments.recipes)

    from benchmarks.plot import check_plot_file  # noqa: PLC0415 - all bring more than the program needs
    from benchmarks.recipes.compare import compare_model  # noqa: PLC0415
    from benchmarks.recipes.show import comparison_text, draw_front  # noqa: PLC0415

    if arguments.plot is not None:
        check_plot_file(arguments.plot)
    with progress_bar() as report:
        data, results = compare_model(
            arguments.model or arguments.positional,
            recipes,
            source=arguments.data,
            shape=arguments.input,
            epochs=arguments.epochs,
            devices=arguments.devices,
            seed=arguments.seed,
            keep=arguments.keep,
            report=report,
        )
    if arguments.plot is not None:
        draw_front(results, arguments.plot)
    return printed(arguments, [result.plain() for result in results], comparison_text(results, data))


def chosen_recipes(given: Sequence[str]) -> list[Recipe]:
    """Recipes by name and all of each TOML file named, float32 first; all that are shipped for none."""
    known, chosen = dict(known_recipes(None)), list[str]()
    for name in given:
        own = read_recipes(Path(name)) if name.endswith(".toml") else {}
        known |= own
        chosen += own or [name]
    return choose_recipes(dict.fromkeys([FIRST, *(chosen or known)]), known)
