"""Child: bytes over TCP from one node to another, to see how large the packets are that carry them.

``python -m benchmarks.transfer receive HOST`` prints its port and takes what comes until the other hangs up;
``... send HOST PORT`` sends a megabyte and waits for that.
"""

from __future__ import annotations

import socket
import sys

BYTES = 1 << 20
READ_BYTES = 1 << 16
PATIENCE_S = 30.0


def receive(host: str) -> None:
    """Print the port, read until the end."""
    with socket.create_server((host, 0)) as listener:
        listener.settimeout(PATIENCE_S)
        print(listener.getsockname()[1], flush=True)
        connection, _ = listener.accept()
        with connection:
            while connection.recv(READ_BYTES):
                pass


def send(host: str, port: int) -> None:
    """Send, and return once the other side has read all."""
    with socket.create_connection((host, port), timeout=PATIENCE_S) as connection:
        connection.sendall(bytes(BYTES))
        connection.shutdown(socket.SHUT_WR)
        connection.recv(1)


if __name__ == "__main__":
    if sys.argv[1] == "receive":
        receive(sys.argv[2])
    else:
        send(sys.argv[2], int(sys.argv[3]))
