"""A page on the device to try a picture, and ``POST /predict`` for programs beside it.

For this machine and people who sit at it: it listens on the loopback interface unless told otherwise, has
no passwords and no encryption, and is not made for an open network. What a request may cost is bounded: the
body, the time, and how many are taken at once. The standard library's server is enough for that, and a device
that only answers itself should not carry another.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import socket
import threading
from collections.abc import Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from ipaddress import ip_address
from typing import Any

from edge_client.inference.installed import SlotError
from edge_client.inference.predict import Answers, predict_bytes

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 32 << 20
MAX_AT_ONCE = 4  # connections; another gets 503
TIMEOUT_S = 20.0  # of a connection that says nothing
MAX_ROWS = 1000  # of a table, in one answer
POLICY = (
    "default-src 'none'; img-src 'self' blob:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
)


class PredictionServer(ThreadingHTTPServer):
    """Answers pictures over HTTP; `serve_forever` until `shutdown`."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, model: Answers, host: str, port: int, *, device: str) -> None:
        self.model = model
        self.device = device
        self.loopback = is_loopback(host)
        self._slots = threading.BoundedSemaphore(MAX_AT_ONCE)
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host.strip("[]"), port), _Handler)

    @property
    def url(self) -> str:
        """Where it listens."""
        host = str(self.server_address[0])
        return f"http://{f'[{host}]' if ':' in host else host}:{self.server_address[1]}/"

    def process_request(self, request: Any, client_address: Any) -> None:
        """A thread for each connection, a few at a time."""
        if not self._slots.acquire(blocking=False):
            body = b"busy: try again"
            fields = f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            head = f"HTTP/1.1 503 Service Unavailable\r\n{fields}"
            request.settimeout(1.0)
            try:
                request.sendall(head.encode() + body)
            finally:
                self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that broke off is no news."""
        log.info("%s %s: ended early", client_address, request, exc_info=True)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """One connection, then room for the next."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()


class _Handler(BaseHTTPRequestHandler):
    server: PredictionServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "bramble-edge", ""
    timeout = TIMEOUT_S

    def do_GET(self) -> None:
        if not self._may_ask():
            return
        if self.path == "/":
            self._send(HTTPStatus.OK, _page(), "text/html; charset=utf-8")
        elif self.path == "/model":
            with self._without_model_said():
                self._json(HTTPStatus.OK, self._model())
        else:
            self._fail(
                HTTPStatus.NOT_FOUND, "there is / for people, and POST /predict and /model for programs"
            )

    def do_POST(self) -> None:
        if not self._may_ask():
            return
        if self.path != "/predict":
            self._fail(HTTPStatus.NOT_FOUND, "POST a picture to /predict")
        elif (body := self._body()) is not None:
            with self._without_model_said():
                self._predict(body)

    def _predict(self, body: bytes) -> None:
        rows = predict_bytes(self.server.model, "request", body)
        found = [dataclasses.asdict(row) for row, _ in zip(rows, range(MAX_ROWS), strict=False)]
        image = self._model()["kind"] == "image"
        self._json(HTTPStatus.OK, found[0] if image else {"rows": found})

    @contextlib.contextmanager
    def _without_model_said(self) -> Iterator[None]:
        try:
            yield
        except SlotError as exc:
            self._fail(HTTPStatus.SERVICE_UNAVAILABLE, str(exc))

    def _may_ask(self) -> bool:
        """On loopback the address must be named as such, or a web site could have a browser ask for it."""
        if self.server.loopback and not is_loopback(_without_port(self.headers.get("Host", ""))):
            self._fail(HTTPStatus.FORBIDDEN, "this page is for this machine: ask 127.0.0.1")
            return False
        return True

    def _body(self) -> bytes | None:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or self.headers.get("Transfer-Encoding"):
            self._fail(HTTPStatus.LENGTH_REQUIRED, "say Content-Length")
        elif not 0 < int(length) <= MAX_BODY_BYTES:
            self._fail(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"from 1 to {MAX_BODY_BYTES} bytes are taken")
        else:
            body = self.rfile.read(int(length))
            if len(body) == int(length):
                return body
            self.close_connection = True  # the other side has gone
        return None

    def _model(self) -> dict[str, Any]:
        model = self.server.model.model
        return {
            "device": self.server.device,
            "version": model.version,
            "name": model.spec.name,
            "classes": list(model.spec.classes),
            "kind": model.spec.input.TAG,
            "temperature": model.answering.temperature,
            "refuses_unlike": model.answering.likeness is not None,
        }

    def _json(self, status: HTTPStatus, plain: object) -> None:
        self._send(status, json.dumps(plain).encode(), "application/json")

    def _fail(self, status: HTTPStatus, reason: str) -> None:
        self.close_connection = True  # a body that was not read is still in the way
        self._json(status, {"error": reason})

    def _send(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-store")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """To the program's log, not to the terminal."""
        log.info("%s %s", self.address_string(), format % args)


def is_loopback(host: str) -> bool:
    """Whether a name or address is this machine's own."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _without_port(host: str) -> str:
    """The name in a ``Host`` line; an IPv6 address has colons of its own, inside brackets."""
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdecimal() else host


def _page() -> bytes:
    return resources.files("edge_client.inference").joinpath("page.html").read_bytes()
