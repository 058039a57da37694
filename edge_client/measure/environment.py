"""The machine that a figure was measured on, beside the figure.

What cannot be read is said to be missing. A machine is called a Raspberry Pi only where its own device tree
says so; everything else is "x86_64 host" or the like, and an emulated board is called emulated.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from compression.records import to_plain
from edge_client.wire.measurement import COLDEST_C, HOTTEST_C, Environment

PACKAGES = ("bramble", "ai-edge-litert", "tflite-runtime", "numpy", "tensorflow", "tf-keras")
EMULATORS = ("dummy-virt", "qemu", "bochs")  # in the board's name, lower case
NO_SENSOR = "no sensor"
NO_GOVERNOR = "no frequency scaling"
FIRMWARE_FLAGS = "sys/devices/platform/soc/soc:firmware/get_throttled"  # the raspberrypi driver, hexadecimal
HEXADECIMAL = re.compile(r"(0x)?[0-9a-f]{1,8}")
THROTTLED_NOW = 0x1 | 0x2 | 0x4 | 0x8  # vcgencmd: under-voltage, frequency capped, throttled, soft limit


def read_environment(
    *,
    root: Path = Path("/"),
    machine: str | None = None,
    throttled: Callable[[], bool | None] | None = None,
) -> Environment:
    """Look at this machine.

    Args:
        root: where /proc, /sys and /etc are; another one in tests.
        machine: the architecture, as ``platform.machine()`` by default.
        throttled: asks the firmware, as `firmware_throttled` by default.
    """
    architecture = machine or platform.machine()
    board = _text(root / "proc/device-tree/model")
    emulated = any(
        word in (board or _text(root / "sys/class/dmi/id/product_name") or "").lower() for word in EMULATORS
    )
    return Environment(
        label=_label(board, architecture, emulated),
        board=board,
        emulated=emulated,
        architecture=architecture,
        processor=_value(root / "proc/cpuinfo", ("model name", "Model", "Hardware"), ":"),
        cores=len(os.sched_getaffinity(0)),
        memory_mb=_memory_mb(root / "proc/meminfo"),
        system=(_value(root / "etc/os-release", ("PRETTY_NAME",), "=") or platform.system()).strip('"'),
        kernel=platform.release(),
        governor=_text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or NO_GOVERNOR,
        clock_mhz=read_clock(root),
        temperature_c=read_temperature(root),
        throttled=(throttled or firmware_throttled)(),
        load_1min=_load(),
        python=platform.python_version(),
        packages={name: found for name in PACKAGES if (found := _version(name))},
    )


def facts(environment: Environment) -> dict[str, Any]:
    """As it stands in a result: a thermometer that is missing is said to be."""
    plain: dict[str, Any] = to_plain(environment)
    return plain | {"temperature_c": NO_SENSOR} if environment.temperature_c is None else plain


def firmware_throttled(root: Path = Path("/")) -> bool | None:
    """Whether a Raspberry Pi's firmware slows the processor down now; None elsewhere."""
    flags = firmware_flags(root)
    return None if flags is None else bool(flags & THROTTLED_NOW)


def firmware_flags(root: Path = Path("/")) -> int | None:
    """What a Raspberry Pi's firmware says of power and throttling: now, and 16 bits up since the start.

    From the kernel's file where it has one, which starts no process, else from ``vcgencmd``; None elsewhere.
    """
    said = _text(root / FIRMWARE_FLAGS)
    if said is None and (tool := shutil.which("vcgencmd")) is not None:
        try:
            answer = subprocess.run(
                [tool, "get_throttled"], capture_output=True, text=True, timeout=5, check=True
            )
        except (OSError, ValueError, subprocess.SubprocessError):
            return None
        said = answer.stdout.strip().partition("=")[2]
    return int(said, 16) if said and HEXADECIMAL.fullmatch(said) else None


def _label(board: str | None, architecture: str, emulated: bool) -> str:
    if emulated:
        return f"emulated {architecture}"
    return f"{board} ({architecture})" if board else f"{architecture} host"


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0 \n")[:200] or None
    except OSError:
        return None


def _value(path: Path, keys: tuple[str, ...], separator: str) -> str | None:
    lines = (_whole(path) or "").splitlines()
    known = {key.strip(): value.strip() for key, _, value in (line.partition(separator) for line in lines)}
    return next((known[key][:200] for key in keys if known.get(key)), None)


def _whole(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def _scaled(path: Path, divisor: float) -> float | None:
    try:
        return int(path.read_text()) / divisor
    except (OSError, ValueError):
        return None


def _memory_mb(path: Path) -> float | None:
    total = _value(path, ("MemTotal",), ":")
    return int(total.split()[0]) * 1024 / 1e6 if total else None


def read_clock(root: Path = Path("/")) -> float | None:
    """Of the first processor, in MHz; None without frequency scaling."""
    return _scaled(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", 1e3)


def read_temperature(root: Path = Path("/")) -> float | None:
    """Of the processor's thermal zone, in degrees Celsius; None without one, as on virtual machines."""
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        if "cpu" in (_text(zone / "type") or "") or "pkg" in (_text(zone / "type") or ""):
            degrees = _scaled(zone / "temp", 1e3)
            if degrees is not None and COLDEST_C <= degrees <= HOTTEST_C:
                return degrees
    return None


def _load() -> float | None:
    try:
        return os.getloadavg()[0]
    except OSError:
        return None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
