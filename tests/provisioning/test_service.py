"""The units: systemd accepts them, their hardening stands, and they start what was installed."""

from __future__ import annotations

import re
import shutil
import subprocess
from configparser import ConfigParser
from pathlib import Path, PurePosixPath

import pytest

from edge_client.device.slots import TRIAL_S
from provisioning.systemd.units import (
    EDGE,
    ENROL,
    FIRST_START_S,
    INSTALL,
    STATUS,
    UPGRADE,
    edge_unit,
    enabled,
    units,
)

BUNDLE = PurePosixPath("/boot/firmware/bramble")
needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)
# Keys of a newer systemd than bookworm's, which ignores them, and programs that lie on the device only.
EXPECTED = re.compile(r"Unknown key 'Restart(Steps|MaxDelaySec)'|is not executable: No such file")


def write_units(folder: Path) -> list[Path]:
    paths = []
    for name, text in units("/srv/images", BUNDLE, from_boot=True).items():
        (folder / name).write_text(text)
        paths.append(folder / name)
    return paths


@needs_systemd
def test_systemd_finds_nothing_wrong_with_them(tmp_path: Path) -> None:
    done = subprocess.run(
        ["systemd-analyze", "verify", *map(str, write_units(tmp_path))],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    ours = [line for line in done.stderr.splitlines() if "bramble" in line]
    assert [line for line in ours if not EXPECTED.search(line)] == []


@needs_systemd
@pytest.mark.parametrize(("name", "most"), [(EDGE, 2.0), (ENROL, 2.0), (STATUS, 5.0), (UPGRADE, 5.0)])
def test_exposure_stays_low(tmp_path: Path, name: str, most: float) -> None:
    write_units(tmp_path)
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", str(tmp_path / name)],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found is not None, done.stderr
    assert float(found[1]) < most


def parsed(text: str) -> ConfigParser:
    parser = ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(text)
    return parser


def test_the_client_is_watched_limited_and_always_started_again() -> None:
    service = parsed(edge_unit("/srv/images"))["Service"]
    assert (service["Type"], service["Restart"]) == ("notify", "always")
    assert int(service["WatchdogSec"]) > 0 and int(service["TimeoutStartSec"]) > 0
    assert service["MemoryHigh"] < service["MemoryMax"]
    assert (service["DynamicUser"], service["StateDirectory"]) == ("yes", "bramble")
    assert service["Environment"].startswith("BRAMBLE_")
    assert "BindReadOnlyPaths" not in service


@pytest.mark.parametrize(
    ("data", "bound"),
    [
        ("/home/pi/images", "-/home/pi/images"),
        ("/home/pi/my scans", r"-/home/pi/my\x20scans"),
        ("/home/pi/100%:a", r"-/home/pi/100%%\:a"),
    ],
)
def test_examples_in_a_home_are_shown_to_the_service_and_nothing_else_of_it(data: str, bound: str) -> None:
    service = parsed(edge_unit(data))["Service"]
    assert (service["ProtectHome"], service["BindReadOnlyPaths"]) == ("tmpfs", bound)


def test_a_trial_outlasts_the_slowest_start_that_is_allowed() -> None:
    """Or a device with many examples would go back from every new client."""
    assert TRIAL_S > FIRST_START_S


def test_what_starts_at_boot() -> None:
    names = tuple(units("/srv", BUNDLE, from_boot=True))
    assert set(names) - set(enabled(names)) == {STATUS, UPGRADE}
    assert INSTALL in names
    assert INSTALL not in units("/srv", BUNDLE, from_boot=False)


def test_enrolment_comes_before_the_service_and_is_tried_again_unless_refused() -> None:
    unit = parsed(units("/srv", BUNDLE, from_boot=False)[ENROL])
    assert unit["Unit"]["OnSuccess"] == EDGE
    assert unit["Unit"]["ConditionPathExists"].startswith("!")
    assert (unit["Service"]["Restart"], unit["Service"]["RestartPreventExitStatus"]) == ("on-failure", "1")
    edge = parsed(edge_unit("/srv"))
    assert edge["Unit"]["ConditionPathExists"] == unit["Unit"]["ConditionPathExists"][1:]
    assert ENROL in edge["Unit"]["After"]
