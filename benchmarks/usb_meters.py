"""USB meters that sit in a board's supply line, read over their serial port.

RDTech UM24C, UM25C and UM34C, mostly over Bluetooth (``rfcomm bind`` makes a port of it), and TC66 and TC66C
over USB. The makers publish no protocol; this follows the descriptions at sigrok.org (wiki: RDTech_UM_series,
RDTech_TC66C) and what its driver checks. A frame that is cut short, of another model or with a wrong checksum
is an error, never a figure. The libraries on PyPI check no checksum, or not all of them.
"""

from __future__ import annotations

import errno
import os
import struct
import termios
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import xor
from typing import Any

from benchmarks.errors import BenchmarkError

MOST_VOLTS, MOST_AMPERES = 32.0, 8.0  # beyond what any of them can measure
ANSWER_S = 2.0  # Bluetooth wakes up slowly
TRIES = 3  # a frame in a thousand is lost over Bluetooth


class FrameError(BenchmarkError):
    """What came is not a frame of that meter."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One moment at the meter."""

    model: str
    volts: float
    amperes: float

    @property
    def watts(self) -> float:
        """What is drawn."""
        return self.volts * self.amperes


# ---- UM24C, UM25C, UM34C: 130 bytes, big-endian ----

UM_BYTES = 130
UM_MODELS = {  # volts and amperes of one step
    0x0963: ("UM24C", 1e-2, 1e-3),
    0x09C9: ("UM25C", 1e-3, 1e-4),
    0x0D4C: ("UM34C", 1e-2, 1e-3),
}
UM_END = b"\xff\xf1"  # of UM24C and UM25C, which have no checksum
UM34C_SUMMED = (
    *(1, 3, 7, 9, 15, 17, 19, 23, 31, 39, 41, 45, 49, 53, 55, 57),
    *(59, 63, 67, 69, 73, 79, 83, 89, 97, 99, 109, 111, 113, 119, 121, 127),
)


def read_um(frame: bytes) -> Reading:
    """Parse one answer; raise `FrameError` for anything else."""
    _check_length(frame, UM_BYTES)
    number, volts, amperes = struct.unpack_from(">3H", frame)
    if number not in UM_MODELS:
        known = ", ".join(name for name, *_ in UM_MODELS.values())
        raise FrameError(f"model {number:#06x} is none of {known}")
    model, volt, ampere = UM_MODELS[number]
    if model == "UM34C":
        good = reduce(xor, (frame[place] for place in UM34C_SUMMED)) == frame[-1]
    else:
        good = frame.endswith(UM_END)
    if not good:
        raise FrameError(f"the frame of a {model} ends with {frame[-2:].hex()}: damaged on the way")
    return _reading(model, volts * volt, amperes * ampere)


# ---- TC66, TC66C: three blocks of 64 bytes, little-endian, encrypted with a key that all of them share ----

TC_BYTES, TC_BLOCK, TC_SUMMED = 192, 64, 60
TC_KEY = bytes.fromhex("5821fa5601b2f02687ff1204622a4fb086f40260816f9a0ba7f106619ab87288")
TC_VOLT, TC_AMPERE = 1e-4, 1e-5


def read_tc66(frame: bytes) -> Reading:
    """Parse one answer; raise `FrameError` for anything else."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes  # noqa: PLC0415 - as few need it

    _check_length(frame, TC_BYTES)
    decryptor = Cipher(algorithms.AES(TC_KEY), modes.ECB()).decryptor()  # noqa: S305 - the meter's own format
    plain = decryptor.update(frame) + decryptor.finalize()
    for number in range(3):
        block = plain[number * TC_BLOCK : (number + 1) * TC_BLOCK]
        if block[:4] != f"pac{number + 1}".encode():
            raise FrameError("no frame of a TC66: its blocks do not begin with pac1, pac2 and pac3")
        if crc16(block[:TC_SUMMED]) != struct.unpack_from("<I", block, TC_SUMMED)[0]:
            raise FrameError(f"the checksum of block {number + 1} is wrong: damaged on the way")
    volts, amperes = struct.unpack_from("<2I", plain, 48)
    return _reading(plain[4:8].decode("ascii", "replace").strip("\0 "), volts * TC_VOLT, amperes * TC_AMPERE)


def crc16(data: bytes) -> int:
    """CRC-16/MODBUS."""
    crc = 0xFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xA001 if crc & 1 else 0)
    return crc


def _check_length(frame: bytes, expected: int) -> None:
    if len(frame) != expected:
        raise FrameError(f"{len(frame)} of {expected} bytes came")


def _reading(model: str, volts: float, amperes: float) -> Reading:
    if volts > MOST_VOLTS or amperes > MOST_AMPERES:
        raise FrameError(f"{volts:g} V and {amperes:g} A: no {model} can measure that")
    return Reading(model, volts, amperes)


# ---- the port ----


@dataclass(frozen=True, slots=True)
class Kind:
    """How one family of meters is asked."""

    question: bytes
    answer_bytes: int
    baud: int
    parse: Callable[[bytes], Reading]


KINDS: Mapping[str, Kind] = {
    "um": Kind(b"\xf0", UM_BYTES, 9600, read_um),
    "tc66": Kind(b"getva", TC_BYTES, 115_200, read_tc66),
}


class UsbMeter:
    """A meter at a serial port, open while entered.

    Raises:
        BenchmarkError: it cannot be opened or does not answer as such a meter does.
    """

    def __init__(self, kind: str, port: str) -> None:
        if kind not in KINDS:
            raise BenchmarkError(f"no meter is called {kind!r}; there are {', '.join(KINDS)}")
        self._kind, self._port = KINDS[kind], port
        self._serial: Any = _open(port, self._kind.baud)
        try:
            self.name = f"{self.read().model} at {port}"
        except BenchmarkError:
            self._serial.close()
            raise

    def __enter__(self) -> UsbMeter:
        return self

    def __exit__(self, *_: object) -> None:
        self._serial.close()

    def watts(self) -> float:
        """What is drawn now."""
        return self.read().watts

    def read(self) -> Reading:
        """Ask it; a damaged answer is asked for again."""
        problem: FrameError | None = None
        for _ in range(TRIES):
            try:
                return self._kind.parse(self._ask())
            except FrameError as exc:
                problem = exc
            except (OSError, termios.error) as exc:  # pyserial lets the second one through
                raise BenchmarkError(f"the meter at {self._port} is gone: {exc}") from exc
        raise BenchmarkError(f"the meter at {self._port} does not answer as one: {problem}") from problem

    def _ask(self) -> bytes:
        self._serial.reset_input_buffer()
        self._serial.write(self._kind.question)
        return bytes(self._serial.read(self._kind.answer_bytes))


def _open(port: str, baud: int) -> Any:
    try:
        import serial  # noqa: PLC0415 - few have a meter
    except ImportError as exc:
        raise BenchmarkError(f"a meter needs pyserial: pip install 'bramble[meter]': {exc}") from exc
    try:
        return serial.Serial(port, baud, timeout=ANSWER_S, write_timeout=ANSWER_S, exclusive=True)
    except (OSError, ValueError) as exc:
        if getattr(exc, "errno", None) == errno.EACCES:
            raise BenchmarkError(f"{port} may not be opened: add this user to the group dialout") from exc
        reason = os.strerror(exc.errno) if isinstance(exc, OSError) and exc.errno else exc
        raise BenchmarkError(f"{port} is no serial port that can be opened: {reason}") from exc
