"""``bramble-bench peers`` and ``bramble-bench fleet``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.output import add_saving, emit
from benchmarks.peers.plan import Plan, SystemResult
from compression.command_line import Commands, command, count, seconds
from compression.progress import progress_bar
from compression.text_table import bytes_text, text_table
from compression.updates import PROFILES
from edge_client.measure.environment import read_environment


def add_peers(commands: Commands) -> None:
    """Add ``peers``."""
    parser = command(
        commands,
        "peers",
        _peers,
        "ours beside Flower and a bare MQTT exchange: a round's time and bytes, memory; training left out",
        "bramble-bench peers --clients 10 --rounds 5 --json",
        "sudo bramble-bench peers --network namespaces --pin --link 10mbit",
    )
    _add_plan(parser, clients=10, rounds=5)
    parser.add_argument(
        "--flower-python",
        type=Path,
        metavar="FILE",
        help="of the environment that has Flower (default: ~/.local/share/bramble/flower/bin/python)",
    )
    add_saving(parser)


def add_fleet(commands: Commands) -> None:
    """Add ``fleet``."""
    parser = command(
        commands,
        "fleet",
        _fleet,
        "devices over a real broker, training left out: round time, messages, bytes, server, broker",
        "bramble-bench fleet --clients 20 --rounds 10 --codec safe",
    )
    _add_plan(parser, clients=10, rounds=10)
    add_saving(parser)


def _add_plan(parser: argparse.ArgumentParser, *, clients: int, rounds: int) -> None:
    parser.add_argument("--clients", type=count, default=clients, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--rounds",
        type=count,
        default=rounds,
        metavar="N",
        help="that count, after the codec's own warm-up (default: %(default)s)",
    )
    parser.add_argument(
        "--codec", choices=sorted(PROFILES), default="small", help="of ours (default: %(default)s)"
    )
    parser.add_argument(
        "--broker", choices=("auto", "mosquitto", "embedded"), default="auto", help="default: %(default)s"
    )
    parser.add_argument(
        "--timeout", type=seconds, default=900.0, metavar="S", help="for each system (default: %(default)g)"
    )
    parser.add_argument(
        "--network",
        choices=("loopback", "namespaces"),
        default="loopback",
        help="namespaces: a veth link of MTU 1500 for each, bytes by the bridge's ports; needs root "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--link", metavar="RATE", help="of each client's link both ways, as 10mbit; needs namespaces"
    )
    parser.add_argument(
        "--offloads",
        action="store_true",
        help="leave segmentation to the namespaces' interfaces: packets of up to 64 kB on the way",
    )
    parser.add_argument(
        "--pin", action="store_true", help="all systems on one core, sampler and counter on the others"
    )


def _peers(arguments: argparse.Namespace) -> int:
    from benchmarks.peers.compare import benchmark_peers, verdict  # noqa: PLC0415 - needs the server's packages

    plan = _plan(arguments)
    environment = read_environment()
    with progress_bar() as report:
        result = benchmark_peers(plan, flower_python=arguments.flower_python, report=report)
    words = verdict(result)
    text = f"{_table([result.ours, result.flower, result.bare])}\n{result.setup.words()}\n\n{words}"
    plain = asdict(result)
    plain |= plain.pop("setup")
    return emit(arguments, "peers", environment, plain | {"verdict": words}, text)


def _fleet(arguments: argparse.Namespace) -> int:
    from benchmarks.peers.compare import run_fleet  # noqa: PLC0415 - needs the server's packages

    plan = _plan(arguments)
    environment = read_environment()
    with progress_bar() as report:
        result, setup = run_fleet(plan, report=report)
    plain = {"clients": plan.clients, "rounds": plan.rounds, "codec": plan.codec, "fleet": asdict(result)}
    text = f"{_table([result])}\n{setup.words()}"
    return emit(arguments, "fleet", environment, plain | asdict(setup), text)


def _plan(arguments: argparse.Namespace) -> Plan:
    return Plan(
        arguments.clients,
        arguments.rounds,
        codec=arguments.codec,
        broker=arguments.broker,
        timeout_s=arguments.timeout,
        network=arguments.network,
        link=arguments.link,
        offloads=arguments.offloads,
        pin=arguments.pin,
    )


def _table(results: Sequence[SystemResult]) -> str:
    header = ["", *[result.name for result in results]]
    rows: list[tuple[str, list[str]]] = [
        ("round s", [f"{result.round_s:.3f}" for result in results]),
        ("up, a client and round", [bytes_text(round(r.bytes_up_per_client_round)) for r in results]),
        ("down, a client and round", [bytes_text(round(r.bytes_down_per_client_round)) for r in results]),
        ("up before, a client", [bytes_text(round(r.bytes_up_once_per_client)) for r in results]),
        ("down before, a client", [bytes_text(round(r.bytes_down_once_per_client)) for r in results]),
        ("messages/s", ["-" if r.messages_per_s is None else f"{r.messages_per_s:.0f}" for r in results]),
        ("client PSS MB", [f"{result.client_pss_mb:.1f}" for result in results]),
        ("client RSS MB", [f"{result.client_rss_mb:.1f}" for result in results]),
        ("client processes", [str(result.client_processes) for result in results]),
        ("client CPU s a round", [_or_dash(result.client_cpu_s_per_round, ".3f") for result in results]),
        ("server and broker PSS MB", [f"{result.server_pss_mb:.1f}" for result in results]),
        ("server and broker RSS MB", [f"{result.server_rss_mb:.1f}" for result in results]),
        ("server CPU s a round", [_or_dash(result.server_cpu_s_per_round, ".3f") for result in results]),
        ("broker PSS MB", [_or_dash(result.broker_pss_mb, ".1f") for result in results]),
        ("broker CPU s a round", [_or_dash(result.broker_cpu_s_per_round, ".4f") for result in results]),
    ]
    notes = "\n".join(f"{result.name}: {result.note}" for result in results)
    return f"{text_table(header, [[name, *cells] for name, cells in rows])}\n{notes}"


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
