"""``bramble-bench energy``."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from benchmarks.energy import EnergyResult, benchmark_energy, verdict
from benchmarks.output import add_saving, emit
from benchmarks.usb_meters import KINDS, UsbMeter
from compression.command_line import Commands, command, number, seconds
from compression.progress import progress_bar
from compression.text_table import text_table
from edge_client.measure.environment import read_environment

MAX_WATTS = 100.0


def add_energy(commands: Commands) -> None:
    """Add ``energy``."""
    parser = command(
        commands,
        "energy",
        _energy,
        "millijoules for an answer, from an INA219 or a USB meter; else an estimate that is called one",
        "bramble-bench energy int8.tflite",
        "bramble-bench energy int8.tflite --meter um:/dev/rfcomm0",
        "bramble-bench energy int8.tflite --watts 3.4",
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="a TFLite file")
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--meter",
        type=_meter,
        metavar="KIND:PORT",
        help="a USB meter: um:PORT for UM24C, UM25C and UM34C, tc66:PORT for TC66 and TC66C",
    )
    source.add_argument(
        "--watts", type=_watts, metavar="W", help="what a meter in the supply shows while it computes"
    )
    parser.add_argument(
        "--seconds",
        type=seconds,
        default=10.0,
        metavar="S",
        help="at rest, and at work (default: %(default)g)",
    )
    add_saving(parser)


def _meter(text: str) -> tuple[str, str]:
    kind, separator, port = text.partition(":")
    if kind not in KINDS or not separator or not port:
        raise argparse.ArgumentTypeError(f"{text!r} is not KIND:PORT with KIND of {', '.join(KINDS)}")
    return kind, port


def _watts(text: str) -> float:
    return number(text, 0.01, MAX_WATTS, f"a number of watts up to {MAX_WATTS:g}")


def _energy(arguments: argparse.Namespace) -> int:
    environment = read_environment()
    with ExitStack() as stack:
        report = stack.enter_context(progress_bar())
        meter = stack.enter_context(UsbMeter(*arguments.meter)) if arguments.meter else None
        result = benchmark_energy(
            arguments.model,
            environment,
            meter=meter,
            watts=arguments.watts,
            for_s=arguments.seconds,
            report=report,
        )
    words = verdict(result)
    text = f"{_text(result)}\n\n{words}"
    return emit(arguments, "energy", environment, asdict(result) | {"verdict": words}, text)


def _text(result: EnergyResult) -> str:
    row = [
        Path(result.file).name,
        str(result.answers),
        f"{result.watts:.3g}",
        "-" if result.idle_watts is None else f"{result.idle_watts:.3g}",
        f"{result.mj_per_answer:.3g}",
        "-" if result.mj_above_idle is None else f"{result.mj_above_idle:.3g}",
        "estimate" if result.estimate else result.source,
    ]
    return text_table(["file", "answers", "W", "W at rest", "mJ/answer", "above rest", "from"], [row])
