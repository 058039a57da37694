"""What a device says of itself is always a valid record, whatever its sensors say."""

from __future__ import annotations

import builtins
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from edge_client import health as module
from edge_client.health import health, memory_mb, peak_rss_mb, temperature_c, throttled


def system(folder: Path, files: Mapping[str, str]) -> Path:
    """A tree like the kernel's."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def sensor(celsius: float, chip: str = "cpu_thermal") -> Mapping[str, str]:
    return {"class/hwmon/hwmon0/name": f"{chip}\n", "class/hwmon/hwmon0/temp1_input": f"{celsius * 1000}\n"}


@pytest.mark.parametrize(
    ("celsius", "said"), [(55.5, 55.5), (255.0, None), (-127.0, None), (float("nan"), None), (0.0, 0.0)]
)
def test_a_temperature_that_cannot_be_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, celsius: float, said: float | None
) -> None:
    monkeypatch.setattr(module, "SYS", system(tmp_path, sensor(celsius)))
    assert health(tmp_path).temperature_c == said


def test_only_the_processors_own_sensor_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"class/hwmon/hwmon0/name": "nvme\n", "class/hwmon/hwmon0/temp1_input": "41000\n"}
    monkeypatch.setattr(module, "SYS", system(tmp_path, files))
    assert temperature_c() is None
    files = {"class/hwmon/hwmon1/name": "cpu_thermal\n", "class/hwmon/hwmon1/temp1_input": "61322\n"}
    system(tmp_path, files)
    assert temperature_c() == 61.322


@pytest.mark.parametrize(("bits", "said"), [("0\n", False), ("50000\n", False), ("50005", True), ("1", True)])
def test_the_firmware_says_whether_the_clock_is_held_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bits: str, said: bool
) -> None:
    monkeypatch.setattr(module, "SYS", system(tmp_path, {module.FIRMWARE: bits}))
    assert throttled() is said


def test_memory_is_read_from_the_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "meminfo": "MemTotal:        1000 kB\nMemAvailable:     250 kB\n",
        "self/status": "VmHWM:\t 500 kB\n",
    }
    monkeypatch.setattr(module, "PROC", system(tmp_path, files))
    assert (memory_mb(), peak_rss_mb()) == (1.024, 0.512)
    assert health(tmp_path).free_memory_mb == 0.256


def test_it_works_without_psutil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: object, **options: object) -> object:
        if name == "psutil":
            raise ImportError(name)
        return real(name, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.delitem(sys.modules, "psutil", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    assert health(tmp_path).peak_rss_mb > 1
