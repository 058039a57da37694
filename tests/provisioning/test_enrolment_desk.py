"""Who gets a certificate for what: the rules, with a clock that the tests turn."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from edge_client.enrolment.keys import new_key, signing_request
from edge_client.wire.enrolment import EnrolRequest, RenewRequest, StepReport
from provisioning.enrolment.desk import DEVICE_DAYS, EnrolmentDesk
from provisioning.enrolment.errors import EnrolmentServiceError, RefusedError
from provisioning.enrolment.store import FILE, EnrolmentStore, Transaction
from provisioning.enrolment.tokens import NewToken, issue_tokens, withdraw_tokens
from provisioning.pki.authority import FleetCA
from provisioning.pki.errors import PkiError
from provisioning.pki.identity import ensure_identity
from tests.provisioning.enrolment_cases import Fleet

KEY, OTHER_KEY = new_key(), new_key()


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet.create(tmp_path)


@pytest.fixture
def desk(fleet: Fleet) -> EnrolmentDesk:
    return fleet.desk()


def request(name: str = "pi-1", key: ec.EllipticCurvePrivateKey = KEY, csr_name: str = "") -> EnrolRequest:
    return EnrolRequest(name, signing_request(key, csr_name or name).decode(), "10000000abcdef", "Pi 4")


def der(pem: str) -> bytes:
    return x509.load_pem_x509_certificate(pem.encode()).public_bytes(serialization.Encoding.DER)


def refused(status: int, call: Callable[[], object]) -> str:
    with pytest.raises(RefusedError) as caught:
        call()
    assert caught.value.status == status
    return str(caught.value)


def test_a_token_gets_a_certificate_for_its_name_and_the_devices_key(
    fleet: Fleet, desk: EnrolmentDesk
) -> None:
    pem = desk.enrol(request(), fleet.token("pi-1"))
    certificate = x509.load_pem_x509_certificate(pem.encode())
    assert certificate.subject.rfc4514_string() == "CN=pi-1"
    assert certificate.public_key() == KEY.public_key()
    life = certificate.not_valid_after_utc - fleet.now()
    assert timedelta(days=DEVICE_DAYS - 1) < life <= timedelta(days=DEVICE_DAYS)
    assert [entry.role for entry in fleet.authority.ledger().of("pi-1")] == ["device"]
    with EnrolmentStore(fleet.authority.directory).look() as look:
        (device,) = look.devices()
    assert (device.serial, device.model) == ("10000000abcdef", "Pi 4")


def test_the_same_key_may_ask_again_and_gets_the_same_certificate(fleet: Fleet, desk: EnrolmentDesk) -> None:
    """The answer may have been lost; nothing is issued twice, also after the token's time."""
    token = fleet.token("pi-1")
    first = desk.enrol(request(), token)
    fleet.ahead = timedelta(days=30)
    assert fleet.desk().enrol(request(), token) == first
    assert len(fleet.authority.ledger().issued) == 1


def test_a_used_token_is_nothing_to_another_key(fleet: Fleet, desk: EnrolmentDesk) -> None:
    token = fleet.token("pi-1")
    desk.enrol(request(), token)
    assert "used by another key" in refused(409, lambda: desk.enrol(request(key=OTHER_KEY), token))
    assert len(fleet.authority.ledger().issued) == 1


def test_of_many_keys_with_one_token_one_wins(fleet: Fleet, desk: EnrolmentDesk) -> None:
    token = fleet.token("pi-1")
    outcomes: list[str] = []
    start = threading.Barrier(6)

    def ask() -> None:
        wish = request(key=new_key())
        start.wait()
        try:
            outcomes.append(fleet.desk().enrol(wish, token))
        except RefusedError as exc:
            outcomes.append(str(exc.status))

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("409") == 5
    assert sum(outcome.startswith("-----BEGIN") for outcome in outcomes) == 1
    assert len(fleet.authority.ledger().issued) == 1


