"""Measurements that nobody took, with figures known by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from edge_client.wire.measurement import ColdStart, Conditions, Environment, Measurement, Timings

TIMINGS = Timings(
    p50_ms=2.0,
    p90_ms=3.0,
    p99_ms=4.0,
    min_ms=1.0,
    mean_ms=2.0,
    std_ms=0.5,
    runs=100,
    first_ms=9.0,
    warm_up_runs=5,
    interval_ms=(1.99, 2.01),
    reached=True,
    samples_ms=tuple((1.0, 2.0, 2.0, 2.0, 3.0, 4.0) for _ in range(5)),
)
COOL = Conditions((50.0, 52.0), (1500.0, 1500.0), False, (), 51.0)
BLIND = Conditions(None, None, None, ("clock", "temperature"))
PI = Environment(
    label="Raspberry Pi 4 Model B Rev 1.4 (aarch64)",
    board="Raspberry Pi 4 Model B Rev 1.4",
    emulated=False,
    architecture="aarch64",
    processor=None,
    cores=4,
    memory_mb=4000.0,
    system="Debian GNU/Linux 12 (bookworm)",
    kernel="6.6",
    governor="ondemand",
    clock_mhz=1500.0,
    temperature_c=50.0,
    throttled=False,
    load_1min=0.1,
    python="3.11.2",
    packages={"numpy": "2.0.0"},
)


def measurement(digest: str = "0" * 64, *, p50_ms: float = 2.0, **fields: Any) -> Measurement:
    """One on a Raspberry Pi that was never there."""
    plain = Measurement(
        model=digest,
        bytes=10,
        version=0,
        threads=1,
        runtime="ai-edge-litert 2.3.0",
        timings=replace(TIMINGS, p50_ms=p50_ms),
        call_overhead_ms=0.1,
        load_ms=5.0,
        cold_start=ColdStart(500.0, 100.0, 9.0, 50.0),
        pinned=True,
        conditions=COOL,
        throttled_flags=0,
        environment=PI,
    )
    return replace(plain, **fields)
