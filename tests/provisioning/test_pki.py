"""The authority, its certificates and its list; checked with OpenSSL where OpenSSL is the judge."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from edge_client.wire.signer import Signer
from provisioning.pki import authority as authority_module
from provisioning.pki import files, ledger
from provisioning.pki.authority import FleetCA
from provisioning.pki.errors import PkiError
from provisioning.pki.identity import ensure_identity, ensure_server_certificate, server_names
from provisioning.pki.keys import (
    load_private_key,
    make_device_key_and_csr,
    make_request,
    new_private_key,
    read_pem,
)
from provisioning.pki.requests import checked_public_key
from provisioning.pki.signing import create_signing_key, load_signing_key

NOW = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
EMPTY_REQUEST = b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"


@pytest.fixture
def ca(tmp_path: Path) -> FleetCA:
    return FleetCA.create(tmp_path / "ca", "ward", now=NOW)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def request_for(name: str, *, key: object = None, subject: x509.Name | None = None, **extra: object) -> bytes:
    """A request such as a device might send, honest or not."""
    builder = x509.CertificateSigningRequestBuilder()
    if subject is None:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = builder.subject_name(subject)
    if extension := extra.get("extension"):
        builder = builder.add_extension(extension, critical=False)  # type: ignore[arg-type]
    if password := extra.get("challenge"):
        builder = builder.add_attribute(x509.oid.AttributeOID.CHALLENGE_PASSWORD, password)  # type: ignore[arg-type]
    key = key or ec.generate_private_key(ec.SECP256R1())
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(serialization.Encoding.PEM)  # type: ignore[arg-type]


def openssl_verify(ca: FleetCA, certificate: Path, *options: str) -> str:
    command = ["openssl", "verify", "-CAfile", str(ca.certificate_file), *options, str(certificate)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    return result.stdout + result.stderr


def test_a_new_authority(ca: FleetCA) -> None:
    assert mode(ca.key_file) == 0o600
    assert mode(ca.directory) == 0o700
    assert mode(ca.ledger_file) == 0o600
    certificate = x509.load_pem_x509_certificate(ca.certificate_file.read_bytes())
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical and constraints.value.ca and constraints.value.path_length == 0
    assert certificate.not_valid_before_utc < NOW < certificate.not_valid_after_utc == ca.not_after
    assert FleetCA.open(ca.directory).fingerprint == ca.fingerprint
    assert ca.ledger().fleet == "ward"


def test_an_authority_is_never_made_twice(ca: FleetCA) -> None:
    before = {path.name: path.read_bytes() for path in ca.directory.iterdir()}
    with pytest.raises(PkiError, match="holds an authority already"):
        FleetCA.create(ca.directory, "other")
    assert {path.name: path.read_bytes() for path in ca.directory.iterdir()} == before


def test_a_fleet_with_the_longest_name_can_have_one(tmp_path: Path) -> None:
    assert FleetCA.create(tmp_path / "a", "x" * 64).ledger().fleet == "x" * 64
    with pytest.raises(PkiError, match="must be 1 to 64"):
        FleetCA.create(tmp_path / "b", "x" * 65)
    assert not (tmp_path / "b").exists()


def test_keys_are_private_from_birth_whatever_the_umask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mode is given to open(2); there is no moment at which the file is wider."""
    born: list[int] = []
    real_open = os.open

    def spying_open(path: object, flags: int, mode_: int = 0o777, **rest: object) -> int:
        descriptor = real_open(path, flags, mode_, **rest)  # type: ignore[arg-type]
        if flags & os.O_CREAT:
            born.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        return descriptor

    old = os.umask(0)
    try:
        monkeypatch.setattr(os, "open", spying_open)
        make_device_key_and_csr(tmp_path, "pi-1")
    finally:
        os.umask(old)
    assert born[0] == 0o600
    assert mode(tmp_path / "device.key") == 0o600


