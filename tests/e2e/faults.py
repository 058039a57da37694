"""What must go wrong in the open: each fault's reason stands on the boot partition, where any PC reads it.

python -m tests.e2e.faults
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import tomli_w

from tests.e2e.cache import Cache
from tests.e2e.card import boot_file, boot_files, partition_offset
from tests.e2e.fleet import NAME, environment
from tests.e2e.machine import LABEL, Machine
from tests.e2e.preparation import PI, Prepared
from tests.e2e.scenario import BOOT_S, STATUS_LOG, powered_on, prepare, running
from tests.e2e.shell import RigError, end_on_sigterm, require_programs, run
from tests.e2e.steps import Record

PROJECT = Path(__file__).resolve().parents[2]
ARCHIVE = "bramble/client.tar.gz"


def truncated_bundle(cache: Cache, folder: Path, record: Record) -> str:
    """The client's archive on the boot partition was cut short, as by a card pulled too early."""
    prepared = prepare(cache, folder, record, "bundle")
    where = f"{prepared.card}@@{partition_offset(prepared.card, 1)}"
    archive = folder / "client.tar.gz"
    run("mcopy", "-n", "-i", where, f"::{ARCHIVE}", archive)
    os.truncate(archive, archive.stat().st_size // 2)
    run("mcopy", "-o", "-i", where, archive, f"::{ARCHIVE}")
    with powered_on(cache, prepared, folder) as machine:
        return _reason(machine, prepared.card, "client.tar.gz")


def used_token(cache: Cache, folder: Path, record: Record) -> str:
    """Somebody else was quicker: the card's token has been used for another key."""
    prepared = prepare(cache, folder, record, "prebaked")
    with running(prepared.fleet):
        _use_token(prepared, folder / "thief")
        with powered_on(cache, prepared, folder) as machine:
            return _reason(machine, prepared.card, "token")


def _reason(machine: Machine, card: Path, word: str) -> str:
    """The first line of status.log that says failed; it must name what is wrong."""
    machine.wait_for("a failure in status.log", lambda: _failures(card), BOOT_S)
    line = _failures(card)[0]
    if word not in line:
        raise RigError(f"status.log does not name {word}: {line}")
    return line


def _failures(card: Path) -> list[str]:
    if STATUS_LOG not in boot_files(card):
        return []
    return [line for line in boot_file(card, STATUS_LOG).splitlines() if " failed" in line]


def _use_token(prepared: Prepared, folder: Path) -> None:
    """``bramble-edge enrol`` on this machine, with a copy of the card's token."""
    folder.mkdir()
    shutil.copy(prepared.fleet.folder / "tokens" / f"{PI}.token", folder / "token")
    shutil.copy(prepared.fleet.pki / "ca.crt", folder / "ca.crt")
    files = {"ca_file": "ca.crt", "certificate_file": "device.crt", "key_file": "device.key"}
    settings = {
        "name": PI,
        "fleet": NAME,
        "server_key": prepared.fleet.server_key(),
        "state": "state",
        "broker": {"host": "127.0.0.1", "port": prepared.fleet.port, **files},
        "data": {"source": "folder:none"},
        "enrolment": {"host": "127.0.0.1", "port": prepared.fleet.port + 1, "token_file": "token"},
    }
    (folder / "edge.toml").write_text(tomli_w.dumps(settings))
    words = ("-m", "edge_client.cli", "enrol", "--config", folder / "edge.toml", "--wait", 60)
    run(sys.executable, *words, env=environment())


FAULTS: dict[str, Callable[[Cache, Path, Record], str]] = {
    "truncated-bundle": truncated_bundle,
    "used-token": used_token,
}


def main() -> int:
    """0 where every fault was named on the boot partition."""
    parser = argparse.ArgumentParser(prog="make e2e-faults", description=__doc__)
    parser.add_argument("--cache", type=Path, default=PROJECT / ".e2e-cache", help="what is slow to make")
    parser.add_argument("faults", nargs="*", choices=[*FAULTS, []], help="default: all")
    arguments = parser.parse_args()
    cache, record = Cache(arguments.cache.resolve()), Record(LABEL)
    end_on_sigterm()
    try:
        require_programs()
        for name in arguments.faults or FAULTS:
            folder = cache.folder / f"run-{name}"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            with record.step(f"fault: {name}"):
                record.facts[name] = FAULTS[name](cache, folder, record)
    except RigError as exc:
        record.facts["failed"] = str(exc)
        return 1
    finally:
        record.write(cache.folder / "faults.json")
        print(f"\n{record.text()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
