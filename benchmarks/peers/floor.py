"""The bare exchange on the same kind of broker, its clients behind the same relay."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from benchmarks.peers.bare import FLEET
from benchmarks.peers.plan import Plan, Report, SystemResult
from benchmarks.peers.rig import SAMPLE_S, Processes, counted, our_environment, summarise, watch_rounds
from benchmarks.processes import Sampler
from broker_server.broker.factory import open_broker

CHILD = (sys.executable, "-m", "benchmarks.peers.bare")


def run_bare(plan: Plan, folder: Path, report: Report) -> SystemResult:
    """Rounds of nothing but float32 over MQTT.

    Raises:
        BenchmarkError: a process ends, or it takes too long.
    """
    marks = folder / "marks"
    with (
        open_broker(plan.broker, folder / "broker", fleet=FLEET, plain=True) as broker,
        Processes(folder) as processes,
    ):
        port = broker.server_address().port
        with counted(port) as relay:
            arguments = ["server", str(port), str(plan.clients), str(plan.all_rounds), str(marks)]
            server = processes.start("server", [*CHILD, *arguments], environment=our_environment())
            started, roots = time.monotonic(), {"server": server.pid}
            if pid := getattr(broker, "pid", None):
                roots["broker"] = pid
            clients = []
            for number in range(plan.clients):
                name = f"device-{number}"
                command = [*CHILD, "client", str(relay.port), name]
                clients.append(processes.start(name, command, environment=our_environment()))
                roots[f"client-{number}"] = clients[-1].pid
            with Sampler(roots, every_s=SAMPLE_S) as sampler:
                found = watch_rounds("bare", plan, marks, processes, report, done=[server, *clients])
        note = f"float32 over MQTT, nothing around it; {broker.describe()}"
        return summarise("bare", plan, started, found, relay, sampler, note=note)
