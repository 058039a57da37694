"""``bramble-compress``: training bundles, TFLite exports, and where their bytes are."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import numpy as np

from compression.command_line import Commands, command, program, run_program
from compression.commands import (
    export_file,
    make_bundle,
    parse_classes,
    parse_micro_batch,
    parse_seed,
    parse_shape,
)
from compression.compare_commands import add_compare
from compression.models.export import RECIPES
from compression.planning import plan_text, plan_training
from compression.profile_commands import add_profile
from compression.recipe_commands import add_recipes, add_run
from compression.references import own_shape
from compression.size_report import SizeReport, size_report
from compression.spec import Loss, Optimizer
from compression.text_table import bytes_text, text_table
from compression.tune_commands import tune_model, tuned_text

EXAMPLES = (
    "bramble-compress trainable broker_server.models.images:small_cnn --input 64x64x1 \\\n"
    "      --classes no,yes --out bundle/",
    "bramble-compress trainable broker_server.models.images:small_cnn --input 64x64x1 \\\n"
    "      --classes no,yes --plan",
    "bramble-compress export broker_server.models.images:small_cnn --input 64x64x1 --classes no,yes \\\n"
    "      --weights bundle/weights.npz --recipe int8 --calibration images.npy --out model.tflite",
    "bramble-compress size float32.tflite model.tflite",
    "bramble-compress compare small_cnn --data npz:pneumoniamnist.npz --plot pareto.svg",
)

FUNCTION = (
    "module:function, called with (input shape, number of classes); or with nothing: then --input and "
    "--classes may be left out"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status as `run_program` gives it."""
    parser, commands = program(
        "bramble-compress", "Make models that train on a Pi, and small files that run there.", EXAMPLES
    )
    _add_trainable(commands)
    _add_tune(commands)
    add_profile(commands)
    _add_export(commands)
    _add_size(commands)
    add_recipes(commands)
    add_run(commands)
    add_compare(commands)
    return run_program(parser, argv)


def _add_trainable(commands: Commands) -> None:
    parser = command(
        commands,
        "trainable",
        _trainable,
        "compile a Keras model into a bundle that trains in a TFLite runtime, builtin ops only",
        "bramble-compress trainable mymodels:lung_net --input 64x64x1 --classes normal,pneumonia "
        "--out bundle/",
    )
    _add_model(parser, FUNCTION, required=False)
    parser.add_argument("--name", help="name of the model (default: the function's)")
    parser.add_argument(
        "--batch", type=int, default=16, metavar="N", help="batch size (default: %(default)s)"
    )
    parser.add_argument(
        "--loss", choices=get_args(Loss), help="default: by the model's outputs, cross-entropy either way"
    )
    parser.add_argument(
        "--optimizer", choices=get_args(Optimizer), default="adam", help="default: %(default)s"
    )
    parser.add_argument(
        "--micro-batch",
        type=parse_micro_batch,
        metavar="N",
        help="examples in memory at a time, a divisor of the batch, or auto: the same steps in less memory",
    )
    parser.add_argument(
        "--lowerings",
        metavar="FILE",
        help="a table that `tune` made, or ai-edge-litert or tflite-runtime for the shipped rule of that "
        "(default: the table in the cache, else the rule of the runtime that is installed here)",
    )
    parser.add_argument(
        "--seed",
        type=parse_seed,
        default=0,
        metavar="N",
        help="of the first weights: the same seed gives the same files, bit for bit (default: %(default)s)",
    )
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="NPY",
        help="of a transfer model: preprocessed pictures on which its frozen part is made int8 altogether",
    )
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--out", type=Path, metavar="DIR", help="where the bundle is written")
    target.add_argument(
        "--plan",
        action="store_true",
        help="write nothing: print the arenas and the predicted peak memory of a device's process",
    )


def _add_tune(commands: Commands) -> None:
    parser = command(
        commands,
        "tune",
        _tune,
        "time a model's convolutions in each lowering, with the runtime of this machine or another Python's",
        "bramble-compress tune broker_server.models.images:residual_cnn --input 64x64x1 "
        "--classes no,yes --out table.json",
    )
    _add_model(parser, FUNCTION, required=False)
    parser.add_argument(
        "--batch", type=int, default=16, metavar="N", help="examples at a time (default: %(default)s)"
    )
    parser.add_argument(
        "--python", metavar="FILE", help="an interpreter with NumPy and the TFLite runtime that is meant"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="the table, added to if it exists (default: in the cache)"
    )


def _add_export(commands: Commands) -> None:
    parser = command(
        commands,
        "export",
        _export,
        "convert a Keras model into a TFLite file for inference, and say what it became",
        "bramble-compress export model.keras --classes normal,pneumonia --recipe int8 "
        "--calibration images.npy --out model.tflite",
    )
    _add_model(
        parser, "module:function, a .keras or .h5 file, or weights (.npz) that name theirs", required=False
    )
    parser.add_argument(
        "--weights", type=Path, metavar="NPZ", help="weights by name, as `trainable` writes them"
    )
    parser.add_argument("--recipe", choices=RECIPES, default="float32", help="default: %(default)s")
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="NPY",
        help="float32 examples, preprocessed; makes int8 full-integer",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the TFLite file")


