"""How far each device of a fleet has come, from what was recorded: tokens, reports, certificates, hellos.

::

    prepared -> flashed -> booted -> installed -> enrolled -> joined        (or revoked)

*prepared*: a token was made. *flashed*: the card was written and verified (`note_flashed`). *booted*: the
device has reported anything. *installed*: it says that the client is there. *enrolled*: its certificate was
issued. *joined*: the server has heard it over the broker. A later stage implies the ones before it. A
new token for a name begins a new life: its card is made again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, get_args

from compression.records import Record
from edge_client.wire.enrolment import StepReport
from edge_client.wire.topics import DeviceName
from provisioning.enrolment.store import DeviceRow, EnrolmentStore, StepRow, TokenRow
from provisioning.pki.authority import FleetCA
from provisioning.pki.ledger import Issued, Ledger, parse_time

Stage = Literal["prepared", "flashed", "booted", "installed", "enrolled", "joined", "revoked"]
STAGES: tuple[Stage, ...] = get_args(Stage)
CHECKS: Mapping[Stage, str] = {
    "prepared": "write its card: bramble-provision flash",
    "flashed": "never heard of: power, network cable or Wi-Fi country and password, the enrolment port in "
    "the firewall; bramble/status.log on the card's first partition says how far it came",
    "booted": "it has a network and is not installed: bramble/status.log on the card's first partition",
    "installed": "it does not ask for a certificate: its token, and the enrolment port in the firewall",
    "enrolled": "it has a certificate and was not heard over the broker: the broker's port in the firewall, "
    "a running bramble-server, journalctl -u bramble on the device",
}


@dataclass(frozen=True, slots=True)
class DeviceProgress(Record):
    """One device. Times are seconds since 1970, by the server's clock."""

    name: DeviceName
    stage: Stage
    since: float  # when it came to this stage
    heard: float | None = None  # when it was last heard
    problem: str = ""  # its newest step that failed or waits, and why
    token_dead: bool = False  # it was not used, and cannot be any more
    not_after: str = ""  # of its certificate
    board: str = ""


def fleet_progress(authority: FleetCA, now: datetime | None = None) -> tuple[DeviceProgress, ...]:
    """Every device that has a token or a certificate, by name."""
    now = now or datetime.now(UTC)
    with EnrolmentStore(authority.directory).look() as look:
        tokens = {row.name: row for row in look.tokens()}  # the newest of each name: they come in order
        devices = {row.name: row for row in look.devices()}
        steps: dict[str, list[StepRow]] = {}
        for step in look.steps():
            steps.setdefault(step.name, []).append(step)
    ledger = authority.ledger()
    members = {entry.name for entry in ledger.issued if entry.role == "device"}
    return tuple(
        _progress(name, tokens.get(name), devices.get(name), steps.get(name, []), ledger, now)
        for name in sorted(members | tokens.keys())
    )


def note_flashed(authority: FleetCA, name: str, now: datetime | None = None) -> None:
    """The card of `name` was written and verified."""
    with EnrolmentStore(authority.directory).transaction() as t:
        t.keep_step(StepReport(name, "flash", "ok"), (now or datetime.now(UTC)).timestamp())


def what_to_check(device: DeviceProgress, silent_s: float, now: datetime | None = None) -> str:
    """What a person should look at; empty while the device is on its way, or where it belongs."""
    if device.stage in ("joined", "revoked"):
        return ""
    if device.token_dead:
        return f"its token works no more: bramble-provision token issue {device.name}, and a new card"
    if device.problem:
        return device.problem
    last = max(device.since, device.heard or 0.0)
    silent = (now or datetime.now(UTC)).timestamp() - last > silent_s
    return CHECKS[device.stage] if silent else ""


def _progress(
    name: str,
    token: TokenRow | None,
    device: DeviceRow | None,
    steps: list[StepRow],
    ledger: Ledger,
    now: datetime,
) -> DeviceProgress:
    reached = _stages(name, token, steps, ledger)
    stage = max(reached, key=STAGES.index)
    heard = [row.at for row in steps if row.step != "flash"]
    open_steps = [row for row in steps if row.state in ("failed", "waiting") and row.step != "time"]
    problem = max(open_steps, key=lambda row: row.at, default=None)
    standing = _standing(ledger, name)
    return DeviceProgress(
        name,
        stage,
        reached[stage],
        max(heard, default=None),
        f"{problem.step} {problem.state}: {problem.detail}" if problem else "",
        token is not None and token.state(now.timestamp()) in ("withdrawn", "expired"),
        standing.not_after if standing else "",
        device.model if device else "",
    )


def _stages(name: str, token: TokenRow | None, steps: list[StepRow], ledger: Ledger) -> dict[Stage, float]:
    """The stages that a device has come to, each with the first moment that is known."""
    if name in ledger.revoked_names() and (token is None or token.used is not None):
        return {"revoked": max(parse_time(entry.revoked_at or "").timestamp() for entry in ledger.of(name))}
    reached: dict[Stage, float] = {}
    if token is not None:
        reached["prepared"] = token.issued
        if token.used is not None:
            reached["enrolled"] = token.used
    elif standing := _standing(ledger, name):  # issued beforehand, for a fleet without this service
        reached["enrolled"] = parse_time(standing.not_before).timestamp()
    for row in steps:
        stage = _stage_of(row)
        if stage is not None:
            reached[stage] = min(row.at, reached.get(stage, row.at))
    return reached or {"prepared": 0.0}


def _stage_of(row: StepRow) -> Stage | None:
    if row.step == "joined":
        return "joined"
    if row.step == "flash":
        return "flashed"
    return "installed" if (row.step, row.state) == ("install", "ok") else "booted"


def _standing(ledger: Ledger, name: str) -> Issued | None:
    """The newest certificate of a name that is not revoked."""
    good = [entry for entry in ledger.of(name) if entry.revoked_at is None]
    return good[-1] if good else None
