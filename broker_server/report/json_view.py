"""A report as JSON for machines: the canonical key order, indented, in ASCII so that any pipe takes it."""

from __future__ import annotations

import json

from broker_server.report.schema import RunReport
from compression.records import RecordError, from_plain, to_plain

MAX_REPORT_BYTES = 64 << 20


def to_json(report: RunReport) -> str:
    """The report with keys in order, two blanks of indentation and a closing line break."""
    return json.dumps(to_plain(report), sort_keys=True, indent=2, allow_nan=False) + "\n"


def from_json(data: bytes) -> RunReport:
    """Inverse of `to_json`.

    Raises:
        RecordError: too long, not JSON, or not a report.
    """
    if len(data) > MAX_REPORT_BYTES:
        raise RecordError(f"RunReport: {len(data)} bytes exceed the limit of {MAX_REPORT_BYTES}")
    try:
        plain = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise RecordError(f"RunReport: not valid JSON: {str(exc)[:80]}") from exc
    return from_plain(RunReport, plain)
