"""Our server, a broker and devices, each a process of its own, in places where their bytes are counted."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.peers.bare import FLEET
from benchmarks.peers.network import Network
from benchmarks.peers.our_server import CLASSES, SETTINGS
from benchmarks.peers.plan import EXAMPLES, INPUT, Plan, Report, SystemResult
from benchmarks.peers.rig import SAMPLE_S, Processes, summarise, wait_for_facts, watch_rounds
from benchmarks.processes import Sampler, our_environment
from broker_server.fleet import write_settings
from edge_client.config import DataConfig, EdgeConfig
from edge_client.session.address import BrokerAddress


def run_ours(plan: Plan, folder: Path, network: Network, report: Report) -> SystemResult:
    """Rounds of the product, training left out (`benchmarks.peers.our_client`).

    Raises:
        BenchmarkError: a process ends, or it takes too long.
    """
    data = folder / "examples.npz"
    images = np.random.default_rng(0).integers(0, 256, (EXAMPLES, *INPUT[:2]), dtype=np.uint8)
    np.savez(data, images=images, labels=np.arange(EXAMPLES) % len(CLASSES), classes=np.array(CLASSES))
    child = [sys.executable, "-m"]
    with Processes(folder, network) as processes:
        arguments = [str(folder), network.host, str(plan.clients), str(plan.all_rounds)]
        arguments += [plan.codec, plan.broker]
        server = processes.start(
            "server", [*child, "benchmarks.peers.our_server", *arguments], environment=our_environment()
        )
        facts = wait_for_facts(folder / SETTINGS, processes)
        with network.counted(facts["port"]) as counted:
            started, roots = time.monotonic(), {"server": server.pid}
            if facts["broker_pid"]:
                roots["broker"] = facts["broker_pid"]
            for number in range(plan.clients):
                address = BrokerAddress(host=counted.host, port=counted.port, username=f"device-{number}")
                settings = _device(folder, f"device-{number}", address, facts["server_key"], data)
                client = processes.start(
                    f"device-{number}",
                    [*child, "benchmarks.peers.our_client", str(settings)],
                    at=number,
                    environment=our_environment(),
                )
                roots[f"client-{number}"] = client.pid
            alone = frozenset({"server"} if facts["broker_pid"] else ())
            with Sampler(roots, every_s=SAMPLE_S, alone=alone) as sampler:
                found = watch_rounds("ours", plan, folder / "marks", processes, report, done=[server])
                sampler.look()
        return summarise(
            "ours",
            plan,
            started,
            found,
            counted,
            sampler,
            note=f"codec {plan.codec} both ways, {facts['broker']}; trainer loaded, updates made up",
        )


def _device(folder: Path, name: str, broker: BrokerAddress, server_key: str, data: Path) -> Path:
    path = folder / name / "edge.toml"
    path.parent.mkdir()
    config = EdgeConfig(
        name=name,
        fleet=FLEET,
        server_key=server_key,
        state="state",
        broker=broker,
        data=DataConfig(source=f"npz:{data}", validation_fraction=0.0),
    )
    write_settings(path, config)
    return path
