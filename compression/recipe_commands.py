"""``bramble-compress run`` and ``recipes``: one recipe, from a model and its data to a small file.

This module and `compare_commands` belong to the program, not to the library: they alone here import the rooms
above, whose data loading, zoo and measurements the commands need. docs/architecture.md says so.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from compression.command_line import Commands, command
from compression.commands import parse_shape
from compression.models.recipes import RECIPES, Recipe, choose_recipes, read_recipes
from compression.models.training import Report, silent
from compression.progress import progress_bar
from compression.records import to_plain
from compression.text_table import bytes_text, text_table


@dataclass(frozen=True, slots=True)
class MadeFile:
    """What `run_recipe` wrote, and what it became."""

    file: str
    recipe: str
    bytes: int
    computes: str
    accuracy: float
    examples: int
    split: str
    skipped: tuple[str, ...]


def add_run(commands: Commands) -> None:
    """One recipe."""
    parser = command(
        commands,
        "run",
        _run,
        "apply one recipe to a model: prune, cluster, train with fake quantisation, convert, and judge it",
        "bramble-compress run small_cnn --recipe pruned80-int8 --data npz:pneumoniamnist.npz "
        "--out model.tflite",
    )
    parser.add_argument(
        "model", metavar="MODEL", help="a name of the zoo, module:function, or a .keras or .h5 file"
    )
    add_data(parser)
    parser.add_argument("--recipe", required=True, metavar="NAME", help="see `bramble-compress recipes`")
    parser.add_argument("--recipes", type=Path, metavar="TOML", help="a file with recipes of your own")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the TFLite file")


def add_recipes(commands: Commands) -> None:
    """What recipes there are."""
    parser = command(
        commands,
        "recipes",
        _recipes,
        "list the recipes, those of a file of your own included",
        "bramble-compress recipes --recipes mine.toml",
    )
    parser.add_argument("--recipes", type=Path, metavar="TOML", help="a file with recipes of your own")


def add_data(parser: argparse.ArgumentParser) -> None:
    """The options that say what a model is trained and judged on."""
    parser.add_argument(
        "--data",
        required=True,
        metavar="KIND:PATH",
        help="labelled examples: npz:PATH, folder:PATH, csv:PATH or table:PATH",
    )
    parser.add_argument(
        "--input", type=parse_shape, metavar="SHAPE", help="of one example (default: the model's, or 64x64x1)"
    )
    parser.add_argument(
        "--epochs",
        type=int,
        metavar="N",
        help="of training before any recipe (default: 12, and 0 for a file, which is trained)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default: %(default)s")


def known_recipes(path: Path | None) -> Mapping[str, Recipe]:
    """Those that are shipped and those of a file; the file's win."""
    return RECIPES if path is None else {**RECIPES, **read_recipes(path)}


def run_recipe(
    model: str,
    recipe: Recipe,
    *,
    data: str,
    out: Path,
    input_shape: tuple[int, ...] | None = None,
    epochs: int | None = None,
    seed: int = 0,
    report: Report = silent,
) -> MadeFile:
    """Train the model if it comes without weights, compress it, write the file, judge it on held-out data.

    Raises:
        BrambleError: model, data and recipe do not fit each other; it says why.
    """
    from benchmarks.recipes import data as sources  # noqa: PLC0415 - brings TensorFlow
    from benchmarks.recipes.measure import judge  # noqa: PLC0415
    from compression.models.apply import apply_recipe  # noqa: PLC0415

    examples = sources.load_examples(data, sources.input_shape(model, input_shape), seed=seed)
    trained = sources.trained_model(model, examples, epochs=epochs, seed=seed, report=report)
    made = apply_recipe(
        trained, recipe, classes=len(examples.classes), examples=examples.train, seed=seed, report=report
    )
    tflite = made.exported.tflite
    quality = judge(tflite, examples.test)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(tflite)
    computes = "float32" if made.exported.calibration == "none" else made.exported.calibration
    return MadeFile(
        str(out), recipe.name, len(tflite), computes, quality.accuracy,
        len(examples.test), examples.split, made.skipped,
    )  # fmt: skip


def printed(arguments: argparse.Namespace, plain: Any, text: str) -> int:
    """JSON or text, as asked for; done."""
    print(json.dumps(plain, indent=2) if arguments.json else text)
    return 0


def _run(arguments: argparse.Namespace) -> int:
    [recipe] = choose_recipes([arguments.recipe], known_recipes(arguments.recipes))
    with progress_bar() as report:
        made = run_recipe(
            arguments.model,
            recipe,
            data=arguments.data,
            out=arguments.out,
            input_shape=arguments.input,
            epochs=arguments.epochs,
            seed=arguments.seed,
            report=report,
        )
    return printed(arguments, asdict(made), made_text(made))


def made_text(made: MadeFile) -> str:
    """What was made, and which layers it does not reach."""
    lines = [
        f"{made.file}: {bytes_text(made.bytes)}, {made.computes}, accuracy {100 * made.accuracy:.2f} % on "
        f"{made.examples} examples of the {made.split} split"
    ]
    return "\n".join([*lines, *(f"left as it is, {layer}" for layer in made.skipped)])


def _recipes(arguments: argparse.Namespace) -> int:
    known = known_recipes(arguments.recipes)
    plain: list[Any] = [to_plain(recipe) for recipe in known.values()]
    rows = [[recipe.name, recipe.quantise, recipe.calibration, recipe.summary] for recipe in known.values()]
    header = ["recipe", "quantise", "calibration", "what it is"]
    return printed(arguments, plain, text_table(header, rows, left=range(len(header))))
