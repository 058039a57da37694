"""A whole fleet's latencies by one order in its ledger: given, followed while it is carried out, read.

The server asks each device (`broker_server.fleet_latency`), each device measures by the code of
``bramble-bench latency`` (`edge_client.measure`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.errors import BenchmarkError
from benchmarks.fleet_words import device_verdict
from benchmarks.models import read_model
from broker_server.config import ServerConfig
from broker_server.fleet import fleet_broker, ledger_path
from broker_server.fleet_latency import measured_files
from broker_server.report.observer import NullObserver
from broker_server.server import Server
from broker_server.store.latency import DONE, LatencyOrder, LatencyStore
from broker_server.store.ledger import Ledger
from broker_server.store.models import server_runs
from compression.errors import BrambleError
from compression.records import to_plain
from edge_client.measure.environment import facts
from edge_client.wire.latency import LatencyReport
from edge_client.wire.measurement import Measurement, MeasurePlan
from edge_client.wire.presence import Hello

LOOK_S = 0.2  # between two looks at the ledger
ALIVE_S = 2.0  # between two looks whether there still is a server
SLACK_S = 15.0  # after the order's time is up, for the server to say so
CALLED_OFF = "called off"
OWN_MODEL = "active model"

Said = Callable[[str, str, str], None]  # device, state, reason


def give_order(
    config: ServerConfig, model: Path | None, plan: MeasurePlan, *, devices: tuple[str, ...], wait_s: float
) -> int:
    """Write down that a fleet is to be measured; the order's number.

    Raises:
        BenchmarkError: the model is no file that a device can run.
        LedgerError: the fleet has not run yet.
    """
    data = None if model is None else read_model(model)[0]
    with _store(config) as (store, _):
        ref = None if data is None else measured_files(config).put(data)
        return store.give(LatencyOrder(devices, ref, plan, wait_s), time.time())


def follow(
    config: ServerConfig, number: int, said: Said, led: Callable[[], bool], *, wait_s: float
) -> list[dict[str, Any]]:
    """Wait for the devices; a row for each. An order that is no longer waited for is called off.

    Args:
        config: of the fleet.
        number: of the order.
        said: told whatever a device says.
        led: whether somebody leads the fleet still.
        wait_s: of the order.

    Raises:
        BenchmarkError: the order was refused, or nobody leads the fleet any more.
    """
    with _store(config) as (store, ledger):
        try:
            _wait(store, number, said, led, time.monotonic() + wait_s + SLACK_S)
        finally:
            store.end(number, CALLED_OFF)  # unless it is over
        if (answer := store.answer(number)) not in (DONE, CALLED_OFF):
            raise BenchmarkError(f"the server refuses: {answer}")
        reports, hellos = store.reports(number), ledger.devices()
        return [
            device_row(device, hellos[device], state, reason, reports.get(device))
            for device, (state, reason) in store.states(number).items()
        ]


def _wait(store: LatencyStore, number: int, said: Said, led: Callable[[], bool], until: float) -> None:
    known: dict[str, tuple[str, str]] = {}
    look_at = time.monotonic()
    while store.answer(number) is None and time.monotonic() < until:
        for device, now in store.states(number).items():
            if known.get(device) != now:
                known[device] = now
                said(device, *now)
        if time.monotonic() >= look_at:
            look_at = time.monotonic() + ALIVE_S
            if not led() and store.answer(number) is None:
                raise BenchmarkError("the server has stopped; start it, and give the command again")
        time.sleep(LOOK_S)


@contextmanager
def _store(config: ServerConfig) -> Iterator[tuple[LatencyStore, Ledger]]:
    with closing(Ledger(ledger_path(config), writer=False)) as ledger:
        yield LatencyStore(ledger.connection), ledger


# ---- who leads the fleet meanwhile ----


def server_at_work(config: ServerConfig) -> bool:
    """Whether a server leads this fleet now."""
    path = ledger_path(config)
    return path.exists() and server_runs(path)


class Leader(threading.Thread):
    """Leads a fleet without rounds, broker included, for as long as an order needs it."""

    def __init__(self, config: ServerConfig, folder: Path) -> None:
        super().__init__(name="leader", daemon=True)
        self._config, self._folder = config, folder
        self._told = threading.Event()
        self.problem: BrambleError | OSError | None = None

    def run(self) -> None:
        """Until there is nothing more to do, or told to stop."""
        try:
            with fleet_broker(self._config, self._folder) as broker:
                server = Server(self._config, broker, NullObserver())
                with closing(server.stages.ledger):
                    server.roll_out(self._told)
        except (BrambleError, OSError) as exc:
            self.problem = exc

    def led(self) -> bool:
        """Whether it still does; raise what kept it from it."""
        if self.problem is not None:
            raise self.problem
        return self.is_alive()

    def stop(self) -> None:
        """Come to an end."""
        self._told.set()
        self.join()


# ---- what came out ----


def device_row(
    device: str, hello: Hello, state: str, reason: str, report: LatencyReport | None
) -> dict[str, Any]:
    """One device as it stands in the result."""
    row: dict[str, Any] = {"device": device, "board": hello.board or f"{hello.architecture} host"}
    if report is None:
        why = reason if state in ("away", "silent") else ": ".join(filter(None, [state, reason]))
        return row | {"outcome": "no answer", "reason": why, "verdict": f"no answer: {why}"}
    row |= {"outcome": report.outcome, "reason": report.reason}
    if report.measurement is None:
        return row | {"verdict": f"{report.outcome}: {report.reason}"}
    return row | measured_row(report.measurement)


def measured_row(found: Measurement) -> dict[str, Any]:
    """The figures under the names that they have in a result of ``latency``, and the machine beside them."""
    plain: dict[str, Any] = to_plain(found)
    kept = ("timings", "cold_start", "conditions", "throttled_flags", "pinned")
    figures = {key: plain[key] for key in kept}
    return figures | {
        "file": OWN_MODEL if found.version else "file",
        "sha256": found.model,
        "bytes": found.bytes,
        "model_version": found.version,
        "threads": found.threads,
        "xnnpack": True,
        "batch": None,
        "runtime": found.runtime,
        "call_overhead_ms": found.call_overhead_ms,
        "load_ms": found.load_ms,
        "throttled": found.conditions.throttled,
        "environment": facts(found.environment),
        "board": found.environment.label,
        "verdict": device_verdict(found),
    }
