"""The workstation's benchmark commands, unchanged, on the emulated Pi.

A device carries the client only, so the wheel that the wheelhouse was made from is copied over and its
benchmarks run with the client's own libraries. An emulator's figures say that it works, not how fast a Pi is.
"""

from __future__ import annotations

import json
from typing import Any

from tests.e2e.machine import Shell
from tests.e2e.preparation import Prepared
from tests.e2e.shell import RigError

WHEEL = "/tmp/bramble-e2e.whl"  # noqa: S108 - in the guest
MODEL, BUNDLE = "/tmp/int8.tflite", "/tmp/bundle"  # noqa: S108
SITE = "/opt/bramble/a/site"
STATE = "/var/lib/private/bramble"
SECONDS = "5"


def bench_in_guest(shell: Shell, prepared: Prepared) -> dict[str, Any]:
    """``bramble-bench latency`` on the model that was released, ``train`` on the program that was trained."""
    (wheel,) = (prepared.wheelhouse / "wheel").glob("bramble-*.whl")
    shell.run(f"cat > {WHEEL}", stdin=wheel.read_bytes())
    shell.run(f"sudo sh -c 'cat {STATE}/models/*/model.tflite' > {MODEL}")
    shell.run(f"cat > {BUNDLE}", stdin=_bundle(prepared))
    latency = _bench(shell, "latency", MODEL)
    train = _bench(shell, "train", "--bundle", BUNDLE)
    return {
        "bench_latency_emulated": latency["verdict"],
        "bench_train_emulated": train["verdict"],
        "bench": {"latency": latency, "train": train},
    }


def _bench(shell: Shell, *words: str) -> dict[str, Any]:
    python = f"PYTHONPATH={WHEEL}:{SITE} python3 -m benchmarks.cli"
    line = f"{python} {' '.join(words)} --max-seconds {SECONDS} --json"
    return dict(json.loads(shell.run(line, timeout_s=900.0)))


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
