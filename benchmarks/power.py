"""What the board draws: from a current sensor that the kernel drives, or an estimate that says so.

INA219, INA226, INA260 and their like show up under hwmon or IIO once their device-tree overlay is loaded
(``dtoverlay=i2c-sensor,ina219`` on a Raspberry Pi); hwmon gives microwatts (kernel, hwmon/sysfs-interface),
IIO milliwatts as raw times scale (kernel, ABI/testing/sysfs-bus-iio).
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Protocol

from benchmarks.errors import BenchmarkError

CHIPS = ("ina2", "ina3", "ina7", "isl28022", "ltc2945")
EVERY_S = 0.05
# Volts times the "typical bare-board active current consumption" of the power supply page of
# raspberrypi.com/documentation; longest name first. The whole board, not the processor.
SUPPLY_V = 5.1
ACTIVE_A = {
    "Raspberry Pi Zero 2": 0.35,
    "Raspberry Pi Zero W": 0.15,
    "Raspberry Pi Zero": 0.1,
    "Raspberry Pi 3 Model A Plus": 0.35,
    "Raspberry Pi 3 Model B Plus": 0.5,
    "Raspberry Pi 3 Model B": 0.4,
    "Raspberry Pi 2 Model B": 0.35,
    "Raspberry Pi 4 Model B": 0.6,
    "Raspberry Pi 5": 0.8,
}


class PowerMeter(Protocol):
    """Anything that says what the board draws."""

    @property
    def name(self) -> str:
        """What it is."""

    def watts(self) -> float:
        """What is drawn now; raise `BenchmarkError` if it cannot be read."""


@dataclass(frozen=True, slots=True)
class Meter:
    """A sensor: a file, and what its number is to be multiplied by to be watts."""

    name: str
    file: Path
    factor: float

    def watts(self) -> float:
        """What is drawn now; raise `BenchmarkError` if the sensor cannot be read."""
        try:
            return int(self.file.read_text()) * self.factor
        except (OSError, ValueError) as exc:
            raise BenchmarkError(f"{self.file}: the sensor {self.name} cannot be read: {exc}") from exc


def find_meter(root: Path = Path("/")) -> Meter | None:
    """The first sensor of power that the kernel drives; None without one."""
    for folder in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        for file in sorted(folder.glob("power*_input")) if _is_meter(folder) else ():
            return Meter(_name(folder), file, 1e-6)
    for folder in sorted((root / "sys/bus/iio/devices").glob("iio:device*")):
        for file in sorted(folder.glob("in_power*_raw")) if _is_meter(folder) else ():
            return Meter(_name(folder), file, _scale(file) * 1e-3)
    return None


def typical_watts(board: str | None) -> float | None:
    """Of a board that computes, by its name; None for one that is not in the table."""
    names = (name for name in ACTIVE_A if (board or "").startswith(name))
    name = next(names, None)
    return None if name is None else SUPPLY_V * ACTIVE_A[name]


class Integral:
    """Power by the trapezoidal rule, in a thread of its own while entered."""

    def __init__(self, meter: PowerMeter) -> None:
        self._meter = meter
        self._samples: list[tuple[float, float]] = []
        self._problem: BenchmarkError | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="power", daemon=True)

    def __enter__(self) -> Integral:
        self._look()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._look()

    @property
    def watts(self) -> float:
        """The mean so far; raise `BenchmarkError` if the sensor failed meanwhile."""
        if self._problem is not None:
            raise self._problem
        joules = sum(
            (later[0] - before[0]) * (later[1] + before[1]) / 2 for before, later in pairwise(self._samples)
        )
        return joules / (self._samples[-1][0] - self._samples[0][0])

    def _watch(self) -> None:
        try:
            while not self._stop.wait(EVERY_S):
                self._look()
        except BenchmarkError as exc:
            self._problem = exc

    def _look(self) -> None:
        self._samples.append((time.monotonic(), self._meter.watts()))


def _is_meter(folder: Path) -> bool:
    return _name(folder).startswith(CHIPS)


def _name(folder: Path) -> str:
    try:
        return (folder / "name").read_text().strip()
    except OSError:
        return ""


def _scale(raw: Path) -> float:
    file = raw.with_name(raw.name.removesuffix("_raw") + "_scale")
    try:
        return float(file.read_text())
    except FileNotFoundError:
        return 1.0
    except (OSError, ValueError) as exc:
        raise BenchmarkError(f"{file}: {exc}") from exc
