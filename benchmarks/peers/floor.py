"""The bare exchange on the same kind of broker, in the same places."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from benchmarks.peers.network import Network
from benchmarks.peers.plain_broker import FACTS
from benchmarks.peers.plan import Plan, Report, SystemResult
from benchmarks.peers.rig import SAMPLE_S, Processes, summarise, wait_for_facts, watch_rounds
from benchmarks.processes import Sampler, our_environment

CHILD = (sys.executable, "-m", "benchmarks.peers.bare")
BROKER = (sys.executable, "-m", "benchmarks.peers.plain_broker")


def run_bare(plan: Plan, folder: Path, network: Network, report: Report) -> SystemResult:
    """Rounds of nothing but float32 over MQTT.

    Raises:
        BenchmarkError: a process ends, or it takes too long.
    """
    marks, environment, host = folder / "marks", our_environment(), network.host
    with Processes(folder, network) as processes:
        processes.start("broker", [*BROKER, str(folder), plan.broker, host], environment=environment)
        facts = wait_for_facts(folder / FACTS, processes)
        with network.counted(facts["port"]) as counted:
            arguments = [host, str(facts["port"]), str(plan.clients), str(plan.all_rounds), str(marks)]
            server = processes.start("server", [*CHILD, "server", *arguments], environment=environment)
            started, roots = time.monotonic(), {"server": server.pid}
            if facts["broker_pid"]:
                roots["broker"] = facts["broker_pid"]
            clients = []
            for number in range(plan.clients):
                name = f"device-{number}"
                command = [*CHILD, "client", counted.host, str(counted.port), name]
                clients.append(processes.start(name, command, at=number, environment=environment))
                roots[f"client-{number}"] = clients[-1].pid
            with Sampler(roots, every_s=SAMPLE_S) as sampler:
                found = watch_rounds("bare", plan, marks, processes, report, done=[server, *clients])
        note = f"float32 over MQTT, nothing around it; {facts['broker']}"
        return summarise("bare", plan, started, found, counted, sampler, note=note)
