"""A USB meter that is not there: it answers at the other end of a pseudo-terminal, as at a serial port."""

from __future__ import annotations

import os
import select
import struct
import threading
import tty
from collections.abc import Iterator
from contextlib import contextmanager

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from benchmarks.usb_meters import TC_KEY, crc16


def um_frame(model: int, volts: int, amperes: int, end: bytes) -> bytes:
    """130 bytes as sigrok's wiki lays them out: model, volts, amperes, watts, degrees, zeros, an end."""
    watts = struct.pack(">I", 1672)
    head = struct.pack(">3H", model, volts, amperes) + watts + struct.pack(">2H", 20, 68)
    return head.ljust(128, b"\0") + end


def tc66_frame(volts: int, amperes: int, *, crc_error: int = 0) -> bytes:
    """Three blocks with their checksums, encrypted."""
    first = b"pac1TC66" + b"1.14" + bytes(32) + struct.pack("<4I", 7, volts, amperes, 0)
    blocks = [first, b"pac2", b"pac3"]
    filled = [block.ljust(60, b"\0") for block in blocks]
    plain = b"".join(block + struct.pack("<I", crc16(block) ^ crc_error) for block in filled)
    encryptor = Cipher(algorithms.AES(TC_KEY), modes.ECB()).encryptor()  # noqa: S305 - the meter's own format
    return encryptor.update(plain) + encryptor.finalize()


@contextmanager
def at_a_port(question: bytes, answers: list[bytes]) -> Iterator[str]:
    """The port's name; each question gets the next answer, the last one again and again."""
    ours, theirs = os.openpty()
    tty.setraw(theirs)
    pulled = threading.Event()

    def serve() -> None:
        left = list(answers)
        while not pulled.is_set():
            if select.select([ours], [], [], 0.02)[0] and os.read(ours, 100) == question:
                os.write(ours, left.pop(0) if len(left) > 1 else left[0])

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield os.ttyname(theirs)
    finally:
        pulled.set()
        thread.join()
        os.close(theirs)
        os.close(ours)
