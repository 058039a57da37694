"""Kills a process before each of its steps on the disk in turn, and leaves what it found there.

python inference_killed.py ROOT OPERATION: copies ROOT/seed to ROOT/1, ROOT/2, ...; in each, a child does
the operation and is ended by SIGKILL before its first, second, ... step. The copy whose child got to the end
is the last; its number is printed.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from edge_client import releases
from edge_client.inference.gate import GateVerdict
from edge_client.inference.slots import ModelSlots
from tests.edge_client.inference_cases import SPEC
from tests.edge_client.switch_process import installer, patched_release

STEPS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree")
NEW_MODEL = b"the third model" * 1000


def install(slots: ModelSlots) -> None:
    """What an agent does with a release that passed the gate."""
    slots.activate(slots.stage(3, NEW_MODEL, SPEC, manifest=b"signed 3"))


def roll_back(slots: ModelSlots) -> None:
    """What an agent does when told to."""
    slots.rollback()


def agent_installs(directory: Path) -> None:
    """All that an agent does with a release it can get as a patch; the gate says yes without a runtime."""
    state, patient = installer(directory)
    release = patched_release(directory)
    report = patient.install(release, b"signed 2")
    state.remember(replace(state.memory, release=release.order, release_report=report))
    patient.forget(release)


OPERATIONS: dict[str, Callable[[Path], None]] = {
    "install": lambda directory: install(ModelSlots(directory)),
    "roll_back": lambda directory: roll_back(ModelSlots(directory)),
    "agent_installs": agent_installs,
}


def die_before(step: int) -> None:
    """End this process before its step-th opening, renaming, removing or syncing."""
    left = step

    def count(event: str, _arguments: Any = None) -> None:
        nonlocal left
        if event in STEPS:
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)

    sync: Any = os.fsync

    def counted_sync(descriptor: Any) -> None:
        count("open")
        sync(descriptor)

    setattr(os, "fsync", counted_sync)  # noqa: B010
    sys.addaudithook(count)


def main(root: Path, operation: str) -> None:
    """Fork a child for each step until one gets to the end."""
    number = 0
    while True:
        number += 1
        shutil.copytree(root / "seed", root / str(number))
        child = os.fork()
        if not child:
            die_before(number)
            OPERATIONS[operation](root / str(number))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status == 0:
            print(number)
            return
        if not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL):
            raise SystemExit(f"step {number}: the child ended with status {status}")


if __name__ == "__main__":
    setattr(releases, "run_gate", lambda *_, **__: GateVerdict(True, "good"))  # noqa: B010
    main(Path(sys.argv[1]), sys.argv[2])