def test_a_device_certificate(ca: FleetCA, tmp_path: Path) -> None:
    request = make_device_key_and_csr(tmp_path, "pi-1")
    path = tmp_path / "device.crt"
    path.write_bytes(ca.sign_csr(request, "pi-1", days=90, now=NOW))
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    assert certificate.subject.rfc4514_string() == "CN=pi-1"
    assert certificate.public_key() == load_private_key(tmp_path / "device.key").public_key()
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert certificate.not_valid_after_utc == NOW + timedelta(days=90)
    at = ("-attime", str(int(NOW.timestamp())))
    assert openssl_verify(ca, path, "-purpose", "sslclient", "-x509_strict", *at).endswith("OK\n")
    assert "unsuitable certificate purpose" in openssl_verify(ca, path, "-purpose", "sslserver", *at)
    (entry,) = ca.ledger().of("pi-1")
    assert int(entry.serial, 16) == certificate.serial_number
    assert entry.fingerprint == certificate.fingerprint(hashes.SHA256()).hex()
    assert entry.state(NOW) == "valid"
    assert entry.state(NOW + timedelta(days=91)) == "expired"


def test_a_server_certificate(ca: FleetCA, tmp_path: Path) -> None:
    hosts = ["broker.ward.lan", "10.0.0.5", "fd00::5", "localhost", "localhost"]
    path = tmp_path / "server.crt"
    path.write_bytes(ca.issue_server(tmp_path / "server.key", hosts, now=NOW))
    assert mode(tmp_path / "server.key") == 0o600
    assert server_names(path) == {"broker.ward.lan", "10.0.0.5", "fd00::5", "localhost"}
    at = ("-attime", str(int(NOW.timestamp())))
    for check in (
        "-verify_hostname broker.ward.lan",
        "-verify_ip 10.0.0.5",
        "-purpose sslserver -x509_strict",
    ):
        assert openssl_verify(ca, path, *check.split(), *at).endswith("OK\n")
    assert "hostname mismatch" in openssl_verify(ca, path, "-verify_hostname", "evil.lan", *at)
    assert "unsuitable certificate purpose" in openssl_verify(ca, path, "-purpose", "sslclient", *at)


@pytest.mark.parametrize("host", ["", "a b", "-x", "a..b", "x" * 300, "a\n", "ä.de", "http://a", "a/b"])
def test_a_host_that_is_none_is_refused_before_a_key_is_made(ca: FleetCA, tmp_path: Path, host: str) -> None:
    with pytest.raises(PkiError, match="host name"):
        ca.issue_server(tmp_path / "server.key", ["good.lan", host])
    assert not (tmp_path / "server.key").exists()


def test_a_server_certificate_without_a_host_is_refused(ca: FleetCA, tmp_path: Path) -> None:
    with pytest.raises(PkiError, match="at least one host name"):
        ca.issue_server(tmp_path / "server.key", [])
    with pytest.raises(PkiError, match="issue_server"):
        ca.sign_csr(request_for("x"), "x", role="server")


@pytest.mark.parametrize(
    ("request_pem", "reason"),
    [
        (request_for("pi-2"), "is for 'CN=pi-2', not for 'pi-1'"),
        (request_for("", subject=x509.Name([])), "not for 'pi-1'"),
        (
            request_for(
                "",
                subject=x509.Name(
                    [
                        x509.NameAttribute(NameOID.COMMON_NAME, "pi-1"),
                        x509.NameAttribute(NameOID.COMMON_NAME, "aggregator"),
                    ]
                ),
            ),
            "not for 'pi-1'",
        ),
        (
            request_for("", subject=x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "pi-1")])),
            "not for 'pi-1'",
        ),
        (request_for("pi-1", extension=x509.BasicConstraints(ca=True, path_length=None)), "extras"),
        (request_for("pi-1", extension=x509.SubjectAlternativeName([x509.DNSName("broker")])), "extras"),
        (request_for("pi-1", challenge=b"secret"), "extras"),
        (request_for("pi-1", key=rsa.generate_private_key(65537, 2048)), "key that is not one of"),
        (request_for("pi-1", key=ec.generate_private_key(ec.SECP224R1())), "key that is not one of"),
        (request_for("pi-1", key=ed25519.Ed25519PrivateKey.generate()), "key that is not one of"),
        (b"", "not a signing request"),
        (EMPTY_REQUEST, "not a signing request"),
        (b"x" * 70_000, "exceeds 65536"),
    ],
)  # fmt: skip
def test_a_request_that_asks_for_anything_else_is_refused(
    ca: FleetCA, request_pem: bytes, reason: str
) -> None:
    with pytest.raises(PkiError, match=reason):
        ca.sign_csr(request_pem, "pi-1")
    assert ca.ledger().issued == ()


