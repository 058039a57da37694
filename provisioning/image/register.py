"""The register of cards: a CSV file with one row for each Pi, which a spreadsheet opens.

A row is written before the card is, so that a card whose writing was cut off is on record as such.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from provisioning.image.errors import FlashError
from provisioning.image.flash import Outcome
from provisioning.image.plan import Destination, FlashPlan
from provisioning.pki.files import write_file

COLUMNS = (
    "name", "state", "verified", "personalised", "written", "device", "model", "serial", "bytes", "image",
    "image_sha256", "reason",
)  # fmt: skip
Row = dict[str, str]


def read_register(path: Path) -> list[Row]:
    """The rows; none where there is no file yet.

    Raises:
        FlashError: the file is not a register.
    """
    if not path.exists():
        return []
    reader = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8")))
    if tuple(reader.fieldnames or ()) != COLUMNS:
        raise FlashError(f"{path} is not a register of cards: its columns must be {','.join(COLUMNS)}")
    return [{column: row[column] or "" for column in COLUMNS} for row in reader]


def known_cards(rows: Sequence[Row], plan: FlashPlan) -> list[str]:
    """A remark for each card in the plan that is another Pi's already. A reader's serial says nothing."""
    remarks = []
    for destination in plan.destinations:
        disk = destination.disk
        for row in rows:
            if disk and disk.card and disk.serial == row["serial"] and row["name"] != destination.name:
                remarks.append(f"{destination.path} was written for {row['name']} at {row['written']}")
    return remarks


def note_start(path: Path, plan: FlashPlan) -> None:
    """Say that the cards are being written."""
    rows = [_row(destination, plan) | {"state": "writing"} for destination in plan.destinations]
    _replace(path, rows)


def note_outcomes(path: Path, plan: FlashPlan, outcomes: Sequence[Outcome]) -> None:
    """Say how it ended."""
    rows = []
    for outcome in outcomes:
        rows.append(
            _row(outcome.destination, plan)
            | {
                "state": outcome.state,
                "verified": "yes" if outcome.verified else "no",
                "personalised": "yes" if outcome.personalised else "no",
                "image_sha256": outcome.sha256,
                "reason": outcome.reason,
            }
        )
    _replace(path, rows)


def _row(destination: Destination, plan: FlashPlan) -> Row:
    disk = destination.disk
    facts = {
        "name": destination.name or str(destination.path),
        "device": str(destination.path),
        "image": plan.image.path.name,
        "written": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    if disk is not None:
        facts |= {"model": disk.model, "serial": disk.serial, "bytes": str(disk.size)}
    return {column: facts.get(column, "") for column in COLUMNS}


def _replace(path: Path, rows: Sequence[Row]) -> None:
    """New rows take the place of those with the same name."""
    kept = {row["name"]: row for row in read_register(path)} | {row["name"]: row for row in rows}
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(kept.values())
    write_file(path, text.getvalue().encode())
