"""Flower over its real SuperLink and SuperNodes, in an environment of its own."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from pathlib import Path

from benchmarks.errors import BenchmarkError
from benchmarks.peers.network import Network
from benchmarks.peers.plan import EXAMPLES, SHAPES, Plan, Report, SystemResult
from benchmarks.peers.rig import SAMPLE_S, Processes, summarise, watch_rounds
from benchmarks.processes import Sampler

SETTINGS = """\
[project]
name = "measured"
version = "1.0.0"
description = "Rounds without training"
license = "MIT"
dependencies = []

[tool.hatch.build.targets.wheel]
packages = ["."]

[tool.flwr.app]
publisher = "bramble"

[tool.flwr.app.components]
serverapp = "measured.app:server"
clientapp = "measured.app:client"

[tool.flwr.app.config]
"""
CONNECTION = '[superlink]\ndefault = "here"\n\n[superlink.here]\naddress = "{host}:{port}"\ninsecure = true\n'
QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
START_S = 60.0
LISTEN = "0A"  # state of a socket in /proc/net/tcp
VENV = Path.home() / ".local/share/bramble/flower"  # where one is looked for
HOW = "python3 -m venv {0} && {0}/bin/pip install 'flwr>=1.40,<2'"  # as the extra `peers` in setup.py


def find_flower(python: Path | None) -> tuple[Path, str]:
    """The folder of Flower's programs, and its version.

    Raises:
        BenchmarkError: there is none, with the command that installs it.
    """
    python = python or VENV / "bin/python"
    home = python.parent.parent if python.parent.name == "bin" and not python.exists() else VENV
    how = f"install it into an environment of its own: {HOW.format(home)}"
    try:
        answer = subprocess.run(
            [str(python), "-c", "import importlib.metadata as m; print(m.version('flwr'))"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise BenchmarkError(f"Flower's Python {python} does not run; {how}") from exc
    programs = python.absolute().parent
    if answer.returncode or not (programs / "flower-superlink").exists():
        raise BenchmarkError(f"{python} has no Flower; {how}")
    return programs, answer.stdout.strip()


def run_flower(
    plan: Plan, folder: Path, network: Network, python: Path | None, report: Report
) -> SystemResult:
    """Rounds of Flower's FedAvg, training only.

    Raises:
        BenchmarkError: it is not installed, a program of it ends, or it takes too long.
    """
    programs, version = find_flower(python)
    marks, home = folder / "marks", folder / "home"
    link = free_port()
    app = _write_app(folder, plan, marks)
    home.mkdir()
    (home / "config.toml").write_text(CONNECTION.format(host=network.host, port=link))
    environment = {**QUIET, "FLWR_HOME": str(home), "PATH": f"{programs}:/usr/bin:/bin"}
    with Processes(folder, network) as processes:
        superlink = processes.start(
            "superlink",
            [
                str(programs / "flower-superlink"),
                "--insecure",
                "--disable-runtime-dependency-installation",
                *("--host", network.host, "--port", str(link)),
            ],
            environment=environment,
        )
        _wait_for(superlink.pid, link, processes)
        with network.counted(link) as counted:
            started, roots = time.monotonic(), {"server": superlink.pid}
            for number in range(plan.clients):
                node = processes.start(
                    f"supernode-{number}",
                    [
                        str(programs / "flower-supernode"),
                        "--insecure",
                        *("--superlink", f"{counted.host}:{counted.port}"),
                        *("--host", "127.0.0.1", "--port", str(free_port())),
                    ],
                    at=number,
                    environment={**environment, "FLWR_HOME": str(folder / f"home-{number}")},
                )
                roots[f"client-{number}"] = node.pid
            run = processes.start(
                "flwr-run", [str(programs / "flwr"), "run", str(app), "here"], environment=environment
            )
            with Sampler(roots, every_s=SAMPLE_S) as sampler:
                found = watch_rounds("Flower", plan, marks, processes, report, done=[run])
        return summarise(
            "flower",
            plan,
            started,
            found,
            counted,
            sampler,
            note=f"flwr {version}, SuperLink and SuperNodes, defaults, no TLS, FedAvg of float32",
            mqtt=False,
        )


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def listens(pid: int, port: int) -> bool:
    """Whether something does at a TCP port of IPv4 in a process's network, which need not be ours."""
    table = Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]
    return any(fields[1].endswith(f":{port:04X}") and fields[3] == LISTEN for fields in map(str.split, table))


def _write_app(folder: Path, plan: Plan, marks: Path) -> Path:
    app = folder / "app"
    (app / "measured").mkdir(parents=True)
    (app / "measured/__init__.py").touch()
    shutil.copyfile(Path(__file__).with_name("flower_app.py"), app / "measured/app.py")
    values = {
        "rounds": plan.all_rounds,
        "clients": plan.clients,
        "examples": EXAMPLES,
        "marks": str(marks),
        "shapes": json.dumps(SHAPES),
    }
    lines = [f"{name} = {json.dumps(value)}" for name, value in values.items()]
    (app / "pyproject.toml").write_text(SETTINGS + "\n".join(lines) + "\n")
    return app


def _wait_for(pid: int, port: int, processes: Processes) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        processes.check()
        if listens(pid, port):
            return
        time.sleep(0.1)
    raise BenchmarkError(f"Flower's SuperLink did not listen within {START_S:g} s")