def test_a_request_signed_by_another_key_is_refused(ca: FleetCA) -> None:
    csr = x509.load_pem_x509_csr(request_for("pi-1"))
    der = bytearray(csr.public_bytes(serialization.Encoding.DER))
    mine = ec.generate_private_key(ec.SECP256R1()).public_key()
    points = [
        key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
        for key in (csr.public_key(), mine)  # type: ignore[union-attr]
    ]
    at = bytes(der).index(points[0])
    der[at : at + len(points[1])] = points[1]
    forged = x509.load_der_x509_csr(bytes(der)).public_bytes(serialization.Encoding.PEM)
    with pytest.raises(PkiError, match="not signed by its own key"):
        ca.sign_csr(forged, "pi-1")


@given(st.binary(max_size=400), st.integers(0, 400))
def test_other_bytes_raise_pki_error_and_nothing_else(noise: bytes, at: int) -> None:
    good = make_request(KEY, "pi-1")
    for data in (noise, good[:at] + noise + good[at + len(noise) :]):
        with contextlib.suppress(PkiError):
            checked_public_key(data, "pi-1")


KEY = ec.generate_private_key(ec.SECP256R1())


@pytest.mark.parametrize("name", ["", "a/b", "a b", "x" * 65, "ä", "..", "a\n", "#", "+"])
def test_a_name_that_is_no_topic_level_is_refused(ca: FleetCA, tmp_path: Path, name: str) -> None:
    with pytest.raises(PkiError, match="must be 1 to 64"):
        make_device_key_and_csr(tmp_path / "d", name) if name else make_request(KEY, name)
    with pytest.raises(PkiError, match="must be 1 to 64"):
        ca.sign_csr(request_for("pi-1"), name)
    with pytest.raises(PkiError, match="must be 1 to 64"):
        ca.revoke(name)


def test_the_servers_names_are_not_for_devices(ca: FleetCA) -> None:
    for name, role in (("aggregator", "device"), ("broker", "device"), ("pi-1", "aggregator")):
        with pytest.raises(PkiError, match="are for the server's side"):
            ca.sign_csr(request_for(name), name, role=role)  # type: ignore[arg-type]
    assert ca.sign_csr(request_for("aggregator"), "aggregator", role="aggregator")


@pytest.mark.parametrize("days", [0, -1, 1826])
def test_validity_is_bounded(ca: FleetCA, days: int) -> None:
    with pytest.raises(PkiError, match="from 1 to 1825 days"):
        ca.sign_csr(request_for("pi-1"), "pi-1", days=days)


def test_no_certificate_outlives_the_authority(ca: FleetCA) -> None:
    late = ca.not_after - timedelta(days=10)
    certificate = x509.load_pem_x509_certificate(ca.sign_csr(request_for("pi-1"), "pi-1", now=late))
    assert certificate.not_valid_after_utc == ca.not_after
    with pytest.raises(PkiError, match="the authority expired"):
        ca.sign_csr(request_for("pi-1"), "pi-1", now=ca.not_after)


def test_revocation(ca: FleetCA, tmp_path: Path) -> None:
    paths = []
    for number in range(2):  # a renewed device has two that count
        paths.append(tmp_path / f"{number}.crt")
        paths[-1].write_bytes(ca.sign_csr(request_for("pi-1"), "pi-1", now=NOW))
    other = tmp_path / "other.crt"
    other.write_bytes(ca.sign_csr(request_for("pi-2"), "pi-2", now=NOW))
    assert len(ca.revoke("pi-1", now=NOW + timedelta(days=1))) == 2
    at = ("-crl_check", "-CRLfile", str(ca.crl_file), "-attime", str(int(NOW.timestamp()) + 172_800))
    for path in paths:
        assert "certificate revoked" in openssl_verify(ca, path, *at)
    assert openssl_verify(ca, other, *at).endswith("OK\n")
    assert ca.ledger().revoked_names() == ("pi-1",)
    assert {entry.state(NOW) for entry in ca.ledger().of("pi-1")} == {"revoked"}
    crl = x509.load_pem_x509_crl(ca.crl_file.read_bytes())
    assert {revoked.revocation_date_utc for revoked in crl} == {NOW + timedelta(days=1)}
    with pytest.raises(PkiError, match="has only revoked certificates"):
        ca.revoke("pi-1")
    with pytest.raises(PkiError, match="was never issued"):
        ca.revoke("pi-9")
    ca.sign_csr(request_for("pi-1"), "pi-1", now=NOW)
    assert ca.ledger().revoked_names() == ()


