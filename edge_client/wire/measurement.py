"""What a machine says of a model's speed on it: the figures, and all that makes them readable a year later.

Read on a device by `edge_client.measure`, and in the results of ``bramble-bench``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from compression.records import Between, Length, Record
from edge_client.wire.blobs import Digest
from edge_client.wire.fields import Amount

MAX_SAMPLES = 1000  # of all repeats together: what two results are compared by
MAX_WITHIN_S = 120.0
REPEATS = 5  # each with an interpreter of its own: where it lies in memory moves its times
MIN_RUNS, MAX_RUNS = REPEATS, 100_000
STEADY = 0.9  # the lowest clock over the highest, above which the clock counts as steady
COLDEST_C, HOTTEST_C = -60.0, 200.0  # a broken sensor says 255 or -127

Ms = Annotated[float, Between(0, 1e9)]
Celsius = Annotated[float, Between(COLDEST_C, HOTTEST_C)]
Count = Annotated[int, Between(0, 1 << 53)]
Fact = Annotated[str, Length(0, 200)]


@dataclass(frozen=True, slots=True)
class MeasurePlan(Record):
    """How a model is to be measured: it stops at so many runs, or after so many seconds of timing."""

    threads: Annotated[int, Between(1, 64)] = 1
    runs: Annotated[int, Between(MIN_RUNS, MAX_RUNS)] = MAX_RUNS
    within_s: Annotated[float, Between(0.05, MAX_WITHIN_S)] = 10.0


@dataclass(frozen=True, slots=True)
class Timings(Record):
    """What was found, in milliseconds.

    Attributes:
        first_ms: the first run of all, as the first caller feels it.
        warm_up_runs: runs that were not counted, the first included.
        interval_ms: of the median, 95 %.
        reached: whether the interval became as narrow as was asked.
        samples_ms: the runs in order, a list for each repeat; every n-th of more than `MAX_SAMPLES`.
    """

    p50_ms: Ms
    p90_ms: Ms
    p99_ms: Ms
    min_ms: Ms
    mean_ms: Ms
    std_ms: Ms
    runs: Count
    first_ms: Ms
    warm_up_runs: Count
    interval_ms: Annotated[tuple[Ms, ...], Length(2, 2)]
    reached: bool
    samples_ms: Annotated[tuple[Annotated[tuple[Ms, ...], Length(0, MAX_SAMPLES)], ...], Length(0, 16)] = ()

    @property
    def precision(self) -> float:
        """Half the interval's width over the median."""
        low, high = self.interval_ms
        return (high - low) / 2 / self.p50_ms if self.p50_ms else 0.0


@dataclass(frozen=True, slots=True)
class ColdStart(Record):
    """A process that starts, loads the model, answers once and ends; medians of a few."""

    process_ms: Ms  # from start to end of the process
    load_ms: Ms  # import of the runtime, reading and preparing the file
    first_run_ms: Ms
    peak_rss_mb: Amount


@dataclass(frozen=True, slots=True)
class Conditions(Record):
    """Over the whole of a measurement.

    Attributes:
        temperature_c: at the start, and the highest.
        clock_mhz: the lowest and the highest.
        throttled: whether the firmware slowed the processor down at any look; None off a Raspberry Pi.
        missing: sensors that this machine does not have.
        temperature_after_c: at the end.
    """

    temperature_c: Annotated[tuple[Celsius, ...], Length(2, 2)] | None
    clock_mhz: Annotated[tuple[Amount, ...], Length(2, 2)] | None
    throttled: bool | None
    missing: Annotated[tuple[Fact, ...], Length(0, 8)]
    temperature_after_c: Celsius | None = None

    @property
    def steady(self) -> bool:
        """Neither throttled nor, as far as can be seen, slowed down."""
        clock = self.clock_mhz
        return not self.throttled and (clock is None or clock[0] >= STEADY * clock[1])


@dataclass(frozen=True, slots=True)
class Environment(Record):
    """One machine at one moment. None where the machine has no such thing."""

    label: Fact  # how to name it in a table
    board: Fact | None
    emulated: bool
    architecture: Fact
    processor: Fact | None
    cores: Annotated[int, Between(1, 4096)]  # that this process may use
    memory_mb: Amount | None
    system: Fact
    kernel: Fact
    governor: Fact
    clock_mhz: Amount | None
    temperature_c: Celsius | None
    throttled: bool | None
    load_1min: Amount | None
    python: Fact
    packages: Annotated[Mapping[Fact, Fact], Length(0, 32)]


@dataclass(frozen=True, slots=True)
class Measurement(Record):
    """One model in one setting on one machine.

    Attributes:
        model: SHA-256 of the file.
        version: of the release that it is; 0 for a file that was sent to be measured.
        call_overhead_ms: what a call from Python adds to the invocation: inputs in, outputs out; medians.
        load_ms: of the file in a process that has the runtime already.
        pinned: whether it was kept on as many processors as it has threads.
        throttled_flags: the firmware's, as ``vcgencmd get_throttled``: the lower half is now, the upper half
            since the start; None off a Raspberry Pi.
    """

    model: Digest
    bytes: Count
    version: Count
    threads: Annotated[int, Between(1, 64)]
    runtime: Fact
    timings: Timings
    call_overhead_ms: Ms
    load_ms: Ms
    cold_start: ColdStart
    pinned: bool
    conditions: Conditions
    throttled_flags: Annotated[int, Between(0, 1 << 32)] | None
    environment: Environment
