"""The enrolment service over real TLS on loopback: honest devices, and peers that are not."""

from __future__ import annotations

import gzip
import http.client
import json
import logging
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compression.records import dumps, to_plain
from edge_client.config import EdgeConfig
from edge_client.enrolment.client import EnrolmentClient
from edge_client.enrolment.enrol import enrol, renew, report_step
from edge_client.enrolment.errors import EnrolmentError, TryLaterError
from edge_client.enrolment.identity import DeviceIdentity
from edge_client.session.tls import ClientContext
from edge_client.wire.enrolment import (
    ENROL_PATH,
    MAX_BODY_BYTES,
    RENEW_PATH,
    REPORT_PATH,
    EnrolRequest,
    RenewRequest,
    StepReport,
)
from provisioning.enrolment import service as service_module
from provisioning.enrolment.errors import EnrolmentServiceError
from provisioning.enrolment.limits import MOST_ADDRESSES, RateLimit
from provisioning.enrolment.service import EnrolmentService
from provisioning.enrolment.store import EnrolmentStore
from provisioning.pki.authority import FleetCA
from provisioning.pki.identity import ensure_identity, server_names
from tests.provisioning.enrolment_cases import Fleet, certificate_of

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet.create(tmp_path)
    with fleet.service():
        yield fleet


@contextmanager
def raw(fleet: Fleet, identity: EdgeConfig | None = None) -> Iterator[http.client.HTTPSConnection]:
    """A client that may send anything."""
    context = ClientContext.trusting(str(fleet.authority.certificate_file))
    if identity is not None:
        context.load_cert_chain(certificate_of(identity), identity.broker.key_file)
    connection = http.client.HTTPSConnection("127.0.0.1", fleet.port, timeout=20, context=context)
    try:
        yield connection
    finally:
        connection.close()