def test_a_revocation_that_was_cut_short_is_finished_when_the_authority_is_opened(
    ca: FleetCA, monkeypatch: pytest.MonkeyPatch
) -> None:
    ca.sign_csr(request_for("pi-1"), "pi-1", now=NOW)

    def power_cut(*_: object) -> None:
        raise OSError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(FleetCA, "_write_crl", power_cut)
        with pytest.raises(OSError, match="power cut"):
            ca.revoke("pi-1")
    assert len(x509.load_pem_x509_crl(ca.crl_file.read_bytes())) == 0
    FleetCA.open(ca.directory)
    assert len(x509.load_pem_x509_crl(ca.crl_file.read_bytes())) == 1
    ca.crl_file.unlink()
    FleetCA.open(ca.directory)
    assert len(x509.load_pem_x509_crl(ca.crl_file.read_bytes())) == 1


def test_list_and_names_are_of_one_moment(ca: FleetCA, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that took the new names with the old list would put the device off and let it in again."""
    ca.sign_csr(request_for("pi-1"), "pi-1", now=NOW)
    seen: list[tuple[bytes, tuple[str, ...]]] = []
    reader = threading.Thread(target=lambda: seen.append(ca.revocations()))
    real = FleetCA._write_crl

    def write_while_somebody_looks(self: FleetCA, *arguments: object) -> None:
        reader.start()
        reader.join(0.2)  # it waits; without the lock it would be done
        real(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(FleetCA, "_write_crl", write_while_somebody_looks)
    ca.revoke("pi-1", now=NOW)
    reader.join()
    assert seen == [(ca.crl_file.read_bytes(), ("pi-1",))]


def test_nothing_is_lost_when_many_sign_at_once(ca: FleetCA) -> None:
    """A command may run beside the server: each holds the lock while it rewrites the ledger."""
    threads = [
        threading.Thread(
            target=lambda n=n: FleetCA.open(ca.directory).sign_csr(request_for(f"pi-{n}"), f"pi-{n}")
        )
        for n in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {entry.name for entry in ca.ledger().issued} == {f"pi-{n}" for n in range(12)}
    assert len({entry.serial for entry in ca.ledger().issued}) == 12


def test_damage_is_named(ca: FleetCA, tmp_path: Path) -> None:
    with pytest.raises(PkiError, match="holds no authority; make one with: bramble-provision ca init"):
        FleetCA.open(tmp_path / "nowhere")
    good = {path: path.read_bytes() for path in (ca.ledger_file, ca.key_file, ca.certificate_file)}
    other = FleetCA.create(tmp_path / "other", "ward")
    for path, data, reason in (
        (ca.ledger_file, b"{}", "is damaged"),
        (ca.key_file, b"garbage", "not an unencrypted PEM private key"),
        (ca.key_file, other.key_file.read_bytes(), "is not the key of"),
        (ca.certificate_file, b"garbage", "not a PEM certificate"),
        (ca.certificate_file, b"x" * 70_000, "too many for a PEM file"),
    ):
        path.write_bytes(data)
        with pytest.raises(PkiError, match=reason):
            FleetCA.open(ca.directory)
        path.write_bytes(good[path])
    ca.ledger_file.unlink()
    with pytest.raises(PkiError, match="No such file"):
        FleetCA.open(ca.directory)


def test_keys_of_another_kind_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    create_signing_key(tmp_path)
    with pytest.raises(PkiError, match="not an elliptic-curve key"):
        load_private_key(tmp_path / "release.key")
    new_private_key(path)
    with pytest.raises(PkiError, match="never overwritten"):
        new_private_key(path)
    with pytest.raises(PkiError, match="No such file"):
        new_private_key(tmp_path / "no" / "key")
    path.rename(tmp_path / "swapped")
    (tmp_path / "release.key").unlink()
    (tmp_path / "swapped").rename(tmp_path / "release.key")
    with pytest.raises(PkiError, match="is not an Ed25519 key"):
        load_signing_key(tmp_path)


def test_an_interrupted_enrolment_goes_on_with_the_same_key(tmp_path: Path) -> None:
    first = x509.load_pem_x509_csr(make_device_key_and_csr(tmp_path, "pi-1"))
    second = x509.load_pem_x509_csr(make_device_key_and_csr(tmp_path, "pi-1"))
    assert first.public_key() == second.public_key()
    assert (tmp_path / "device.csr").read_bytes() == second.public_bytes(serialization.Encoding.PEM)


def test_an_identity_is_kept_renewed_and_refused(ca: FleetCA, tmp_path: Path) -> None:
    identity = ensure_identity(ca, tmp_path / "pi", "pi-1", now=NOW)
    first = identity.certificate_file.read_bytes()
    ensure_identity(ca, tmp_path / "pi", "pi-1", now=NOW + timedelta(days=700))
    assert identity.certificate_file.read_bytes() == first
    ensure_identity(ca, tmp_path / "pi", "pi-1", now=NOW + timedelta(days=800))
    assert identity.certificate_file.read_bytes() != first
    assert identity.ca_file.read_bytes() == ca.certificate_file.read_bytes()
    assert ensure_identity(ca, tmp_path / "agg", "aggregator", now=NOW).key_file.exists()
    assert [entry.role for entry in ca.ledger().of("aggregator")] == ["aggregator"]
    ca.revoke("pi-1")
    with pytest.raises(PkiError, match="is revoked; issue it again"):
        ensure_identity(ca, tmp_path / "pi", "pi-1", now=NOW)


def test_an_identity_of_another_authority_is_replaced(ca: FleetCA, tmp_path: Path) -> None:
    other = FleetCA.create(tmp_path / "other", "ward", now=NOW)
    before = ensure_identity(other, tmp_path / "pi", "pi-1", now=NOW).certificate_file.read_bytes()
    assert ensure_identity(ca, tmp_path / "pi", "pi-1", now=NOW).certificate_file.read_bytes() != before


def test_a_server_certificate_is_made_again_when_its_names_change(ca: FleetCA, tmp_path: Path) -> None:
    key, certificate = tmp_path / "server.key", tmp_path / "server.crt"
    for hosts, total in ((["a.lan"], 1), (["a.lan"], 1), (["a.lan", "::1"], 2), (["::1", "a.lan"], 2)):
        ensure_server_certificate(ca, key, certificate, hosts, now=NOW)
        assert len(ca.ledger().issued) == total
    ensure_server_certificate(ca, key, certificate, ["a.lan", "::1"], now=NOW + timedelta(days=800))
    assert len(ca.ledger().issued) == 3


def test_a_stand_in_is_short_and_leaves_no_trace(ca: FleetCA) -> None:
    before = ca.ledger_file.read_bytes()
    key, pem = ca.stand_in("pi-1", now=NOW)
    certificate = x509.load_pem_x509_certificate(pem)
    assert certificate.not_valid_after_utc - NOW == authority_module.STAND_IN <= timedelta(minutes=5)
    assert serialization.load_pem_private_key(key, None).public_key() == certificate.public_key()
    assert ca.ledger_file.read_bytes() == before


def test_the_release_key_pair(tmp_path: Path) -> None:
    signer = create_signing_key(tmp_path / "keys")
    assert mode(tmp_path / "keys" / "release.key") == 0o600
    public = (tmp_path / "keys" / "release.pub").read_text("ascii").strip()
    loaded = load_signing_key(tmp_path / "keys")
    assert isinstance(loaded, Signer)
    assert public == signer.public_hex == loaded.public_hex and len(bytes.fromhex(public)) == 32
    ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))
    with pytest.raises(PkiError, match="never overwritten"):
        create_signing_key(tmp_path / "keys")
    assert load_signing_key(tmp_path / "keys").public_hex == public
    with pytest.raises(PkiError, match="No such file"):
        load_signing_key(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(PkiError, match="file"):
        create_signing_key(tmp_path / "file")


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f"
    files.write_file(path, b"old", mode=0o640)
    assert mode(path) == 0o640

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.write_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_times_survive_text() -> None:
    assert ledger.parse_time(ledger.format_time(NOW)) == NOW


def test_reading_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(PkiError, match="No such file"):
        read_pem(tmp_path / "none")
