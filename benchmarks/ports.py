"""Child: counts what passes the clients' ports of the bridge, in the hub of a benchmark's namespaces.

``python -m benchmarks.ports`` says that it is ready, looks at the counters a few hundred times a second, and
when standard input ends prints what passed, as one JSON object like the relay's. Counted are frames:
headers of Ethernet, IP and TCP and bare acknowledgements are in.
"""

from __future__ import annotations

import json
import sys
import threading
import time

from benchmarks.namespaces import client

EVERY_S = 0.005
CLIENT = client(0)[:-1]
DEVICES = "/proc/net/dev"  # of the namespace that the reader is in


def clients_total(text: str) -> tuple[int, int]:
    """Bytes from all clients and to all clients so far, by the lines of `DEVICES`."""
    up = down = 0
    for line in text.splitlines():
        name, colon, counters = line.partition(":")
        if colon and name.strip().startswith(CLIENT):
            fields = counters.split()  # eight of what the port received, eight of what it sent
            up, down = up + int(fields[0]), down + int(fields[8])
    return up, down


def main() -> None:
    """Count until standard input ends."""
    ended = threading.Event()
    threading.Thread(target=_wait_for_end, args=(ended,), daemon=True).start()
    bins: list[tuple[float, int, int]] = []
    with open(DEVICES) as devices:  # noqa: PTH123 - opened once, read again and again
        before = clients_total(devices.read())
        print("ready", flush=True)
        last = False
        while not last:
            last = ended.wait(EVERY_S)
            devices.seek(0)
            now = clients_total(devices.read())
            if now != before:
                bins.append((time.monotonic(), now[0] - before[0], now[1] - before[1]))
                before = now
    print(json.dumps({"bins": bins}), flush=True)


def _wait_for_end(ended: threading.Event) -> None:
    sys.stdin.read()
    ended.set()


if __name__ == "__main__":
    main()
