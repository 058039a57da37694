"""What averaging costs the server: seconds an update, beside plain NumPy and what memory allows.

Three processes, one core each: one writes coded updates to files, one reads, decodes, checks and adds them as
a closing round does, one adds arrays that are in memory already and measures how fast memory is.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.errors import BenchmarkError
from benchmarks.wire import MIN_PARAMETERS
from compression.spec import MAX_PARAMETERS
from compression.updates import PROFILES
from edge_client.measure.children import run_child

Report = Callable[[str, float], None]
CHILD = "benchmarks.aggregate_child"
FEW = 10  # updates whose peak memory the peak of all is compared with


@dataclass(frozen=True, slots=True)
class AggregateResult:
    """Averaging many updates of one model; seconds are the processor's: other processes do not count.

    Attributes:
        s_per_update: to read, decode, check and add one.
        numpy_s_per_update: to multiply and add one that is in memory as float32, in float64.
        bandwidth_bound_s_per_update: reading 4 bytes a parameter, and reading and writing the 8 of the
            sum, at the speed of a large copy; NumPy can be faster while its arrays fit the cache.
        ratio_numpy: ours over plain NumPy's.
        peak_rss_mb: of the process that averages all of them.
        peak_rss_mb_of_few: of one that averages `few`.
    """

    updates: int
    parameters: int
    codec: str
    payload_bytes: int
    s_per_update: float
    numpy_s_per_update: float
    bandwidth_bound_s_per_update: float
    ratio_numpy: float
    copy_gb_per_s: float
    peak_rss_mb: float
    peak_rss_mb_of_few: float
    few: int
    samples_ms: tuple[float, ...] = ()  # of each update, thinned


def benchmark_aggregate(
    updates: int,
    parameters: int,
    *,
    codec: str = "safe",
    report: Report = lambda _what, _share: None,
) -> AggregateResult:
    """Average so many updates of a model of so many parameters.

    Raises:
        BenchmarkError: an unknown profile, or a size that cannot be.
    """
    if not MIN_PARAMETERS <= parameters <= MAX_PARAMETERS:
        raise BenchmarkError(f"{parameters} parameters: take {MIN_PARAMETERS} to {MAX_PARAMETERS}")
    if codec not in PROFILES:
        raise BenchmarkError(f"unknown profile {codec!r}; known are {', '.join(PROFILES)}")
    with tempfile.TemporaryDirectory(prefix="bramble-aggregate-") as folder:
        report("coding updates", 0.0)
        made, _ = run_child(CHILD, ["make", folder, codec, str(parameters)])
        report("adding arrays", 0.1)
        plain, _ = run_child(CHILD, ["plain", folder, codec, str(parameters)])
        report(f"averaging {FEW}", 0.2)
        few, _ = run_child(CHILD, ["average", folder, codec, str(parameters), str(min(FEW, updates))])
        report(f"averaging {updates}", 0.3)
        many, _ = run_child(CHILD, ["average", folder, codec, str(parameters), str(updates)])
    return AggregateResult(
        updates=updates,
        parameters=parameters,
        codec=codec,
        payload_bytes=int(made["payload_bytes"]),
        s_per_update=many["s_per_update"],
        numpy_s_per_update=plain["s_per_update"],
        bandwidth_bound_s_per_update=20 * parameters / plain["bytes_per_s"],
        ratio_numpy=many["s_per_update"] / plain["s_per_update"],
        copy_gb_per_s=plain["bytes_per_s"] / 1e9,
        peak_rss_mb=many["peak_rss_mb"],
        peak_rss_mb_of_few=few["peak_rss_mb"],
        few=min(FEW, updates),
        samples_ms=tuple(many["samples_ms"]),
    )


def verdict(result: AggregateResult) -> str:
    """The figures in words."""
    growth = result.peak_rss_mb - result.peak_rss_mb_of_few
    seconds = result.updates * result.s_per_update
    return (
        f"{result.updates} updates of {result.parameters:,} parameters take {seconds:.3g} s of one core, "
        f"{result.ratio_numpy:.0f} times what adding arrays takes; "
        f"{growth:+.1f} MB of memory against {result.few} updates."
    )