def post(fleet: Fleet, path: str, body: bytes, *, token: str = "", method: str = "POST") -> tuple[int, str]:
    """Status and reason."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with raw(fleet) as connection:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        data = answer.read()
    return answer.status, json.loads(data)["reason"] if data else ""


# ---- devices ----


def test_a_device_enrols_renews_and_reports(fleet: Fleet) -> None:
    fleet.token("pi-1")
    device = fleet.device("pi-1")
    assert enrol(device).what == "enrolled"
    first = certificate_of(device).read_bytes()
    assert renew(device) is False
    fleet.ahead = timedelta(days=300)
    assert renew(device) is True
    assert certificate_of(device).read_bytes() != first
    report_step(device, "service", "ok", "up")
    with EnrolmentStore(fleet.authority.directory).look() as look:
        steps = {row.step: (row.state, row.detail) for row in look.steps()}
    assert steps["enrol"] == ("ok", "certificate stored")
    assert steps["service"] == ("ok", "up")


def test_a_rack_of_devices_enrols_at_once(fleet: Fleet) -> None:
    names = [f"pi-{number}" for number in range(12)]
    for name in names:
        fleet.token(name)
    threads = [threading.Thread(target=enrol, args=(fleet.device(name),)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {entry.name for entry in fleet.authority.ledger().issued if entry.role == "device"} == {*names}
    assert all(certificate_of(fleet.device(name)).exists() for name in names)


def test_a_copied_card_gets_nothing(fleet: Fleet) -> None:
    """Two boards with the same token: the second one is told that the token is used."""
    token = fleet.token("pi-1")
    enrol(fleet.device("pi-1"))
    copy = fleet.device("pi-1", folder="copy")
    (fleet.folder / "copy" / "pi-1.token").write_text(token)
    with pytest.raises(EnrolmentError, match="used by another key"):
        enrol(copy)
    assert not certificate_of(copy).exists()


def test_a_revoked_device_is_told_why_it_is_not_renewed(fleet: Fleet) -> None:
    fleet.token("pi-1")
    device = fleet.device("pi-1")
    enrol(device)
    fleet.authority.revoke("pi-1")
    with pytest.raises(EnrolmentError, match="the certificate of pi-1 is revoked"):
        renew(device)


def test_a_certificate_of_another_authority_does_not_pass_the_handshake(fleet: Fleet, tmp_path: Path) -> None:
    device = fleet.device("pi-1")
    ensure_identity(Fleet.create(tmp_path / "other").authority, fleet.folder / "pi-1", "pi-1")
    with pytest.raises(TryLaterError):
        EnrolmentClient(device).renew(RenewRequest(DeviceIdentity.of(device).request()))
    fleet.token("pi-1")
    assert enrol(device).what == "enrolled", "the certificate of another fleet is none"


def test_a_lost_answer_is_got_by_asking_again(fleet: Fleet) -> None:
    fleet.token("pi-1")
    device = fleet.device("pi-1")
    identity = DeviceIdentity.of(device)
    lost = EnrolmentClient(device).enrol(EnrolRequest("pi-1", identity.request()))
    assert not certificate_of(device).exists()  # the device lost its power here
    assert enrol(device).what == "enrolled"
    assert certificate_of(device).read_text() == lost
    assert len([entry for entry in fleet.authority.ledger().issued if entry.role == "device"]) == 1


def test_a_server_that_is_killed_after_signing_is_no_loss(tmp_path: Path) -> None:
    """A real process, SIGKILL before the device keeps its certificate, then another on the same port."""
    fleet = Fleet.create(tmp_path)
    fleet.token("pi-1")
    with server_process(fleet, 0) as (process, port):
        fleet.port = port
        device = fleet.device("pi-1")
        lost = EnrolmentClient(device).enrol(EnrolRequest("pi-1", DeviceIdentity.of(device).request()))
        process.send_signal(signal.SIGKILL)
        process.wait(20)
    with pytest.raises(TryLaterError):
        enrol(device)
    with server_process(fleet, port):
        assert enrol(device).what == "enrolled"
    assert certificate_of(device).read_text() == lost


@contextmanager
def server_process(fleet: Fleet, port: int) -> Iterator[tuple[subprocess.Popen[str], int]]:
    command = ["enrol-server", "--port", str(port), "--json", "--ca", str(fleet.authority.directory)]
    with subprocess.Popen(
        [sys.executable, "-m", "provisioning.cli", *command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            yield process, json.loads(process.stdout.readline())["port"]
        finally:
            process.terminate()


# ---- the server proves itself first ----


def test_a_server_of_another_fleet_hears_no_token(fleet: Fleet, tmp_path: Path) -> None:
    other = Fleet.create(tmp_path / "other")
    fleet.token("pi-1")
    device = fleet.device("pi-1", ca_file=other.authority.certificate_file)
    with pytest.raises(EnrolmentError, match="is not this fleet's enrolment service"):
        enrol(device)
    assert "network failed" in (fleet.folder / "pi-1" / "status.log").read_text()
    assert (fleet.folder / "pi-1" / "pi-1.token").exists()
    with EnrolmentStore(fleet.authority.directory).look() as look:
        assert look.steps() == []


def test_the_certificate_is_for_the_names_under_which_devices_know_the_machine(fleet: Fleet) -> None:
    names = server_names(fleet.authority.directory / "enrolment" / "server.crt")
    assert names == {"bramble.test", "127.0.0.1", "localhost"}


def test_a_device_is_no_server(fleet: Fleet, tmp_path: Path) -> None:
    """A device's certificate is of the right authority, and may not serve."""
    fleet.token("pi-1")
    enrol(fleet.device("pi-1"))
    rogue = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    rogue.load_cert_chain(fleet.folder / "pi-1" / "device.crt", fleet.folder / "pi-1" / "device.key")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fleet.port = listener.getsockname()[1]
        thread = threading.Thread(target=serve_once, args=(listener, rogue))
        thread.start()
        fleet.token("pi-2")
        with pytest.raises(EnrolmentError, match="is not this fleet's enrolment service"):
            enrol(fleet.device("pi-2"))
        thread.join()


