"""The device's page and endpoint: what is answered, what is bounded, and who may not ask."""

from __future__ import annotations

import http.client
import io
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edge_client.inference.answering import Answerer
from edge_client.inference.installed import ActiveModel, SlotError
from edge_client.inference.predict import Answers
from edge_client.inference.web import MAX_AT_ONCE, MAX_BODY_BYTES, PredictionServer, is_loopback
from tests.edge_client.inference_cases import SPEC, TABLE_SPEC, brightness_model, table_model


@pytest.fixture(scope="module")
def server() -> Iterator[PredictionServer]:
    yield from serving(Answerer(ActiveModel(7, brightness_model(), SPEC)))


def serving(model: Answers, host: str = "127.0.0.1") -> Iterator[PredictionServer]:
    with PredictionServer(model, host, 0, device="pi-1") as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def picture(value: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((20, 30), value, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def ask(
    server: PredictionServer, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection(*server.server_address[:2], timeout=20)  # type: ignore[arg-type]
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    response = connection.getresponse()
    data = response.read()
    connection.close()
    return response, data


def answer(server: PredictionServer, body: bytes) -> Any:
    response, data = ask(server, "POST", "/predict", body)
    assert response.status == 200
    return json.loads(data)


def test_a_picture_is_answered(server: PredictionServer) -> None:
    row = answer(server, picture(255))
    assert (row["label"], row["model_version"], row["error"]) == ("bright", 7, None)
    assert row["probability"] > 0.9


def test_bytes_that_are_no_picture_are_an_answer_too(server: PredictionServer) -> None:
    assert "not a known format" in answer(server, b"no picture")["error"]


def test_the_page_is_whole_and_loads_nothing_from_elsewhere(server: PredictionServer) -> None:
    response, page = ask(server, "GET", "/")
    assert response.status == 200
    assert b"Drop a picture here" in page and b"Not a medical device" in page
    assert b"http://" not in page and b"https://" not in page
    policy = response.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "connect-src 'self'" in policy


def test_the_model_says_who_it_is(server: PredictionServer) -> None:
    _, data = ask(server, "GET", "/model")
    model = json.loads(data)
    assert (model["device"], model["version"], model["classes"]) == ("pi-1", 7, ["dark", "bright"])


class Withdrawn:
    """As `LiveModel` is once its model was taken back."""

    @property
    def model(self) -> ActiveModel:
        raise SlotError("no model is active")

    def answer(self, _example: object) -> Any:
        raise SlotError("no model is active")


def test_without_a_model_it_says_so() -> None:
    for server in serving(Withdrawn()):
        for method, path, body in (("GET", "/model", None), ("POST", "/predict", picture(0))):
            response, data = ask(server, method, path, body)
            assert response.status == 503 and json.loads(data) == {"error": "no model is active"}


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/etc/passwd", {}, 404),
        ("POST", "/", {}, 404),
        ("POST", "/predict", {"Content_Length": str(MAX_BODY_BYTES + 1)}, 413),
        ("POST", "/predict", {"Content_Length": "0"}, 413),
        ("POST", "/predict", {"Content_Length": "-1"}, 411),
        ("POST", "/predict", {"Transfer_Encoding": "chunked", "Content_Length": "3"}, 411),
        ("GET", "/model", {"Host": "a-web-site.example"}, 403),
        ("POST", "/predict", {"Host": "a-web-site.example:80"}, 403),
        ("PUT", "/predict", {}, 501),
    ],
)
def test_anything_else_is_refused(
    server: PredictionServer, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    response, _ = ask(server, method, path, None, **headers)
    assert response.status == status


def test_a_sender_that_goes_away_costs_nothing(server: PredictionServer) -> None:
    with socket.create_connection(server.server_address[:2]) as gone:  # type: ignore[arg-type]
        gone.sendall(b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\nhalf")
    assert answer(server, picture(0))["label"] == "dark"


def test_only_so_many_are_taken_at_once(server: PredictionServer) -> None:
    address = server.server_address[:2]
    waiting = [socket.create_connection(address) for _ in range(MAX_AT_ONCE)]  # type: ignore[arg-type]
    for one in waiting:  # each has a thread once it is answered
        one.sendall(b"GET /model HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert one.recv(12) == b"HTTP/1.1 200"
    with socket.create_connection(address) as more:  # type: ignore[arg-type]
        assert more.recv(12) == b"HTTP/1.1 503"
    for one in waiting:
        one.close()


def test_a_table_is_answered_row_by_row() -> None:
    for server in serving(Answerer(ActiveModel(3, table_model(), TABLE_SPEC))):
        rows = answer(server, b"a,b\n1,0.5\n1,word\n")["rows"]
        assert [row["label"] for row in rows] == ["bright", None]


@pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")
@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_the_loopback_of_ipv6_is_one(host: str) -> None:
    for server in serving(Answerer(ActiveModel(7, brightness_model(), SPEC)), host):
        assert server.url == f"http://[::1]:{server.server_address[1]}/"
        assert ask(server, "GET", "/model")[0].status == 200  # Host: [::1]:PORT
        assert ask(server, "GET", "/model", Host="[::1]")[0].status == 200  # as on port 80
        assert ask(server, "GET", "/model", Host="[fd00::1]:80")[0].status == 403


def test_what_is_this_machine() -> None:
    assert all(is_loopback(host) for host in ("127.0.0.1", "127.1.2.3", "::1", "[::1]", "localhost"))
    assert not any(is_loopback(host) for host in ("192.168.1.5", "a.example", ""))
