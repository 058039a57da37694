"""``bramble-compress profile``: where a bundle's training step spends its time."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from compression.command_line import Commands, command
from compression.models.tflite_cut import signature_names
from compression.op_times import op_times_text, time_ops
from compression.spec import TrainableBundle


def add_profile(commands: Commands) -> None:
    """The command."""
    parser = command(
        commands,
        "profile",
        _profile,
        "time every op of a bundle's training step alone: where the step's time goes",
        "bramble-compress profile bundle/bundle.bin --python .venv-tflite/bin/python",
    )
    parser.add_argument("bundle", type=Path, metavar="FILE", help="a bundle.bin that `trainable` wrote")
    parser.add_argument(
        "--python", metavar="FILE", help="an interpreter with NumPy and the TFLite runtime that is meant"
    )


def _profile(arguments: argparse.Namespace) -> int:
    bundle = TrainableBundle.from_bytes(arguments.bundle.read_bytes())
    signatures = signature_names(bundle.tflite)
    signature = "train" if "train" in signatures else "accumulate"
    times = time_ops(bundle.spec.name, bundle.tflite, signature=signature, python=arguments.python)
    print(json.dumps(asdict(times), indent=2) if arguments.json else op_times_text(times))
    return 0