def serve_once(listener: socket.socket, context: ssl.SSLContext) -> None:
    connection, _ = listener.accept()
    with connection, pytest.raises(ssl.SSLError):
        context.wrap_socket(connection, server_side=True)


# ---- clocks ----


def test_a_device_whose_clock_is_a_month_behind_enrols(tmp_path: Path) -> None:
    """To it, the fleet's certificates are of the future."""
    later = datetime.now(UTC) + timedelta(days=30)
    fleet = Fleet.create(tmp_path, now=later)
    fleet.ahead = timedelta(days=30)
    ca, folder = fleet.authority, fleet.authority.directory / "enrolment"
    folder.mkdir()
    (folder / "server.crt").write_bytes(ca.issue_server(folder / "server.key", NAMES, now=later))
    fleet.token("pi-1")
    with fleet.service():
        device = fleet.device("pi-1")
        assert enrol(device).what == "enrolled"
        assert renew(device) is False


NAMES = ["bramble.test", "127.0.0.1", "localhost"]


def test_a_clock_that_is_behind_does_not_bring_an_expired_server_back(tmp_path: Path) -> None:
    later = datetime.now(UTC) + timedelta(days=90)
    fleet = Fleet.create(tmp_path, now=later)
    ca, folder = fleet.authority, fleet.authority.directory / "enrolment"
    folder.mkdir()
    expired = ca.issue_server(folder / "server.key", NAMES, days=30, now=later - timedelta(days=60))
    (folder / "server.crt").write_bytes(expired)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.crt", folder / "server.key")
    fleet.token("pi-1")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fleet.port = listener.getsockname()[1]
        thread = threading.Thread(target=serve_twice, args=(listener, context), daemon=True)
        thread.start()
        with pytest.raises(EnrolmentError, match="certificate has expired"):
            enrol(fleet.device("pi-1"))
        thread.join()


def serve_twice(listener: socket.socket, context: ssl.SSLContext) -> None:
    """The first handshake shows that the clock is behind; in the second the client judges the date."""
    for _ in range(2):
        connection, _ = listener.accept()
        with connection:
            try:
                context.wrap_socket(connection, server_side=True).recv(1)
            except OSError:
                continue


# ---- peers that mean no good ----


@pytest.mark.parametrize(
    ("path", "body", "status", "reason"),
    [
        (ENROL_PATH, b"", 400, "not valid JSON"),
        (ENROL_PATH, b"\xff\xfe garbage", 400, "not valid JSON"),
        (ENROL_PATH, b"[" * 4000, 400, "not valid JSON"),
        (ENROL_PATH, b'{"name":"pi-1"}', 400, "csr is missing"),
        (ENROL_PATH, b'{"csr":"x","name":"pi-1"}', 400, "EnrolRequest.csr must match"),
        (ENROL_PATH, b'{"name": "pi-1", "csr": "x"}', 400, "EnrolRequest.csr must match"),
        (REPORT_PATH, b'{"name":"../../etc","state":"ok","step":"network"}', 400, "name must match"),
        (REPORT_PATH, b'{"name":"pi-1","state":"ok","step":"network","detail":"","uptime_s":NaN}', 400, "n"),
        (ENROL_PATH, b"x" * (MAX_BODY_BYTES + 1), 413, "Request Entity Too Large|exceeded"),
        (ENROL_PATH, b"x" * 5_000_000, 413, "Request Entity Too Large|exceeded"),
        ("/", b"", 404, "Not Found"),
        ("/v1/../../etc/passwd", b"", 404, "Not Found"),
    ],
)  # fmt: skip
def test_what_is_no_request_is_refused(
    fleet: Fleet, path: str, body: bytes, status: int, reason: str
) -> None:
    got = post(fleet, path, body)
    assert got[0] == status
    assert re.search(reason, got[1]), got[1]


