"""A card is checked when it is built, and shows its secrets to nobody."""

from __future__ import annotations

import pytest

from compression.records import RecordError
from provisioning.card import Card, Endpoint, EnrolmentToken, IssuedCertificate, Secret, Wifi
from tests.provisioning.card_images import HASH, SSH_KEY, a_card, ca_pem, wifi

HOSTILE = [
    "",
    "Pi-1",
    "-pi",
    "pi-",
    "pi 1",
    "pi'1",
    'pi"1',
    "pi\n1",
    "$(reboot)",
    "pi;ls",
    "a" * 64,
    "pi_1",
    "ü",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_that_is_no_host_name_is_refused(name: str) -> None:
    with pytest.raises(RecordError, match=r"Card\.name"):
        a_card(name=name)


@pytest.mark.parametrize("user", ["root", "Anna", "0day", "a b", "a\nb", ""])
def test_a_user_who_cannot_be_is_refused(user: str) -> None:
    with pytest.raises(RecordError, match=r"Card\.user"):
        a_card(user=user)


@pytest.mark.parametrize(
    "key",
    [
        "",
        "ssh-ed25519",
        "ssh-dss " + "A" * 80,
        SSH_KEY + "\nssh-rsa AAAA",
        'command="sh" ' + SSH_KEY,
        SSH_KEY + " ü",
    ],
)
def test_what_is_not_one_public_key_is_refused(key: str) -> None:
    with pytest.raises(RecordError, match="ssh_keys"):
        a_card(ssh_keys=(key,))


def test_a_token_needs_somewhere_to_enrol() -> None:
    access = a_card().access
    without = type(access)(access.fleet, access.server_key, access.broker, access.ca)
    with pytest.raises(RecordError, match="enrolment is missing"):
        a_card(access=without)


def test_a_certificate_needs_no_enrolment() -> None:
    access = a_card().access
    without = type(access)(access.fleet, access.server_key, access.broker, access.ca)
    key = Secret("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    card = a_card(access=without, identity=IssuedCertificate(ca_pem(), key))
    assert card.identity.TAG == "certificate"


def test_a_password_is_not_taken_for_its_hash() -> None:
    with pytest.raises(RecordError, match="crypt hash") as caught:
        a_card(password_hash=Secret("hunter2"))
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("passphrase", ["short", "p" * 64, "pass\nphrase", "pässphrase"])
def test_an_impossible_passphrase_is_refused_and_not_shown(passphrase: str) -> None:
    with pytest.raises(RecordError, match=r"Wifi\.passphrase") as caught:
        wifi(passphrase=Secret(passphrase))
    assert passphrase not in str(caught.value)


def test_a_network_is_open_only_if_somebody_says_so() -> None:
    with pytest.raises(RecordError, match="open_network"):
        wifi(passphrase=None)
    with pytest.raises(RecordError, match="open_network"):
        wifi(open_network=True)
    assert wifi(passphrase=None, open_network=True).passphrase is None


@pytest.mark.parametrize("ssid", ["", "a" * 33, "ü" * 17])
def test_a_network_s_name_has_one_to_32_bytes(ssid: str) -> None:
    with pytest.raises(RecordError, match=r"Wifi\.ssid"):
        wifi(ssid=ssid)


@pytest.mark.parametrize("country", ["", "de", "DEU", "D1"])
def test_wifi_has_a_country(country: str) -> None:
    with pytest.raises(RecordError, match=r"Wifi\.country"):
        wifi(country=country)


def test_secrets_show_stars() -> None:
    card = a_card(
        identity=EnrolmentToken(Secret("token-text")),
        wifi=Wifi("ward", "DE", Secret("correct horse")),
        password_hash=Secret(HASH),
    )
    for text in (repr(card), str(card), f"{card}"):
        assert "***" in text
        assert not any(secret in text for secret in ("token-text", "correct horse", HASH))


@pytest.mark.parametrize("value", ["", 5, "x" * 65_537])
def test_what_is_no_secret_is_refused_without_showing_it(value: object) -> None:
    with pytest.raises(RecordError, match="a secret must be a text"):
        Secret(value)  # type: ignore[arg-type]


def test_only_pem_certificates_pass_for_an_authority() -> None:
    access = a_card().access
    with pytest.raises(RecordError, match=r"FleetAccess\.ca"):
        type(access)("ward", "ab" * 32, access.broker, "-----BEGIN PRIVATE KEY-----" + "A" * 80)
    with pytest.raises(RecordError, match="certificate must be"):
        IssuedCertificate("x" * 80, Secret("-----BEGIN PRIVATE KEY-----"))
    with pytest.raises(RecordError, match="not a PEM private key"):
        IssuedCertificate(ca_pem(), Secret("AAAA"))


def test_an_address_is_written_as_people_write_it() -> None:
    assert str(Endpoint("broker.local", 8883)) == "broker.local:8883"
    assert str(Endpoint("fd00::1", 8883)) == "[fd00::1]:8883"


def test_defaults_are_those_of_a_fleet() -> None:
    card = a_card()
    assert (card.user, card.mode, card.timezone, card.locale, card.keymap) == (
        "pi",
        "prebaked",
        "Etc/UTC",
        None,
        None,
    )
    assert card.watchdog and card.card_sparing and isinstance(card, Card)
