"""Make a device of a Pi that runs already: the bundle of a card, copied and installed over SSH.

Only what the device does not have is sent, and the installer looks at everything again: a second run changes
nothing. A secret is sent only where it is still of use, and is erased from the copy once it is installed.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provisioning.bundle.payload import SUMS, bundle_files
from provisioning.card import Card
from provisioning.card_jobs import waits_for_token
from provisioning.customise.payload import Content, content_bytes
from provisioning.ssh.errors import RemoteError
from provisioning.ssh.remote import Remote
from provisioning.wheelhouse.lock import file_sha256
from provisioning.wheelhouse.make import Wheelhouse
from provisioning.wheelhouse.targets import system_of

FOLDER = ".cache/bramble/bundle"  # in the home of the user who logs in
PROBE = (
    '. /etc/os-release; echo "$VERSION_CODENAME"; uname -m; '
    "python3 -c 'import sys; print(\"%d.%d\" % sys.version_info[:2])'; "
    'if [ "$(id -u)" = 0 ]; then echo root; elif sudo -n true 2>/dev/null; then echo sudo; else echo user; fi'
)


@dataclass(frozen=True, slots=True)
class Facts:
    """What a device says of itself."""

    suite: str
    machine: str
    python: str
    powers: str  # root, sudo or user


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was sent and changed; in a dry run, what would be (`changes` is None where it cannot be known)."""

    sent: tuple[str, ...]
    sent_bytes: int
    changes: tuple[str, ...] | None


def probe(remote: Remote) -> Facts:
    """Ask a device what it is."""
    lines = [line.strip() for line in remote.run(PROBE).splitlines()]
    if len(lines) != 4:
        raise RemoteError(f"{remote.host}: it does not say what it is (python3 is needed on it)")
    return Facts(*lines)


def install(
    remote: Remote,
    card: Card,
    wheelhouse: Wheelhouse,
    *,
    root: str = "/",
    dry: bool = False,
    say: Callable[[str], None] = lambda _line: None,
    complete: Callable[[Card], Card] = lambda card: card,
) -> Outcome:
    """Install a card's client on a device.

    Args:
        remote: the device.
        card: what it is to be.
        wheelhouse: the client, of the device's system.
        root: what counts as the device's root directory; another than "/" needs no rights.
        dry: look, and send nothing.
        say: told each step.
        complete: gives a card that waits for its token one; asked where the device has no certificate yet.

    Raises:
        RemoteError: the device is of another system, lacks rights, or the installation failed there.
    """
    facts = probe(remote)
    say(f"{facts.suite} on {facts.machine}, Python {facts.python}, {facts.powers}")
    _check(remote, facts, card, wheelhouse, root)
    as_root = ["sudo", "-n"] if facts.powers == "sudo" and root == "/" else []
    files = bundle_files(card, wheelhouse, from_boot=False)
    folder = remote.run("pwd").strip() + "/" + FOLDER
    missing = _missing(remote, folder, files, as_root, root)
    if waits_for_token(card):
        if _token_in(files) in missing and not dry:
            files = bundle_files(complete(card), wheelhouse, from_boot=False)
            missing = _missing(remote, folder, files, as_root, root)
        elif set(missing) == {SUMS}:
            missing = {}  # but for the token, which is used up, the device has all of it
    size = sum(_size(content) for content in missing.values())
    command = [*as_root, "python3", "-I", f"{folder}/bramble-edge", "device", "install", folder]
    command += ["--root", root] if root != "/" else []
    if dry:
        for name in missing:
            say(f"would send {name}")
        say(f"would run: {shlex.join(command)}")
        changes = None if missing else _changes(remote.run([*command, "--dry-run"]))
        return Outcome(tuple(missing), size, changes)
    if missing:
        say(f"sending {len(missing)} files, {size / 1e6:.1f} MB")
        remote.put(folder, missing)
    say("installing")
    return Outcome(tuple(missing), size, _changes(remote.run(command)))


def _check(remote: Remote, facts: Facts, card: Card, wheelhouse: Wheelhouse, root: str) -> None:
    if root == "/":
        found = system_of(facts.suite, facts.machine)
        if found.name != card.target:
            raise RemoteError(f"{remote.host} runs {found.name}, the card is for {card.target}")
        if facts.powers == "user":
            raise RemoteError(
                f"{remote.host}: {remote.host.user} may not use sudo without a password; "
                "allow it, or log in as a user who may"
            )
    if facts.python != wheelhouse.lock.python:
        wanted = wheelhouse.lock.python
        raise RemoteError(f"{remote.host} has Python {facts.python}, the client is for {wanted}")


def _missing(
    remote: Remote, folder: str, files: Mapping[str, Content], as_root: list[str], root: str
) -> dict[str, Content]:
    """What the device does not have, secrets only where they are of use."""
    secrets = {entry["source"]: entry for entry in _entries(files) if entry.get("secret")}
    held = remote.digests(folder, list(files))
    missing = {name: content for name, content in files.items() if held.get(name) != _digest(content)}
    for name, entry in secrets.items():
        if name in missing and not _is_of_use(remote, entry, _digest(files[name]), as_root, root):
            del missing[name]
    return missing


def _entries(files: Mapping[str, Content]) -> list[dict[str, Any]]:
    plan: dict[str, Any] = json.loads(content_bytes(files["install.json"]))
    return list(plan["files"])


def _token_in(files: Mapping[str, Content]) -> str | None:
    """Name of the secret that a certificate uses up."""
    return next((str(entry["source"]) for entry in _entries(files) if entry.get("until")), None)


def _is_of_use(remote: Remote, entry: Mapping[str, Any], digest: str, as_root: list[str], root: str) -> bool:
    """Whether a secret is not installed yet, nor what it would be used for."""
    place, until = (root.rstrip("/") + entry.get(name, "") for name in ("path", "until"))
    look = f"test -e {shlex.quote(until)} && echo used; sha256sum {shlex.quote(place)} 2>/dev/null; true"
    said = remote.run(shlex.join([*as_root, "sh", "-c", look])).split()
    return not (entry.get("until") and "used" in said) and digest not in said


def _changes(output: str) -> tuple[str, ...]:
    return tuple(line for line in output.splitlines() if line and line != "nothing to do")


def _digest(content: Content) -> str:
    return file_sha256(content) if isinstance(content, Path) else hashlib.sha256(content).hexdigest()


def _size(content: Content) -> int:
    return content.stat().st_size if isinstance(content, Path) else len(content)
