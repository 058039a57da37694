"""``bramble-bench fleet-latency``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks.errors import BenchmarkError
from benchmarks.fleet_progress import device_lines
from benchmarks.fleet_words import fleet_text, fleet_verdict
from benchmarks.output import add_saving, emit
from compression.command_line import Commands, command, count, names, number
from edge_client.measure.environment import read_environment
from edge_client.wire.measurement import MAX_RUNS, MAX_WITHIN_S, MIN_RUNS, MeasurePlan


def add_fleet_latency(commands: Commands) -> None:
    """Add ``fleet-latency``."""
    parser = command(
        commands,
        "fleet-latency",
        _fleet_latency,
        "how fast every device of a fleet answers: each measures when it is asked and is not training",
        "bramble-bench fleet-latency --config ward/server.toml",
        "bramble-bench fleet-latency --config ward/server.toml --lead",
        "bramble-bench fleet-latency int8.tflite --config ward/server.toml --devices pi-1,pi-2 --save a.json",
    )
    parser.add_argument(
        "model", type=Path, nargs="?", metavar="MODEL", help="(default: what each device has active)"
    )
    parser.add_argument(
        "--config", type=Path, default=Path("server.toml"), help="settings file (default: %(default)s)"
    )
    parser.add_argument(
        "--devices", type=names, default=(), metavar="A,B", help="(default: all that ever joined)"
    )
    parser.add_argument(
        "--threads", type=_threads, default=1, metavar="N", help="on each device (default: %(default)s)"
    )
    parser.add_argument(
        "--runs", type=_runs, default=MAX_RUNS, metavar="N", help="at most (default: %(default)s)"
    )
    parser.add_argument(
        "--within",
        type=_within,
        default=10.0,
        metavar="S",
        help="stop timing after this; before, once the median is known to 1 %% (default: %(default)g)",
    )
    parser.add_argument(
        "--wait",
        type=_wait,
        default=300.0,
        metavar="S",
        help="for devices that train or are away (default: %(default)g)",
    )
    parser.add_argument(
        "--lead",
        action="store_true",
        help="without a server at work: lead the fleet meanwhile, without rounds",
    )
    add_saving(parser)


def _fleet_latency(arguments: argparse.Namespace) -> int:
    from benchmarks.fleet_latency import Leader, follow, give_order, server_at_work  # noqa: PLC0415 - needs the
    from broker_server.config import load_config  # noqa: PLC0415 - server's packages

    config = load_config(arguments.config)
    at_work = server_at_work(config)
    if not arguments.lead and not at_work:
        raise BenchmarkError(
            f"no server is at work for fleet {config.fleet}: start one with bramble-server run --config "
            f"{arguments.config}, or add --lead, and this command leads the fleet while it measures"
        )
    plan = MeasurePlan(arguments.threads, arguments.runs, arguments.within)
    order = give_order(config, arguments.model, plan, devices=arguments.devices, wait_s=arguments.wait)
    leader = None if at_work else Leader(config, arguments.config.resolve().parent)
    try:
        if leader is not None:
            leader.start()
        led = (lambda: server_at_work(config)) if leader is None else leader.led
        with device_lines() as said:
            rows = follow(config, order, said, led, wait_s=arguments.wait)
    finally:
        if leader is not None:
            leader.stop()
    return _show(arguments, rows)


def _show(arguments: argparse.Namespace, rows: list[dict[str, Any]]) -> int:
    if arguments.model is not None:
        rows = [row | {"file": arguments.model.name} if "file" in row else row for row in rows]
    words = fleet_verdict(rows)
    plain = {"devices": rows, "verdict": words}
    text = f"{fleet_text(rows)}\n\n{words}"
    status = emit(arguments, "fleet-latency", read_environment(), plain, text)
    return status if any("timings" in row for row in rows) else 1


def _threads(text: str) -> int:
    return int(number(str(count(text)), 1, 64, "a number of threads from 1 to 64"))


def _runs(text: str) -> int:
    what = f"a number of runs from {MIN_RUNS} to {MAX_RUNS}"
    return int(number(str(count(text)), MIN_RUNS, MAX_RUNS, what))


def _within(text: str) -> float:
    return number(text, 0.05, MAX_WITHIN_S, f"a number of seconds from 0.05 to {MAX_WITHIN_S:g}")


def _wait(text: str) -> float:
    return number(text, 1, 86_400, "a number of seconds from 1 to a day")