def test_an_expired_token_is_refused_and_the_progress_says_so(fleet: Fleet, desk: EnrolmentDesk) -> None:
    token = fleet.token("pi-1", expires_in=timedelta(hours=1))
    fleet.ahead = timedelta(hours=2)
    assert "expired at" in refused(410, lambda: desk.enrol(request(), token))
    assert fleet.authority.ledger().issued == ()
    with EnrolmentStore(fleet.authority.directory).look() as look:
        (step,) = look.steps()
    assert (step.step, step.state) == ("enrol", "failed")
    assert "bramble-provision token issue pi-1" in step.detail


def test_a_token_of_another_name_is_refused(fleet: Fleet, desk: EnrolmentDesk) -> None:
    token = fleet.token("pi-1")
    assert "none of pi-2's" in refused(401, lambda: desk.enrol(request("pi-2"), token))
    fleet.token("pi-2")
    assert "none of pi-2's" in refused(401, lambda: desk.enrol(request("pi-2"), token))


@pytest.mark.parametrize("token", ["", "brt_", "brt_" + "A" * 43, "x" * 47, "ä" * 47])
def test_what_is_no_token_is_refused(fleet: Fleet, desk: EnrolmentDesk, token: str) -> None:
    fleet.token("pi-1")
    refused(401, lambda: desk.enrol(request(), token))


def test_a_request_for_another_name_is_refused_and_leaves_the_token_good(
    fleet: Fleet, desk: EnrolmentDesk
) -> None:
    token = fleet.token("pi-1")
    reason = refused(403, lambda: desk.enrol(request(csr_name="pi-2"), token))
    assert "is for 'CN=pi-2', not for 'pi-1'" in reason
    assert desk.enrol(request(), token)


def test_a_newer_token_takes_the_older_ones_place(fleet: Fleet, desk: EnrolmentDesk) -> None:
    old, new = fleet.token("pi-1"), fleet.token("pi-1")
    assert "a newer token took its place" in refused(403, lambda: desk.enrol(request(), old))
    assert desk.enrol(request(), new)


def test_a_withdrawn_token_is_refused(fleet: Fleet, desk: EnrolmentDesk) -> None:
    token = fleet.token("pi-1")
    assert withdraw_tokens(fleet.authority, "pi-1") == 1
    assert withdraw_tokens(fleet.authority, "pi-1") == 0
    assert "it was revoked" in refused(403, lambda: desk.enrol(request(), token))


def test_a_card_made_anew_takes_the_old_cards_place(fleet: Fleet, desk: EnrolmentDesk) -> None:
    """One name, one device: what the old card held is revoked in the same step, and the name is not."""
    old_token = fleet.token("pi-1")
    old = desk.enrol(request(), old_token)
    new = desk.enrol(request(key=OTHER_KEY), fleet.token("pi-1"))
    assert [entry.revoked_at is None for entry in fleet.authority.ledger().of("pi-1")] == [False, True]
    assert fleet.authority.ledger().revoked_names() == ()
    revoked = x509.load_pem_x509_crl(fleet.authority.crl_file.read_bytes())
    assert [entry.serial_number for entry in revoked] == [
        x509.load_pem_x509_certificate(old.encode()).serial_number
    ]
    renewal = RenewRequest(request().csr)
    assert "is revoked" in refused(403, lambda: desk.renew(renewal, der(old)))
    assert "newer card" in refused(403, lambda: desk.enrol(request(), old_token))
    assert desk.renew(RenewRequest(request(key=OTHER_KEY).csr), der(new)) == new


def test_a_revoked_name_comes_back_with_a_token_made_afterwards_only(
    fleet: Fleet, desk: EnrolmentDesk
) -> None:
    used = fleet.token("pi-1")
    desk.enrol(request(), used)
    before = fleet.token("pi-1")
    fleet.authority.revoke("pi-1")
    assert "was revoked" in refused(403, lambda: desk.enrol(request(), used))
    assert "was revoked after" in refused(403, lambda: desk.enrol(request(), before))
    assert desk.enrol(request(), fleet.token("pi-1"))  # in the same second: no clock is asked
    assert fleet.authority.ledger().revoked_names() == ()


class PowerCutError(Exception):
    """Not one that anything expects."""