def _add_size(commands: Commands) -> None:
    parser = command(
        commands,
        "size",
        _size,
        "where the bytes of TFLite files are: by layer, zipped, against float32",
        "bramble-compress size float32.tflite int8.tflite --json",
    )
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="TFLite files")


def _add_model(parser: argparse.ArgumentParser, what: str, *, required: bool = True) -> None:
    parser.add_argument("model", metavar="MODEL", help=what)
    parser.add_argument(
        "--input",
        type=parse_shape,
        required=required,
        metavar="SHAPE",
        help="of one example: 64x64x1, or 30 for a table of 30 columns",
    )
    parser.add_argument(
        "--classes",
        type=parse_classes,
        required=required,
        metavar="A,B",
        help="names, the positive one second",
    )


def _settle(arguments: argparse.Namespace) -> None:
    """Ask the model for what was not said: its input, and as many classes as it has, by number."""
    if arguments.input and arguments.classes:
        return
    shape, classes = own_shape(arguments.model)
    arguments.input = arguments.input or shape
    arguments.classes = arguments.classes or tuple(str(number) for number in range(classes))


def _trainable(arguments: argparse.Namespace) -> int:
    _settle(arguments)
    if arguments.plan:
        return _plan(arguments)
    made = make_bundle(
        arguments.model,
        input_shape=arguments.input,
        classes=arguments.classes,
        name=arguments.name,
        loss=arguments.loss,
        optimizer=arguments.optimizer,
        batch_size=arguments.batch,
        micro_batch=arguments.micro_batch,
        lowerings=arguments.lowerings,
        seed=arguments.seed,
        calibration=arguments.calibration,
        directory=arguments.out,
    )
    return _print(
        arguments,
        asdict(made),
        f"{made.directory}: model {made.name!r} of {made.parameters} parameters trains in "
        f"{bytes_text(made.bundle_bytes)} of builtin ops\nbundle {made.digest}\n"
        f"lowerings {made.lowerings}",
    )


def _plan(arguments: argparse.Namespace) -> int:
    plan = plan_training(
        arguments.model,
        input_shape=arguments.input,
        classes=arguments.classes,
        name=arguments.name,
        loss=arguments.loss,
        optimizer=arguments.optimizer,
        batch_size=arguments.batch,
    )
    return _print(arguments, asdict(plan), plan_text(plan))


def _tune(arguments: argparse.Namespace) -> int:
    _settle(arguments)
    tuned = tune_model(
        arguments.model,
        input_shape=arguments.input,
        classes=arguments.classes,
        batch_size=arguments.batch,
        python=arguments.python,
        out=arguments.out,
    )
    return _print(arguments, asdict(tuned), tuned_text(tuned))


def _export(arguments: argparse.Namespace) -> int:
    exported = export_file(
        arguments.model,
        input_shape=arguments.input,
        classes=arguments.classes,
        weights=arguments.weights,
        recipe=arguments.recipe,
        calibration=arguments.calibration,
        out=arguments.out,
    )
    computes = "float32" if exported.calibration == "none" else exported.calibration
    text = f"{exported.file}: {bytes_text(exported.bytes)}, {computes}"
    if exported.recipe == "int8" and exported.calibration != "full-integer":
        why = ", ".join(exported.float_ops) or "its weights are too small to be worth it"
        text += f"\nnot full-integer: {why} in floating point; --calibration gives the ranges that int8 needs"
    return _print(arguments, asdict(exported), text)


def _size(arguments: argparse.Namespace) -> int:
    reports = {str(path): size_report(path.read_bytes()) for path in arguments.files}
    plain = [
        {"file": name, **asdict(report), "sparsity": report.sparsity} for name, report in reports.items()
    ]
    return _print(arguments, plain, size_text(reports))


def size_text(reports: dict[str, SizeReport]) -> str:
    """A line a file, then a line a layer with a column a file."""
    largest = max(report.file_bytes for report in reports.values())
    totals = [
        [
            Path(name).name,
            bytes_text(report.file_bytes),
            bytes_text(report.zipped_bytes),
            f"{largest / report.file_bytes:.1f}x",
            f"{100 * report.sparsity:.1f} %",
            "float32" if report.calibration == "none" else report.calibration,
        ]
        for name, report in reports.items()
    ]
    names = list(dict.fromkeys(layer.name for report in reports.values() for layer in report.layers))
    layers = [[name, *[_layer_cell(report, name) for report in reports.values()]] for name in names]
    return "\n\n".join(
        [
            text_table(["file", "size", "zipped", "smaller", "zeros", "computes"], totals),
            text_table(["layer", *[Path(name).name for name in reports]], layers),
        ]
    )


def _layer_cell(report: SizeReport, name: str) -> str:
    found = [layer for layer in report.layers if layer.name == name]
    if not found:
        return "-"
    return f"{bytes_text(sum(layer.bytes for layer in found))} {found[0].type}"


def _print(arguments: argparse.Namespace, plain: Any, text: str) -> int:
    print(json.dumps(plain, indent=2, default=_plain) if arguments.json else text)
    return 0


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.generic) else str(value)


if __name__ == "__main__":
    sys.exit(main())