def test_json_that_is_not_canonical_is_refused(fleet: Fleet) -> None:
    token = fleet.token("pi-1")
    report = StepReport("pi-1", "network", "ok")
    assert post(fleet, REPORT_PATH, dumps(report), token=token) == (204, "")
    loose = json.dumps(to_plain(report)).encode()
    assert "canonical" in post(fleet, REPORT_PATH, loose, token=token)[1]


def test_a_compressed_body_is_not_unpacked(fleet: Fleet) -> None:
    """Eight kilobytes could become eight megabytes."""
    with raw(fleet) as connection:
        connection.request("POST", ENROL_PATH, gzip.compress(b" " * 5_000_000), {"Content-Encoding": "gzip"})
        assert connection.getresponse().status == 400


def test_another_method_is_refused(fleet: Fleet) -> None:
    assert post(fleet, ENROL_PATH, b"", method="GET") == (405, "Method Not Allowed")


@pytest.mark.parametrize("path", [ENROL_PATH, RENEW_PATH, REPORT_PATH])
def test_who_proves_nothing_gets_nothing(fleet: Fleet, path: str) -> None:
    device = fleet.device("pi-1")
    csr = DeviceIdentity.of(device).request()
    bodies = {
        ENROL_PATH: dumps(EnrolRequest("pi-1", csr)),
        RENEW_PATH: json.dumps({"csr": csr}, separators=(",", ":")).encode(),
        REPORT_PATH: dumps(StepReport("pi-1", "network", "ok")),
    }
    status, reason = post(fleet, path, bodies[path])
    assert status == 401
    assert "needs" in reason


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300))
def test_other_bytes_do_not_stop_the_service(fleet: Fleet, noise: bytes) -> None:
    """Below HTTP as well as in it."""
    context = ClientContext.trusting(str(fleet.authority.certificate_file))
    with (
        socket.create_connection(("127.0.0.1", fleet.port), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
    ):
        secure.sendall(noise + b"\r\n\r\n")
    with socket.create_connection(("127.0.0.1", fleet.port), timeout=20) as plain:
        plain.sendall(noise)
    fleet_is_alive(fleet)


def fleet_is_alive(fleet: Fleet) -> None:
    with raw(fleet) as connection:
        connection.request("GET", "/")
        assert connection.getresponse().status in (404, 429)


def test_a_peer_that_sends_slowly_is_cut_off(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_module, "BODY_S", 0.2)
    with raw(fleet) as connection:
        connection.putrequest("POST", ENROL_PATH)
        connection.putheader("Content-Length", "100")
        connection.endheaders(b"{")
        answer = connection.getresponse()
        assert answer.status == 408
        assert "did not come within" in json.loads(answer.read())["reason"]


def test_a_connection_without_a_request_ends(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_module, "CONNECTION_S", 0.2)
    with raw(fleet) as connection:
        connection.connect()
        connection.sock.sendall(b"POST /v1/enrol HTTP/1.1\r\nX-Slow:")
        assert connection.sock.recv(1000) == b""


def test_only_so_many_connections_are_open_at_a_time(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_module, "MOST_CONNECTIONS", 1)
    with raw(fleet) as first:
        first.request("GET", "/")
        assert first.getresponse().read()
        with pytest.raises(OSError), raw(fleet) as second:
            second.request("GET", "/")
            second.getresponse()


def test_a_guesser_is_slowed_down_and_told_for_how_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_module, "FAILURES", (3, 1e-4))
    fleet = Fleet.create(tmp_path)
    fleet.token("pi-1")
    with fleet.service():
        device = fleet.device("pi-1")
        body = dumps(StepReport("pi-1", "network", "ok"))
        guesses = [post(fleet, REPORT_PATH, body, token="brt_" + "A" * 43)[0] for _ in range(4)]
        assert guesses == [401, 401, 401, 429]
        with pytest.raises(TryLaterError, match="too many requests") as caught:
            enrol(device)
        assert 0 < caught.value.retry_after_s <= 3600
    assert "enrol waiting" in (fleet.folder / "pi-1" / "status.log").read_text()


