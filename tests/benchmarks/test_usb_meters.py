"""USB meters: frames whose figures and checksums are known by hand, and a meter at a pseudo-terminal."""

from __future__ import annotations

import dataclasses
import errno
import sys
from pathlib import Path

import pytest
import serial
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import usb_meters
from benchmarks.cli import main
from benchmarks.energy import benchmark_energy, verdict
from benchmarks.errors import BenchmarkError
from benchmarks.usb_meters import FrameError, UsbMeter, crc16, read_tc66, read_um
from edge_client.measure.environment import read_environment
from tests.benchmarks.tiny import tiny_model
from tests.benchmarks.usb_meter import at_a_port, tc66_frame, um_frame

UM25C = um_frame(0x09C9, 5100, 3280, b"\xff\xf1")
UM34C_SUM = 0x4C ^ 0xFE ^ 0x88  # of model, volts and watts; every other byte that counts is 0


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usb_meters, "ANSWER_S", 0.2)


def test_the_models_of_one_family_count_in_steps_of_their_own() -> None:
    small = read_um(um_frame(0x0963, 510, 328, b"\xff\xf1"))
    assert (small.model, small.volts, small.amperes) == ("UM24C", pytest.approx(5.1), pytest.approx(0.328))
    large = read_um(um_frame(0x0D4C, 0x01FE, 328, bytes([0, UM34C_SUM])))
    assert (large.model, large.volts, large.amperes) == ("UM34C", pytest.approx(5.1), pytest.approx(0.328))
    fine = read_um(UM25C)
    assert (fine.model, fine.volts, fine.amperes) == ("UM25C", pytest.approx(5.1), pytest.approx(0.328))
    assert fine.watts == pytest.approx(1.6728)


def test_a_tc66_counts_in_tenths_of_a_millivolt() -> None:
    reading = read_tc66(tc66_frame(51_000, 32_800))
    assert (reading.model, reading.volts, reading.amperes) == (
        "TC66",
        pytest.approx(5.1),
        pytest.approx(0.328),
    )
    assert crc16(b"123456789") == 0x4B37  # the check value of CRC-16/MODBUS


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (UM25C[:-1], "129 of 130 bytes came"),
        (b"", "0 of 130 bytes came"),
        (b"\0\0" + UM25C[2:], "model 0x0000 is none of UM24C, UM25C, UM34C"),
        (UM25C[:-1] + b"\0", "a UM25C ends with ff00: damaged on the way"),
        (um_frame(0x0D4C, 0x01FE, 328, bytes([0, UM34C_SUM ^ 1])), "a UM34C ends with 003b"),
        (um_frame(0x09C9, 60_000, 0, b"\xff\xf1"), "60 V and 0 A: no UM25C can measure that"),
    ],
)
def test_a_damaged_frame_is_no_figure(frame: bytes, message: str) -> None:
    with pytest.raises(FrameError, match=message):
        read_um(frame)


def test_a_damaged_frame_of_a_tc66_is_no_figure() -> None:
    with pytest.raises(FrameError, match="191 of 192 bytes"):
        read_tc66(tc66_frame(1, 1)[:-1])
    with pytest.raises(FrameError, match="checksum of block 1 is wrong"):
        read_tc66(tc66_frame(1, 1, crc_error=1))
    with pytest.raises(FrameError, match="do not begin with pac1"):
        read_tc66(bytes(192))
    with pytest.raises(FrameError, match="no TC66 can measure that"):
        read_tc66(tc66_frame(400_000, 0))


@given(st.binary(min_size=125, max_size=200))
def test_anything_else_is_one_error(frame: bytes) -> None:
    for parse in (read_um, read_tc66):
        with pytest.raises(FrameError):
            parse(frame)


def test_energy_of_a_steady_draw_at_a_port(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model.tflite")
    host = dataclasses.replace(read_environment(), board=None)
    with at_a_port(b"getva", [tc66_frame(50_000, 40_000)]) as port, UsbMeter("tc66", port) as meter:
        result = benchmark_energy(model, host, meter=meter, for_s=0.2, root=tmp_path)
    assert not result.estimate and result.source == f"TC66 at {port}"
    assert result.watts == result.idle_watts == pytest.approx(2.0)
    assert result.mj_above_idle == pytest.approx(0.0, abs=1e-6)
    assert "ESTIMATE" not in verdict(result)


def test_a_damaged_answer_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with at_a_port(b"\xf0", [UM25C[:-2] + b"\0\0", UM25C]) as port, UsbMeter("um", port) as meter:
        assert meter.watts() == pytest.approx(1.6728)
    with (
        at_a_port(b"\xf0", [b"hello"]) as port,
        pytest.raises(BenchmarkError, match="does not answer as one: 5 of 130 bytes came"),
    ):
        UsbMeter("um", port)


def error_of(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main(["energy", *map(str, arguments)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    return error


def test_ports_that_cannot_be_read_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model(tmp_path / "model.tflite")
    absent = tmp_path / "ttyUSB0"
    assert f"{absent} is no serial port that can be opened: No such file" in error_of(
        capsys, model, "--meter", f"um:{absent}"
    )
    assert "is no serial port" in error_of(capsys, model, "--meter", f"um:{model}")
    with pytest.raises(SystemExit):
        main(["energy", str(model), "--meter", "abacus:/dev/ttyUSB0"])
    with pytest.raises(SystemExit):
        main(["energy", str(model), "--meter", "um:/dev/ttyUSB0", "--watts", "3"])
    with pytest.raises(BenchmarkError, match="no meter is called 'abacus'"):
        UsbMeter("abacus", "/dev/ttyUSB0")
    capsys.readouterr()
    monkeypatch.setitem(sys.modules, "serial", None)
    assert "pip install 'bramble[meter]'" in error_of(capsys, model, "--meter", f"um:{absent}")


def test_a_port_of_others_names_the_group(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise serial.SerialException(errno.EACCES, "could not open port")

    monkeypatch.setattr(serial, "Serial", refuse)
    with pytest.raises(BenchmarkError, match="ttyUSB0 may not be opened: add this user to the group dialout"):
        UsbMeter("um", "/dev/ttyUSB0")


def test_a_meter_that_is_pulled_out_is_one_line() -> None:
    with at_a_port(b"\xf0", [UM25C]) as port:
        meter = UsbMeter("um", port)
    with meter, pytest.raises(BenchmarkError, match=r"the meter at .* is gone"):
        meter.watts()
