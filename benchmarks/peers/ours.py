"""Our server, a broker and devices, each a process of its own, devices behind the counting relay."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.errors import BenchmarkError
from benchmarks.peers.bare import FLEET
from benchmarks.peers.our_server import CLASSES, SETTINGS
from benchmarks.peers.plan import EXAMPLES, INPUT, Plan, Report, SystemResult
from benchmarks.peers.rig import SAMPLE_S, Processes, counted, our_environment, summarise, watch_rounds
from benchmarks.processes import Sampler
from broker_server.fleet import write_settings
from edge_client.config import DataConfig, EdgeConfig
from edge_client.session.address import BrokerAddress

START_S = 120.0  # TensorFlow is loaded on a busy machine


def run_ours(plan: Plan, folder: Path, report: Report) -> SystemResult:
    """Rounds of the product, training left out (`benchmarks.peers.our_client`).

    Raises:
        BenchmarkError: a process ends, or it takes too long.
    """
    data = folder / "examples.npz"
    images = np.random.default_rng(0).integers(0, 256, (EXAMPLES, *INPUT[:2]), dtype=np.uint8)
    np.savez(data, images=images, labels=np.arange(EXAMPLES) % len(CLASSES), classes=np.array(CLASSES))
    child = [sys.executable, "-m"]
    with Processes(folder) as processes:
        arguments = [str(folder), str(plan.clients), str(plan.all_rounds), plan.codec, plan.broker]
        server = processes.start(
            "server", [*child, "benchmarks.peers.our_server", *arguments], environment=our_environment()
        )
        facts = _wait_for(folder / SETTINGS, processes)
        with counted(facts["port"]) as relay:
            started, roots = time.monotonic(), {"server": server.pid}
            if facts["broker_pid"]:
                roots["broker"] = facts["broker_pid"]
            for number in range(plan.clients):
                settings = _device(folder, f"device-{number}", relay.port, facts["server_key"], data)
                client = processes.start(
                    f"device-{number}",
                    [*child, "benchmarks.peers.our_client", str(settings)],
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
            relay,
            sampler,
            note=f"codec {plan.codec} both ways, {facts['broker']}; trainer loaded, updates made up",
        )


def _device(folder: Path, name: str, port: int, server_key: str, data: Path) -> Path:
    path = folder / name / "edge.toml"
    path.parent.mkdir()
    config = EdgeConfig(
        name=name,
        fleet=FLEET,
        server_key=server_key,
        state="state",
        broker=BrokerAddress(host="127.0.0.1", port=port, username=name),
        data=DataConfig(source=f"npz:{data}", validation_fraction=0.0),
    )
    write_settings(path, config)
    return path


def _wait_for(settings: Path, processes: Processes) -> dict[str, Any]:
    until = time.monotonic() + START_S
    while not settings.exists():
        processes.check()
        if time.monotonic() > until:
            raise BenchmarkError(f"the server did not start within {START_S:g} s")
        time.sleep(0.05)
    return dict(json.loads(settings.read_text()))
