"""Child: a TCP relay on loopback that counts what passes, the same for every system that is compared.

``python -m benchmarks.relay PORT`` listens on a free port, prints it, and passes every connection on to PORT.
When standard input ends it prints what passed, as one JSON object. Counted are the bytes of the TCP streams:
not the headers of TCP, IP and below, of which there are the same for a byte of any system.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable

BIN_S = 0.001  # counts are kept for each millisecond
READ_BYTES = 1 << 16
PUBLISH = 3  # type of packet, MQTT 3.1.1 section 2.2.1


class PublishCounter:
    """Counts the PUBLISH packets of one direction of a connection, from the fixed headers alone."""

    def __init__(self) -> None:
        self.count = 0
        self._left = 0  # bytes of the packet's body still to come
        self._header = bytearray()

    def feed(self, data: bytes) -> None:
        """The next bytes of the stream; a stream that is not MQTT gives a number without meaning."""
        at = 0
        while at < len(data):
            if self._left:
                taken = min(self._left, len(data) - at)
                self._left, at = self._left - taken, at + taken
                continue
            self._header.append(data[at])
            at += 1
            if len(self._header) > 1 and (self._header[-1] < 0x80 or len(self._header) > 4):
                self._begin()

    def _begin(self) -> None:
        self.count += self._header[0] >> 4 == PUBLISH
        digits = self._header[1:]
        self._left = sum((digit & 0x7F) << 7 * place for place, digit in enumerate(digits))
        self._header.clear()


class Relay:
    """All connections through one port."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._bins: dict[int, list[int]] = defaultdict(lambda: [0, 0, 0])

    async def serve(self) -> None:
        """Print the port, relay until standard input ends, print the counts."""
        server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        bins = [[number * BIN_S, *counts] for number, counts in sorted(self._bins.items())]
        print(json.dumps({"bins": bins}), flush=True)
        os._exit(0)  # connections that are open are cut, as by a cable

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.close()
            return
        await asyncio.gather(
            _pump(reader, inner_writer, self._counting(0)), _pump(inner_reader, writer, self._counting(1))
        )

    def _counting(self, direction: int) -> Callable[[bytes], None]:
        publishes = PublishCounter()

        def count(data: bytes) -> None:
            before = publishes.count
            publishes.feed(data)
            counts = self._bins[int(time.monotonic() / BIN_S)]
            counts[direction] += len(data)
            counts[2] += publishes.count - before

        return count


async def _pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, count: Callable[[bytes], None]
) -> None:
    try:
        while data := await reader.read(READ_BYTES):
            count(data)
            writer.write(data)
            await writer.drain()
    except OSError:
        pass  # either side hung up; the other is told below
    finally:
        writer.close()


if __name__ == "__main__":
    asyncio.run(Relay(int(sys.argv[1])).serve())
