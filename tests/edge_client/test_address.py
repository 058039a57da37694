"""Where the broker is: what an address may hold, and what is said about files that will not do."""

from __future__ import annotations

import ssl
from dataclasses import replace
from pathlib import Path

import pytest

from compression.records import RecordError, dumps, loads
from edge_client.session.address import AddressError, BrokerAddress, read_password, tls_context
from provisioning.pki.authority import FleetCA
from provisioning.pki.identity import ensure_identity

PLAIN = BrokerAddress(host="10.0.0.5", port=1883)


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> BrokerAddress:
    directory = tmp_path_factory.mktemp("pki")
    identity = ensure_identity(FleetCA.create(directory / "ca", "ward"), directory / "pi-1", "pi-1")
    return BrokerAddress(
        host="broker.lan",
        port=8883,
        ca_file=str(identity.ca_file),
        certificate_file=str(identity.certificate_file),
        key_file=str(identity.key_file),
    )


def test_it_survives_json_and_prints_as_a_url(secure: BrokerAddress) -> None:
    for address, shown in ((PLAIN, "mqtt://10.0.0.5:1883"), (secure, "mqtts://broker.lan:8883")):
        assert loads(BrokerAddress, dumps(address), max_bytes=4096) == address
        assert str(address) == shown
    assert str(replace(PLAIN, host="fd00::5")) == "mqtt://[fd00::5]:1883"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"host": ""}, "host"),
        ({"port": 0}, "port"),
        ({"port": 65536}, "port"),
        ({"protocol": "3.1"}, "protocol"),
        ({"username": ""}, "username"),
        ({"certificate_file": "/c"}, "go together"),
        ({"key_file": "/k"}, "go together"),
        ({"certificate_file": "/c", "key_file": "/k"}, "needs ca_file"),
        ({"password_file": "/p"}, "needs username"),
    ],
)
def test_what_cannot_be_an_address(change: dict[str, object], reason: str) -> None:
    with pytest.raises(RecordError, match=reason):
        replace(PLAIN, **change)  # type: ignore[arg-type]


def test_a_plain_address_has_no_tls_and_no_password() -> None:
    assert tls_context(PLAIN) is None
    assert read_password(PLAIN) is None


def test_tls_checks_the_broker(secure: BrokerAddress) -> None:
    context = tls_context(secure)
    assert context is not None
    assert context.verify_mode == ssl.CERT_REQUIRED and context.check_hostname
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
    assert len(context.get_ca_certs()) == 1  # the fleet's authority and none of the system's
    assert tls_context(replace(secure, certificate_file=None, key_file=None)) is not None


@pytest.mark.parametrize("field", ["ca_file", "certificate_file", "key_file"])
def test_a_file_that_is_missing_or_garbage_is_named(
    secure: BrokerAddress, tmp_path: Path, field: str
) -> None:
    garbage = tmp_path / "garbage"
    garbage.write_bytes(b"garbage")
    for path, reason in ((tmp_path / "none", "No such file"), (tmp_path, "directory"), (garbage, "PEM")):
        with pytest.raises(AddressError, match=rf"{field} .*{path}.*{reason}") as error:
            tls_context(replace(secure, **{field: str(path)}))  # type: ignore[arg-type]
        assert "\n" not in str(error.value)


def test_a_key_of_another_certificate_is_refused(secure: BrokerAddress, tmp_path: Path) -> None:
    other = ensure_identity(FleetCA.create(tmp_path / "ca", "ward"), tmp_path / "pi-2", "pi-2")
    with pytest.raises(AddressError, match="not a pair"):
        tls_context(replace(secure, key_file=str(other.key_file)))


def test_a_password_is_one_line_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "password"
    address = replace(PLAIN, username="pi-1", password_file=str(path))
    for data, password in ((b"secret\n", "secret"), (b" a b \r\n", " a b "), ("ü".encode(), "ü")):
        path.write_bytes(data)
        assert read_password(address) == password
    for data, reason in (
        (b"", "one line"),
        (b"\n", "one line"),
        (b"a\nb\n", "one line"),
        (b"x" * 5000, "one line"),
        (b"\xff", "UTF-8"),
    ):
        path.write_bytes(data)
        with pytest.raises(AddressError, match=reason):
            read_password(address)
    path.unlink()
    with pytest.raises(AddressError, match=f"password_file {path}: No such file"):
        read_password(address)
