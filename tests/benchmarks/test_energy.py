"""Power from files as the kernel writes them, and estimates that say that they are."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from benchmarks.cli import main
from benchmarks.energy import benchmark_energy, verdict
from benchmarks.errors import BenchmarkError
from benchmarks.power import find_meter, typical_watts
from edge_client.measure.environment import read_environment
from tests.benchmarks.tiny import tiny_model

HOST = dataclasses.replace(read_environment(), board=None, emulated=False)
PI = dataclasses.replace(HOST, board="Raspberry Pi 4 Model B Rev 1.4")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_model(tmp_path / "model.tflite")


def hwmon(root: Path, microwatts: str) -> Path:
    folder = root / "sys/class/hwmon/hwmon0"
    folder.mkdir(parents=True)
    (folder / "name").write_text("ina219\n")
    (folder / "power1_input").write_text(microwatts)
    return root


def test_a_sensor_under_hwmon_is_in_microwatts(tmp_path: Path) -> None:
    meter = find_meter(hwmon(tmp_path, "2500000\n"))
    assert meter is not None and meter.name == "ina219"
    assert meter.watts() == pytest.approx(2.5)


def test_a_sensor_under_iio_is_in_milliwatts_times_its_scale(tmp_path: Path) -> None:
    folder = tmp_path / "sys/bus/iio/devices/iio:device0"
    folder.mkdir(parents=True)
    (folder / "name").write_text("ina260\n")
    (folder / "in_power2_raw").write_text("300\n")
    (folder / "in_power2_scale").write_text("10.0\n")
    meter = find_meter(tmp_path)
    assert meter is not None and meter.watts() == pytest.approx(3.0)


def test_other_sensors_are_no_meters(tmp_path: Path) -> None:
    root = hwmon(tmp_path, "1")
    (root / "sys/class/hwmon/hwmon0/name").write_text("cpu_thermal\n")
    assert find_meter(root) is None


def test_measured_energy_of_a_steady_draw(tmp_path: Path, model: Path) -> None:
    result = benchmark_energy(model, HOST, for_s=0.2, root=hwmon(tmp_path, "2000000"))
    assert not result.estimate and result.source == "ina219"
    assert result.idle_watts == pytest.approx(2.0, rel=0.1)
    assert result.mj_per_answer == pytest.approx(1e3 * result.watts * result.seconds / result.answers)
    assert "ESTIMATE" not in verdict(result)


def test_a_sensor_that_cannot_be_read_is_an_error(tmp_path: Path, model: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"power1_input: the sensor ina219 cannot be read"):
        benchmark_energy(model, HOST, for_s=0.1, root=hwmon(tmp_path, "nonsense"))


def test_an_estimate_says_so_and_from_what(tmp_path: Path, model: Path) -> None:
    result = benchmark_energy(model, PI, for_s=0.05, root=tmp_path)
    assert result.estimate and result.watts == pytest.approx(5.1 * 0.6)
    assert result.idle_watts is None and result.mj_above_idle is None
    assert verdict(result).startswith("ESTIMATE, not measured") and "Raspberry Pi 4" in verdict(result)
    given = benchmark_energy(model, HOST, watts=4.0, for_s=0.05, root=tmp_path)
    assert given.mj_per_answer == pytest.approx(4e3 * given.seconds / given.answers)
    assert "4 W as given" in given.source


def test_nothing_to_go_by_is_an_error(tmp_path: Path, model: Path) -> None:
    for environment in (HOST, dataclasses.replace(PI, emulated=True)):
        with pytest.raises(BenchmarkError, match="no power sensor"):
            benchmark_energy(model, environment, for_s=0.05, root=tmp_path)


def test_a_model_that_cannot_run_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = (tiny_model(tmp_path / "model.tflite")).read_bytes()
    for name, content, message in (
        ("empty", b"", "not a TFLite file: 0 bytes"),
        ("cut", data[: len(data) // 2], "damaged or cut short"),
        ("folder", None, "Is a directory"),
    ):
        file = tmp_path / f"{name}.tflite"
        file.mkdir() if content is None else file.write_bytes(content)
        assert main(["energy", str(file), "--watts", "3"]) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1 and message in error


@pytest.mark.parametrize(
    ("board", "watts"),
    [
        ("Raspberry Pi Zero 2 W Rev 1.0", 5.1 * 0.35),
        ("Raspberry Pi Zero W Rev 1.1", 5.1 * 0.15),
        ("Raspberry Pi 3 Model B Plus Rev 1.3", 5.1 * 0.5),
        ("Raspberry Pi 3 Model B Rev 1.2", 5.1 * 0.4),
        ("Some other board", None),
        (None, None),
    ],
)
def test_typical_draws(board: str | None, watts: float | None) -> None:
    assert typical_watts(board) == (None if watts is None else pytest.approx(watts))


def test_the_command(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["energy", str(model), "--watts", "3", "--seconds", "0.05"]) == 0
    assert "ESTIMATE, not measured" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["energy", str(model), "--watts", "none"])
