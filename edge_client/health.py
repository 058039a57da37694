"""What the device can say about itself; None where it has no sensor.

Read from ``/proc`` and ``/sys`` alone: psutil has no 32-bit Arm wheel, and one dependency less spares memory.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge_client.wire.presence import Health

PROC, SYS = Path("/proc"), Path("/sys")
MEGABYTE = 1e6
SENSORS = ("cpu_thermal", "coretemp", "k10temp")  # hwmon's names of the processor's own, Pi first
FIRMWARE = "devices/platform/soc/soc:firmware/get_throttled"  # as vcgencmd, but without its device file
COLDEST_C, HOTTEST_C = -60.0, 200.0  # what `Health` holds; a broken sensor says 255 or -127
FRESH_S = 5.0  # temperature and memory hardly move in less
THROTTLED_NOW = 0x4 | 0x1  # vcgencmd get_throttled: bit 0 under-voltage, bit 2 throttled


def peak_rss_mb() -> float:
    """Largest resident set of this process so far, in MB (10^6 bytes).

    From VmHWM: ``getrusage`` keeps the parent's peak across exec.
    """
    return _kilobytes(PROC / "self" / "status", "VmHWM") * 1024 / MEGABYTE


def board() -> str:
    """The board's name as its device tree says; empty where there is none."""
    return _device_tree("model")


def board_serial() -> str:
    """The board's serial number as its device tree says; empty where there is none."""
    return _device_tree("serial-number")


def _device_tree(entry: str) -> str:
    with contextlib.suppress(OSError):
        text = (PROC / "device-tree" / entry).read_text(encoding="utf-8", errors="replace")
        return text.strip("\0 ")[:100]
    return ""


def temperature_c() -> float | None:
    """Temperature of the processor, as its sensor says."""
    chips = sorted(SYS.glob("class/hwmon/hwmon*"))
    for name in SENSORS:
        for chip in chips:
            with contextlib.suppress(OSError, ValueError):
                if (chip / "name").read_text().strip() == name:
                    return float((chip / "temp1_input").read_text()) / 1000
    return None


def throttled() -> bool | None:
    """Whether the firmware holds the clock down now; None off a Raspberry Pi."""
    with contextlib.suppress(OSError, ValueError):
        return bool(int((SYS / FIRMWARE).read_text(), 16) & THROTTLED_NOW)
    if not (tool := shutil.which("vcgencmd")):
        return None
    with contextlib.suppress(OSError, ValueError, subprocess.SubprocessError):
        answer = subprocess.run(
            [tool, "get_throttled"], capture_output=True, text=True, timeout=5, check=True
        )
        return bool(int(answer.stdout.strip().partition("=")[2], 16) & THROTTLED_NOW)
    return None


def on_mains() -> bool | None:
    """Whether the machine is on mains power; None without a battery to tell by."""
    supplies = {supply: _line(supply / "type") for supply in SYS.glob("class/power_supply/*")}
    batteries = [supply for supply, kind in supplies.items() if kind == "Battery"]
    if not batteries:
        return None
    if mains := [supply for supply, kind in supplies.items() if kind in ("Mains", "USB")]:
        return any(_line(supply / "online") == "1" for supply in mains)
    return any(_line(battery / "status") != "Discharging" for battery in batteries)


def cores() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0))


def memory_mb() -> float:
    """The machine's memory in MB."""
    return _kilobytes(PROC / "meminfo", "MemTotal") * 1024 / MEGABYTE


def architecture() -> str:
    """Machine and word size, as "aarch64" or "armv7l"."""
    return platform.machine()


def health(directory: Path) -> Health:
    """The state of this process and of the disk that holds `directory`."""
    from edge_client.wire.presence import Health  # noqa: PLC0415 - numpy: seconds that enrolment can spare

    celsius = temperature_c()
    return Health(
        peak_rss_mb=peak_rss_mb(),
        free_memory_mb=free_memory_mb(),
        free_disk_mb=shutil.disk_usage(directory).free / MEGABYTE,
        temperature_c=celsius if celsius is not None and COLDEST_C <= celsius <= HOTTEST_C else None,
        throttled=throttled(),
        on_mains=on_mains(),
        imports_tensorflow="tensorflow" in sys.modules,
    )


class Checkup:
    """`health` of a device that is asked often: what is younger than `FRESH_S` serves again.

    Half a millisecond of a round, or a process for the firmware's tool, when rounds follow each other fast.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._at = float("-inf")
        self._latest: Health | None = None

    def health(self) -> Health:
        """The state as it is, or was a moment ago."""
        if self._latest is None or time.monotonic() - self._at > FRESH_S:
            self._latest, self._at = health(self._directory), time.monotonic()
        return self._latest


def free_memory_mb() -> float:
    """Memory that can be had without swapping, in MB, as the kernel reckons it."""
    return _kilobytes(PROC / "meminfo", "MemAvailable") * 1024 / MEGABYTE


def _kilobytes(path: Path, field: str) -> int:
    """A line ``Field:  123 kB`` of a file of the kernel; 0 without it."""
    found = re.search(rf"^{field}:\s*(\d+)", path.read_text(), re.MULTILINE)
    return int(found[1]) if found else 0


def _line(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text().strip()
    return ""
