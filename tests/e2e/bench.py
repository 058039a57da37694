"""The workstation's benchmark commands, unchanged, on the emulated Pi, and the fleet measured from here.

A device carries the client only, so the wheel that the wheelhouse was made from is copied over and its
benchmarks run with the client's own libraries. An emulator's figures say that it works, not how fast a Pi is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tests.e2e.checks import require
from tests.e2e.fleet import Fleet, product
from tests.e2e.machine import Shell
from tests.e2e.preparation import PI, Prepared
from tests.e2e.shell import RigError

WHEEL = "/tmp/bramble-e2e.whl"  # noqa: S108 - in the guest
MODEL, BUNDLE = "/tmp/int8.tflite", "/tmp/bundle"  # noqa: S108
SAVED, PAGE = "/tmp/latency.json", "/tmp/bench.html"  # noqa: S108
SITE = "/opt/bramble/a/site"
STATE = "/var/lib/private/bramble"
TIMEOUT_S = 900.0
COMMANDS: Mapping[str, str] = {
    "environment": "",
    "size": MODEL,
    "latency": f"{MODEL} --by-op --max-seconds 5 --save {SAVED}",
    "train": f"--bundle {BUNDLE} --max-seconds 5",
    "energy": f"{MODEL} --watts 3 --seconds 5",
    "wire": "--parameters 20000 --codecs safe,small --max-seconds 0.5",
    "aggregate": "--updates 50 --parameters 20000",
    "compare": f"{SAVED} {SAVED}",
    "report": f"{SAVED} --html {PAGE}",
}
ONLY_ON_A_WORKSTATION = {  # the server compiles the fleet's program
    "fleet": "--clients 2 --rounds 1",
    "accuracy-bytes": "--dataset wisconsin",
    "train": "--model small_cnn",
}


def bench_in_guest(shell: Shell, prepared: Prepared) -> dict[str, Any]:
    """Each command that a Pi can run, on the model that was released and the program that was trained."""
    (wheel,) = (prepared.wheelhouse / "wheel").glob("bramble-*.whl")
    shell.run(f"cat > {WHEEL}", stdin=wheel.read_bytes())
    shell.run(f"sudo sh -c 'cat {STATE}/models/*/model.tflite' > {MODEL}")
    shell.run(f"cat > {BUNDLE}", stdin=_bundle(prepared))
    found = {name: json.loads(_bench(shell, f"{name} {words} --json")) for name, words in COMMANDS.items()}
    check_results(found)
    for name, words in ONLY_ON_A_WORKSTATION.items():
        said = _bench(shell, f"{name} {words} 2>&1 || true").strip()
        require(f"{name} says in one line what it lacks", is_refusal(said), said)
    return {
        "bench_latency_emulated": found["latency"]["verdict"],
        "bench_train_emulated": found["train"]["verdict"],
        "bench_energy_emulated": found["energy"]["verdict"],
        "bench_commands": ", ".join([*found, *(f"{name}: refused" for name in ONLY_ON_A_WORKSTATION)]),
        "bench": found,
    }


def bench_fleet(fleet: Fleet) -> dict[str, Any]:
    """``fleet-latency``: one command here, and every device measures the model that it has active.

    The run is over and its server with it, so the command leads the fleet meanwhile.
    """
    words = ("--config", fleet.settings, "--lead", "--within", "5", "--wait", "900", "--json")
    found = json.loads(product("bramble-bench", "fleet-latency", *words))
    rows = {row["device"]: row for row in found["devices"]}
    require("every device has measured", set(rows) == {PI, *fleet.names}, found)
    require("each has timed its model", all("timings" in row for row in rows.values()), found)
    require("the Pi says that it is emulated", rows[PI]["board"] == "emulated aarch64", rows[PI])
    return {"bench_fleet_latency": found["verdict"], "fleet_latency": found}


def check_results(found: Mapping[str, Any]) -> None:
    """What holds of the results of `COMMANDS` on any machine, however slow."""
    for name, result in found.items():
        rows = [result] if isinstance(result, dict) else result
        labels = {row["environment"]["label"] for row in rows if "environment" in row}
        require(f"{name} says where it ran", labels == {"emulated aarch64"} or name == "compare", labels)
    require("an estimate is called one", found["energy"]["estimate"], found["energy"])
    require("codecs make updates small", all(row["bytes_per_parameter"] < 1 for row in found["wire"]))
    require("a result has not changed against itself", not found["compare"]["changed"], found["compare"])
    (times,) = found["latency"]["operators"]
    require("every op was timed", times.get("ops") and not times["left_out"], times)


def is_refusal(said: str) -> bool:
    """One line that names the remedy."""
    remedies = ("pip install 'bramble[server]'", "--bundle FILE")
    return said.startswith("error: ") and "\n" not in said and any(remedy in said for remedy in remedies)


def _bench(shell: Shell, words: str) -> str:
    return shell.run(f"PYTHONPATH={WHEEL}:{SITE} python3 -m benchmarks.cli {words}", timeout_s=TIMEOUT_S)


def _bundle(prepared: Prepared) -> bytes:
    """The training program that the server compiled, as it lies among its artefacts."""
    (task,) = prepared.fleet.query(
        "SELECT task FROM tasks WHERE json_extract(task, '$.kind') = 'train' LIMIT 1"
    )
    digest = json.loads(task[0])["bundle"]["digest"]
    for path in (prepared.fleet.folder / "state").rglob(digest):
        if path.is_file():
            return path.read_bytes()
    raise RigError(f"the server has no artefact {digest}")
