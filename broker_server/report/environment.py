"""What the report says about the machine it was made on; its name and its user are nobody's business."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from broker_server.report.schema import Environment

PACKAGES = ("ai-edge-litert", "amqtt", "numpy", "paho-mqtt", "tensorflow", "tf-keras", "tflite-runtime")
_CPU_INFO = Path("/proc/cpuinfo")


def current_environment(packages: Sequence[str] = PACKAGES, *, cpu_info: Path = _CPU_INFO) -> Environment:
    """This machine now; packages that are not installed are left out."""
    return Environment(
        architecture=platform.machine() or None,
        processor=_processor(cpu_info),
        cores=os.cpu_count(),
        memory_mb=psutil.virtual_memory().total / 1e6,
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        packages={name: found for name in packages if (found := _version(name))},
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor(cpu_info: Path) -> str | None:
    """The name that Linux knows, on x86 "model name" and on a Pi "Model"; else what Python knows."""
    try:
        lines = cpu_info.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    known = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return (known.get("model name") or known.get("Model") or platform.processor())[:200] or None
