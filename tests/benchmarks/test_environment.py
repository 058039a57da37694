"""The machine, from files that stand for it: only a device tree makes a Raspberry Pi."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from edge_client.measure.environment import (
    NO_GOVERNOR,
    NO_SENSOR,
    facts,
    firmware_throttled,
    read_environment,
)


def write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_raspberry_pi_by_its_device_tree(tmp_path: Path) -> None:
    write(tmp_path, "proc/device-tree/model", "Raspberry Pi 4 Model B Rev 1.4\0")
    write(tmp_path, "proc/meminfo", "MemTotal:        3884332 kB\nMemFree: 1 kB\n")
    write(tmp_path, "etc/os-release", 'NAME="Debian"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n')
    write(tmp_path, "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "ondemand\n")
    write(tmp_path, "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", "1500000\n")
    write(tmp_path, "sys/class/thermal/thermal_zone0/type", "cpu-thermal\n")
    write(tmp_path, "sys/class/thermal/thermal_zone0/temp", "52582\n")
    found = read_environment(root=tmp_path, machine="aarch64", throttled=lambda: True)
    assert found.label == "Raspberry Pi 4 Model B Rev 1.4 (aarch64)"
    assert (found.governor, found.clock_mhz, found.temperature_c) == ("ondemand", 1500.0, 52.582)
    assert found.memory_mb == pytest.approx(3977.556, abs=0.01)
    assert found.system == "Debian GNU/Linux 12 (bookworm)"
    assert found.throttled is True and found.emulated is False


def test_what_is_missing_is_said_to_be_missing(tmp_path: Path) -> None:
    found = read_environment(root=tmp_path, machine="aarch64", throttled=lambda: None)
    assert found.label == "aarch64 host"  # an Arm machine without a device tree is no Pi
    assert (found.board, found.memory_mb, found.clock_mhz, found.throttled) == (None, None, None, None)
    assert (found.governor, facts(found)["temperature_c"]) == (NO_GOVERNOR, NO_SENSOR)


@pytest.mark.parametrize("file", ["proc/device-tree/model", "sys/class/dmi/id/product_name"])
def test_an_emulated_board_is_called_emulated(tmp_path: Path, file: str) -> None:
    write(tmp_path, file, "linux,dummy-virt\0" if "tree" in file else "QEMU Virtual Machine\n")
    found = read_environment(root=tmp_path, machine="aarch64", throttled=lambda: None)
    assert found.emulated and found.label == "emulated aarch64"


def test_sensors_that_hold_nonsense_are_no_sensors(tmp_path: Path) -> None:
    write(tmp_path, "sys/class/thermal/thermal_zone0/type", "cpu-thermal")
    write(tmp_path, "sys/class/thermal/thermal_zone0/temp", "hot")
    write(tmp_path, "sys/class/thermal/thermal_zone1/type", "battery")
    write(tmp_path, "sys/class/thermal/thermal_zone1/temp", "20000")
    assert read_environment(root=tmp_path, throttled=lambda: None).temperature_c is None


@pytest.mark.parametrize(
    ("answer", "throttled"),
    [("throttled=0x0", False), ("throttled=0x50005", True), ("throttled=0x50000", False), ("rubbish", None)],
)
def test_the_firmware_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, throttled: bool | None
) -> None:
    """0x5 is under-voltage and throttled now; 0x50000 is that it has happened since the start."""
    tool = tmp_path / "vcgencmd"
    tool.write_text(f"#!/bin/sh\necho {answer}\n")
    tool.chmod(tool.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert firmware_throttled() is throttled


def test_this_machine_can_be_read() -> None:
    found = read_environment()
    assert found.cores >= 1 and found.memory_mb and found.python
    if not Path("/proc/device-tree/model").exists():
        assert found.board is None and "Raspberry" not in found.label


@pytest.mark.parametrize(
    ("flags", "throttled"), [("0", False), ("50005", True), ("50000", False), ("?", None)]
)
def test_throttling_from_the_kernel(tmp_path: Path, flags: str, throttled: bool | None) -> None:
    """Bits 16 and up say that it has happened since the start, not that it does."""
    file = tmp_path / "sys/devices/platform/soc/soc:firmware/get_throttled"
    file.parent.mkdir(parents=True)
    file.write_text(f"{flags}\n")
    assert firmware_throttled(tmp_path) is throttled
