"""``bramble-bench``: what a machine can do, measured, with the machine beside the figures."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from benchmarks.aggregate_commands import add_aggregate
from benchmarks.codec_commands import add_accuracy_bytes, add_wire
from benchmarks.compare_commands import add_compare
from benchmarks.energy_commands import add_energy
from benchmarks.environment_commands import add_environment
from benchmarks.flash_commands import add_flash
from benchmarks.fleet_latency_commands import add_fleet_latency
from benchmarks.latency_commands import add_latency
from benchmarks.peers_commands import add_fleet, add_peers
from benchmarks.report_commands import add_report
from benchmarks.size_commands import add_size
from benchmarks.strategies_commands import add_strategies
from benchmarks.train_commands import add_train
from compression.command_line import program, run_program

EXAMPLES = (
    "bramble-bench latency float32.tflite int8.tflite",
    "bramble-bench train --model small_cnn --input 64x64x1 --batch 16",
    "bramble-bench wire --parameters 5000000",
    "bramble-bench accuracy-bytes --dataset npz:pneumoniamnist.npz --codecs float32,small --plot curve.svg",
    "bramble-bench flash --size-mb 1024 --compression xz,zst",
    "bramble-bench peers --clients 10 --rounds 5",
    "bramble-bench fleet-latency --config ward/server.toml",
    "bramble-bench compare before.json after.json",
    "bramble-bench environment --json",
)
OURS = ("benchmarks", "broker_server", "compression", "edge_client", "provisioning")
COMMANDS = (
    add_latency,
    add_size,
    add_train,
    add_energy,
    add_wire,
    add_accuracy_bytes,
    add_strategies,
    add_aggregate,
    add_flash,
    add_fleet,
    add_fleet_latency,
    add_peers,
    add_compare,
    add_report,
    add_environment,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status as `run_program` gives it, 1 where a package is not installed."""
    parser, commands = program(
        "bramble-bench", "Measure models, training and codecs on this machine.", EXAMPLES
    )
    for add in COMMANDS:
        add(commands)
    try:
        return run_program(parser, argv)
    except ModuleNotFoundError as exc:
        if str(exc.name).partition(".")[0] in OURS:
            raise
        print(
            f"error: this needs {exc.name}, as a workstation has: pip install 'bramble[server]'",
            file=sys.stderr,
        )
        return 1


if __name__ == "__main__":
    sys.exit(main())
