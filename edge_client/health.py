"""What the device can say about itself; None where it has no sensor."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import psutil

from edge_client.wire.messages import Health

MEGABYTE = 1e6
COLDEST_C, HOTTEST_C = -60.0, 200.0  # what `Health` holds; a broken sensor says 255 or -127
THROTTLED_NOW = 0x4 | 0x1  # vcgencmd get_throttled: bit 0 under-voltage, bit 2 throttled


def peak_rss_mb() -> float:
    """Largest resident set of this process so far, in MB (10^6 bytes).

    From VmHWM: ``getrusage`` keeps the parent's peak across exec.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / MEGABYTE
    return psutil.Process().memory_info().rss / MEGABYTE


def board() -> str:
    """The board's name as its device tree says; empty where there is none."""
    return _device_tree("model")


def board_serial() -> str:
    """The board's serial number as its device tree says; empty where there is none."""
    return _device_tree("serial-number")


def _device_tree(entry: str) -> str:
    with contextlib.suppress(OSError):
        text = Path("/proc/device-tree", entry).read_text(encoding="utf-8", errors="replace")
        return text.strip("\0 ")[:100]
    return ""


def temperature_c() -> float | None:
    """Temperature of the processor, as its sensor says."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        for name in ("cpu_thermal", "coretemp", "k10temp"):
            if readings := psutil.sensors_temperatures().get(name):
                return float(readings[0].current)
    return None


def throttled() -> bool | None:
    """Whether the firmware holds the clock down now; None off a Raspberry Pi."""
    if not (tool := shutil.which("vcgencmd")):
        return None
    with contextlib.suppress(OSError, ValueError, subprocess.SubprocessError):
        answer = subprocess.run(
            [tool, "get_throttled"], capture_output=True, text=True, timeout=5, check=True
        )
        return bool(int(answer.stdout.strip().partition("=")[2], 16) & THROTTLED_NOW)
    return None


def cores() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0))


def memory_mb() -> float:
    """The machine's memory in MB."""
    return psutil.virtual_memory().total / MEGABYTE


def architecture() -> str:
    """Machine and word size, as "aarch64" or "armv7l"."""
    return platform.machine()


def health(directory: Path) -> Health:
    """The state of this process and of the disk that holds `directory`."""
    celsius = temperature_c()
    return Health(
        peak_rss_mb=peak_rss_mb(),
        free_memory_mb=psutil.virtual_memory().available / MEGABYTE,
        free_disk_mb=shutil.disk_usage(directory).free / MEGABYTE,
        temperature_c=celsius if celsius is not None and COLDEST_C <= celsius <= HOTTEST_C else None,
        throttled=throttled(),
        imports_tensorflow="tensorflow" in sys.modules,
    )