@pytest.mark.parametrize("moment", ["before signing", "after signing", "before the commit"])
def test_a_server_that_dies_between_the_steps_strands_nobody(
    fleet: Fleet, desk: EnrolmentDesk, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    desk.enrol(request(key=OTHER_KEY), fleet.token("pi-1"))  # an older card, which is revoked on the way
    token, real = fleet.token("pi-1"), FleetCA.sign_csr

    def signs_and_dies(*arguments: object, **options: object) -> bytes:
        if moment == "after signing":
            real(*arguments, **options)  # type: ignore[arg-type]
        raise PowerCutError

    def dies(*_: object) -> None:
        raise PowerCutError

    with monkeypatch.context() as patch:
        if moment == "before the commit":
            patch.setattr(Transaction, "keep_device", dies)
        else:
            patch.setattr(FleetCA, "sign_csr", signs_and_dies)
        with pytest.raises(PowerCutError):
            desk.enrol(request(), token)
    pem = fleet.desk().enrol(request(), token)
    standing = [entry for entry in fleet.authority.ledger().of("pi-1") if entry.revoked_at is None]
    assert [int(entry.serial, 16) for entry in standing] == [
        x509.load_pem_x509_certificate(pem.encode()).serial_number
    ]


def test_a_certificate_is_renewed_when_a_third_of_it_is_left(fleet: Fleet, desk: EnrolmentDesk) -> None:
    first = desk.enrol(request(), fleet.token("pi-1"))
    renewal = RenewRequest(request().csr)
    fleet.ahead = timedelta(days=DEVICE_DAYS * 2 / 3 - 1)
    assert desk.renew(renewal, der(first)) == first
    fleet.ahead = timedelta(days=DEVICE_DAYS * 2 / 3 + 1)
    second = desk.renew(renewal, der(first))
    assert second != first
    assert desk.renew(renewal, der(first)) == second  # the answer was lost: nothing is issued again
    assert desk.renew(renewal, der(second)) == second
    assert len(fleet.authority.ledger().issued) == 2
    assert {entry.revoked_at for entry in fleet.authority.ledger().issued} == {None}


def test_a_revoked_device_is_not_renewed(fleet: Fleet, desk: EnrolmentDesk) -> None:
    pem = desk.enrol(request(), fleet.token("pi-1"))
    fleet.authority.revoke("pi-1")
    fleet.ahead = timedelta(days=300)
    assert "is revoked" in refused(403, lambda: desk.renew(RenewRequest(request().csr), der(pem)))


def test_a_revocation_in_the_middle_of_a_renewal_stands(
    fleet: Fleet, desk: EnrolmentDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The desk waits for its store after reading the ledger; a new certificate would let the device in."""
    pem = desk.enrol(request(), fleet.token("pi-1"))
    fleet.ahead = timedelta(days=300)
    sign = FleetCA.sign_csr

    def revoked_first(authority: FleetCA, *arguments: object, **options: object) -> bytes:
        FleetCA.open(authority.directory).revoke("pi-1")
        return sign(authority, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(FleetCA, "sign_csr", revoked_first)
    with pytest.raises(PkiError, match="pi-1 was revoked while its certificate was renewed"):
        desk.renew(RenewRequest(request().csr), der(pem))
    assert fleet.authority.ledger().revoked_names() == ("pi-1",)


def test_an_expired_device_is_told_what_to_do(fleet: Fleet, desk: EnrolmentDesk) -> None:
    pem = desk.enrol(request(), fleet.token("pi-1"))
    fleet.ahead = timedelta(days=DEVICE_DAYS + 1)
    reason = refused(403, lambda: desk.renew(RenewRequest(request().csr), der(pem)))
    assert "is expired; make a new one with: bramble-provision token issue pi-1" in reason


def test_a_renewal_keeps_name_and_key(fleet: Fleet, desk: EnrolmentDesk) -> None:
    pem = desk.enrol(request(), fleet.token("pi-1"))
    fleet.ahead = timedelta(days=300)
    other_name, other_key = RenewRequest(request("pi-2").csr), RenewRequest(request(key=OTHER_KEY).csr)
    assert "not for 'pi-1'" in refused(403, lambda: desk.renew(other_name, der(pem)))
    assert "keeps its key" in refused(403, lambda: desk.renew(other_key, der(pem)))
    assert len(fleet.authority.ledger().issued) == 1


def test_only_certificates_that_devices_were_given_count(
    fleet: Fleet, desk: EnrolmentDesk, tmp_path: Path
) -> None:
    """Neither the server's own nor the stand-in with which it puts a revoked device off the broker."""
    aggregator = ensure_identity(fleet.authority, tmp_path / "aggregator", "aggregator")
    _, stand_in = fleet.authority.stand_in("pi-1")
    for pem in (aggregator.certificate_file.read_text(), stand_in.decode()):
        refused(403, lambda pem=pem: desk.renew(RenewRequest(request().csr), der(pem)))  # type: ignore[misc]


def test_a_certificate_made_beforehand_is_renewed_too(
    fleet: Fleet, desk: EnrolmentDesk, tmp_path: Path
) -> None:
    identity = ensure_identity(fleet.authority, tmp_path / "pi-1", "pi-1")
    csr = (tmp_path / "pi-1" / "device.csr").read_text()
    pem = identity.certificate_file.read_text()
    assert desk.renew(RenewRequest(csr), der(pem)) == pem
    fleet.ahead = timedelta(days=600)
    assert desk.renew(RenewRequest(csr), der(pem)) != pem


def test_reports_need_an_unused_token_or_the_devices_own_certificate(
    fleet: Fleet, desk: EnrolmentDesk
) -> None:
    token, other = fleet.token("pi-1"), fleet.token("pi-2")
    step = StepReport("pi-1", "install", "ok", "in 12 s", 40.0)
    desk.report(step, token=token)
    refused(401, lambda: desk.report(step, token=other))
    refused(401, lambda: desk.report(step))
    for pretence in (StepReport("pi-1", "joined", "ok"), StepReport("pi-1", "flash", "ok")):
        with pytest.raises(RefusedError, match="for the workstation to say"):
            desk.report(pretence, token=token)
    pem = desk.enrol(request(), token)
    refused(409, lambda: desk.report(step, token=token))
    desk.report(StepReport("pi-1", "service", "ok"), presented=der(pem))
    pretended = StepReport("pi-2", "service", "ok")
    assert "is pi-1's, not pi-2's" in refused(403, lambda: desk.report(pretended, presented=der(pem)))
    fleet.authority.revoke("pi-1")
    refused(403, lambda: desk.report(step, presented=der(pem)))
    with EnrolmentStore(fleet.authority.directory).look() as look:
        assert [(row.name, row.step, row.detail) for row in look.steps()] == [
            ("pi-1", "install", "in 12 s"),
            ("pi-1", "service", ""),
        ]


def test_what_a_token_may_be_made_for_is_bounded(fleet: Fleet) -> None:
    for days in (0, 91):
        with pytest.raises(EnrolmentServiceError, match="a minute to 90 days"):
            issue_tokens(fleet.authority, ["pi-1"], expires_in=timedelta(days=days))
    with pytest.raises(EnrolmentServiceError, match="server's side"):
        issue_tokens(fleet.authority, ["aggregator"])
    with pytest.raises(PkiError, match="must be 1 to 64"):
        issue_tokens(fleet.authority, ["pi/1"])


def test_a_token_is_kept_as_its_hash_only(fleet: Fleet, desk: EnrolmentDesk) -> None:
    token = fleet.token("pi-1")
    desk.enrol(request(), token)
    for path in fleet.authority.directory.rglob("*"):
        if path.is_file():
            assert token.encode() not in path.read_bytes(), path
    assert (fleet.authority.directory / FILE).stat().st_mode & 0o777 == 0o600
    new = NewToken("pi-1", token, fleet.now())
    assert token not in repr(new) and token not in str(new)


def test_a_damaged_store_is_named(fleet: Fleet) -> None:
    (fleet.authority.directory / FILE).write_bytes(b"not a database" * 100)
    with pytest.raises(EnrolmentServiceError, match=r"enrolment\.db cannot be used"):
        fleet.desk()
