"""What must be true once the emulated Pi has trained. Each check says what it found, or raises `RigError`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from tests.e2e.card import partition_offset
from tests.e2e.fleet import ROUNDS, product
from tests.e2e.machine import Shell
from tests.e2e.preparation import CARD_BYTES, PI, USER, Prepared
from tests.e2e.shell import RigError, run

UNIT = "bramble-edge.service"
IDENTITY = "/var/lib/private/bramble/identity"
MOST_EXPOSED = 2.0  # of `systemd-analyze security`, 0 to 10
REACH = """
import socket
for where in (("10.0.2.2", {port}), ("10.0.2.2", 22), ("10.0.2.100", 22), ("1.1.1.1", 443), ("8.8.8.8", 53)):
    try:
        socket.create_connection(where, 5).close()
        print("reached", *where)
    except OSError:
        pass
"""


def require(what: str, held: object, seen: object = "") -> None:
    """Raise `RigError` unless it held."""
    if not held:
        raise RigError(f"{what}: {seen!r}")


def check_report(report: dict[str, Any]) -> dict[str, Any]:
    """The Pi took part in every round, and the signed int8 model answers on it."""
    (client,) = [each for each in report["clients"] if each["name"] == PI]
    latency = client["int8_latency_ms"]
    require("rounds in which its update counted", client["rounds"] == ROUNDS, client)
    require("an arm64 machine", client["architecture"] == "aarch64", client)
    require("the gate took the int8 model", client["gate"]["verdict"] == "activated", client["gate"])
    require("its latency was measured on the device", latency["p50"], latency)
    return {
        "devices": ", ".join(each["name"] for each in report["clients"]),
        "examples_on_the_pi": sum(client["examples"].values()),
        "accuracy_by_round": [entry["accuracy"] for entry in report["rounds"]],
        "int8_accuracy_held_out": report["final"]["int8_accuracy"],
        "gate_on_the_pi": f"{client['gate']['verdict']}: {client['gate']['reason']}",
        "int8_latency_ms_p50_emulated": latency["p50"],
        "int8_latency_ms_p99_emulated": latency["p99"],
        "client_peak_rss_mb": client["peak_rss_mb"],
        "broker": report["broker"],
    }


def check_system(shell: Shell) -> dict[str, Any]:
    """Name, user, locale, units, hardening, the grown root file system."""
    who = shell.run("hostname; id -un; cat /etc/timezone; findmnt -bno SIZE /").split()
    require("host name, user and time zone", who[:3] == [PI, USER, "Europe/Berlin"], who)
    require("the root file system fills the card", int(who[3]) > CARD_BYTES * 0.7, who)
    first_boot = shell.run("cloud-init status --wait --format json || true")
    require("cloud-init is content", '"status": "done"' in first_boot, first_boot)
    failed = shell.run("systemctl --failed --no-legend --plain")
    require("no unit failed", not failed.strip(), failed)
    require("the service runs", shell.run(f"systemctl is-active {UNIT}").strip() == "active")
    exposure = shell.run(f"systemd-analyze security --no-pager {UNIT} | tail -n 1")
    level = float(exposure.partition(f"{UNIT}:")[2].split()[0])
    require("systemd-analyze security", level <= MOST_EXPOSED, exposure)
    memory = shell.run(f"systemctl show -p MemoryPeak --value {UNIT}").strip()
    return {
        "exposure_of_the_unit": level,
        "unit_memory_peak_mb": round(int(memory) / 1e6) if memory.isdecimal() else None,
        "boot": shell.run("systemd-analyze time | head -n 1").strip(),
    }


def check_network(shell: Shell, port: int) -> dict[str, Any]:
    """Nothing but the broker's and the enrolment service's ports can be reached."""
    reached = shell.run("python3 -", stdin=REACH.format(port=port).encode())
    require("the network to the outside is closed", not reached.strip(), reached)
    return {"network": "closed but for broker and enrolment"}


def check_secrets(shell: Shell, prepared: Prepared) -> dict[str, Any]:
    """The key is on the device only, mode 0600; the token is used up and told nowhere."""
    key = shell.run(f"sudo stat -c %a {IDENTITY}/device.key").strip()
    require("mode of the device's key", key == "600", key)
    here = [path for path in prepared.fleet.folder.rglob("*.key") if PI in str(path)]
    require("the key is not on this machine", not here, here)
    token = (prepared.fleet.folder / "tokens" / f"{PI}.token").read_text().strip()
    told = shell.run("sudo journalctl --no-pager -b; ps axww -o args")
    require("the token is in no log and no argument list", token not in told)
    require("and in no log here", not any(token in path.read_text() for path in _logs(prepared)))
    inspected = product("bramble-provision", "inspect", prepared.card, "--json")
    require("inspect shows no secret", token not in inspected and "PRIVATE KEY" not in inspected)
    _check_boot_partition(prepared.card, token)
    return {"key": "on the device only, mode 0600", "token": "used, in no log and not on the boot partition"}


def _logs(prepared: Prepared) -> list[Path]:
    return [*prepared.fleet.folder.glob("*.log"), prepared.card.parent / "console.log"]


def _check_boot_partition(card: Path, token: str) -> None:
    """Whoever holds the card reads its FAT: no key and no token may be left there."""
    with tempfile.TemporaryDirectory() as folder:
        run("mcopy", "-s", "-n", "-Q", "-i", f"{card}@@{partition_offset(card, 1)}", "::", folder)
        for path in (path for path in Path(folder).rglob("*") if path.is_file()):
            content = path.read_bytes()
            require("no key on the boot partition", b"PRIVATE KEY" not in content, path.name)
            require("no token on the boot partition", token.encode() not in content, path.name)