def test_a_bucket_fills_again() -> None:
    limit = RateLimit(burst=2, per_s=0.5)
    for _ in range(2):
        assert limit.wait_s("a", 100.0) == 0
        limit.take("a", 100.0)
    assert limit.wait_s("a", 100.0) == 2.0
    assert limit.wait_s("b", 100.0) == 0
    assert limit.wait_s("a", 101.0) == 1.0
    assert limit.wait_s("a", 102.0) == 0
    limit.take("a", 1000.0)
    assert limit.wait_s("a", 1000.0) == 0, "it never holds more than its burst, and one is left"
    limit.take("a", 1000.0)
    assert limit.wait_s("a", 1000.0) == 2.0


def test_addresses_are_forgotten_before_they_fill_the_memory() -> None:
    limit = RateLimit(burst=1, per_s=1e-9)
    for number in range(MOST_ADDRESSES + 1):
        limit.take(str(number), 0.0)
    assert len(limit._buckets) == MOST_ADDRESSES
    assert limit.wait_s("0", 0.0) == 0
    assert limit.wait_s("1", 0.0) > 0


# ---- the service itself ----


def test_a_port_that_is_taken_is_named(fleet: Fleet) -> None:
    with (
        pytest.raises(EnrolmentServiceError, match=f"port {fleet.port}.*choose another port"),
        service(fleet.authority, fleet.port),
    ):
        pass
    with pytest.raises(EnrolmentServiceError, match="port 65536"), service(fleet.authority, 65_536):
        pass


def service(authority: FleetCA, port: int) -> EnrolmentService:
    desk = service_module.EnrolmentDesk(authority)
    return EnrolmentService(authority, desk, host="127.0.0.1", port=port, names=[])


def test_an_authority_that_cannot_sign_is_the_servers_trouble_and_no_refusal(fleet: Fleet) -> None:
    fleet.token("pi-1")
    ledger = fleet.authority.ledger_file
    good = ledger.read_bytes()
    ledger.write_bytes(b"{}")
    device = fleet.device("pi-1")
    with pytest.raises(TryLaterError, match="its log says why"):
        enrol(device)
    ledger.write_bytes(good)
    assert enrol(device).what == "enrolled"


def test_no_secret_is_in_a_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Everything at its most talkative, through success and every kind of refusal."""
    caplog.set_level(logging.DEBUG)
    fleet = Fleet.create(tmp_path)
    secrets = [fleet.token("pi-1")]
    with fleet.service():
        device = fleet.device("pi-1")
        enrol(device)
        post(fleet, ENROL_PATH, b"{", token=secrets[0])
        post(fleet, "/nowhere", b"{", token=secrets[0])
        post(fleet, REPORT_PATH, dumps(StepReport("pi-1", "network", "ok")), token=secrets[0])
        secrets.append(fleet.token("pi-2", expires_in=timedelta(minutes=1)))
        fleet.ahead = timedelta(hours=1)
        with pytest.raises(EnrolmentError):
            enrol(fleet.device("pi-2"))
        with raw(fleet) as connection:  # a header that no parser takes
            connection.connect()
            connection.sock.sendall(
                f"POST / HTTP/1.1\r\nAuthorization: Bearer {secrets[0]}\r\n".encode() * 9000
            )
            connection.sock.recv(10)
        (fleet.folder / "pi-3").mkdir()
        (fleet.folder / "pi-3" / "pi-3.token").write_text(secrets[0] + "x")
        with pytest.raises(EnrolmentError, match="holds no enrolment token"):
            enrol(fleet.device("pi-3"))
    assert "pi-1 is enrolled" in caplog.text
    status = [path.read_text() for path in tmp_path.rglob("status.log")]
    key = (fleet.folder / "pi-1" / "device.key").read_text().splitlines()[1]
    for text in (caplog.text, *status):
        assert not any(secret in text for secret in (*secrets, key))
    assert (fleet.folder / "pi-1" / "device.key").stat().st_mode & 0o777 == 0o600
