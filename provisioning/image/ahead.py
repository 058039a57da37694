"""Pieces made in a thread of their own while earlier ones are written: decoders let go of the interpreter."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from queue import SimpleQueue

DEPTH = 4  # pieces made and not yet used: bounds the memory


def ahead(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The same pieces in the same order, and the same exception where one ends them."""
    ready: SimpleQueue[bytes | BaseException | None] = SimpleQueue()
    room = threading.Semaphore(DEPTH)
    stopped = threading.Event()

    def work() -> None:
        try:
            for piece in pieces:
                room.acquire()
                if stopped.is_set():
                    return
                ready.put(piece)
            ready.put(None)
        except BaseException as exc:  # noqa: BLE001 - raised again where the pieces are used
            ready.put(exc)

    thread = threading.Thread(target=work, name="decode", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            room.release()
            yield item
    finally:
        stopped.set()
        room.release()
        thread.join()
