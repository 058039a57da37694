"""Cards from a file, an inventory and options."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from provisioning.card import Card, CardError, EnrolmentToken, IssuedCertificate
from provisioning.card_jobs import add_job_options, card_jobs
from provisioning.card_options import OPTIONS, SWITCHES, add_card_options, cards_from
from provisioning.card_secrets import Secrets
from provisioning.card_settings import endpoint, merged
from provisioning.enrolment.errors import EnrolmentServiceError
from provisioning.enrolment.store import EnrolmentStore
from provisioning.pki.authority import FleetCA
from tests.provisioning.card_images import HASH, SSH_KEY, ca_pem, make_wheelhouse

CARDS = f"""
[defaults]
target = "trixie-arm64"
ssh_key_files = ["keys/anna.pub"]
token_file = "tokens/{{name}}.token"
timezone = "Europe/Berlin"

[defaults.fleet]
name = "ward"
server_key = "{"ab" * 32}"
ca_file = "ca.crt"
broker = "broker.local:8883"
enrolment = "broker.local:8884"

[defaults.wifi]
ssid = "ward"
country = "DE"
passphrase_file = "wifi.txt"

[defaults.data]
source = "folder:/srv/images"

[cards.pi-1]

[cards.pi-2]
mode = "bundle"
device = "/dev/sdx"
data.source = "csv:/srv/rows.csv"
wifi.hidden = true
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with cards.toml and the files that it names."""
    for variable in ("BRAMBLE_WIFI_PASSPHRASE", "BRAMBLE_ENROLMENT_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    (tmp_path / "keys").mkdir()
    (tmp_path / "tokens").mkdir()
    (tmp_path / "keys" / "anna.pub").write_text(f"# Anna\n{SSH_KEY}\n\n")
    for name in ("pi-1", "pi-2"):
        (tmp_path / "tokens" / f"{name}.token").write_text(f"token-of-{name}\n")
    (tmp_path / "ca.crt").write_text(ca_pem())
    (tmp_path / "wifi.txt").write_text("correct horse\n")
    (tmp_path / "cards.toml").write_text(CARDS)
    return tmp_path


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_job_options(parser)
    return parser.parse_args(arguments)


def cards(*arguments: str) -> dict[str, Card]:
    return {card.name: card for card in cards_from(parse(*arguments))}


def changed(folder: Path, old: str, new: str) -> str:
    assert old in CARDS
    (folder / "cards.toml").write_text(CARDS.replace(old, new, 1))
    return str(folder / "cards.toml")


def test_a_file_describes_several_cards(folder: Path) -> None:
    found = cards("--card", str(folder / "cards.toml"))
    assert list(found) == ["pi-1", "pi-2"]
    one, two = found["pi-1"], found["pi-2"]
    assert one.ssh_keys == (SSH_KEY,) and one.timezone == "Europe/Berlin" and one.mode == "prebaked"
    assert isinstance(one.identity, EnrolmentToken) and one.identity.token.value == "token-of-pi-1"
    assert one.wifi is not None and one.wifi.passphrase is not None and two.wifi is not None
    assert one.wifi.passphrase.value == "correct horse" and not one.wifi.hidden
    assert two.wifi.hidden and two.wifi.ssid == "ward" and two.mode == "bundle"
    assert (one.data.source, two.data.source) == ("folder:/srv/images", "csv:/srv/rows.csv")
    assert str(one.access.broker) == "broker.local:8883" and one.access.ca == ca_pem()


def test_options_win_over_the_card_and_the_card_over_the_defaults(folder: Path) -> None:
    card = cards(
        *(
            "--card",
            str(folder / "cards.toml"),
            "--name",
            "pi-2",
            "--timezone",
            "Etc/UTC",
            "--wifi-ssid",
            "lab",
        ),
        *("--no-watchdog", "--mode", "prebaked"),
    )["pi-2"]
    assert card.wifi is not None
    assert (card.timezone, card.wifi.ssid, card.wifi.hidden) == ("Etc/UTC", "lab", True)
    assert (card.watchdog, card.mode, card.card_sparing) == (False, "prebaked", True)


def test_options_alone_are_enough(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (folder / "hash").write_text(HASH + "\n")
    card = cards(
        *("--name", "pi-9", "--target", "bookworm-armhf", "--fleet", "ward", "--server-key", "cd" * 32),
        *("--fleet-ca", "ca.crt", "--broker", "[fd00::1]:8883", "--enrolment", "host:8884"),
        *("--data", "folder:/srv", "--token-file", "tokens/pi-1.token", "--ssh-key", "keys/anna.pub"),
        *("--password-hash-file", "hash"),
    )["pi-9"]
    assert (card.target, card.access.broker.host, card.wifi) == ("bookworm-armhf", "fd00::1", None)
    assert card.password_hash is not None and card.password_hash.value == HASH


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("passphrase_file =", "pasphrase_file =", "did you mean passphrase_file"),
        ("passphrase_file =", "password =", "unknown key 'password'"),
        ('timezone = "', 'time_zone = "', "did you mean timezone"),
        ("[defaults.wifi]", "[defaults.wi-fi]", "did you mean wifi"),
        ('mode = "bundle"', 'mod = "bundle"', "cards.pi-2: unknown key 'mod'; did you mean mode"),
        ("data.source", "data.sauce", "did you mean source"),
        ("[cards.pi-1]", "[card.pi-1]", "unknown table 'card'"),
        ("[cards.pi-1]", "[cards.pi-1", "is not TOML"),
        ('mode = "bundle"', 'mode = "bundled"', "mode must be one of"),
        ('country = "DE"', 'country = "de"', "Wifi.country"),
        ('broker = "broker.local:8883"', 'broker = "broker.local"', "is not HOST:PORT"),
        ('ca_file = "ca.crt"', 'ca_file = "none.crt"', "No such file"),
        ('ca_file = "ca.crt"', 'ca_file = "wifi.txt"', "FleetAccess.ca"),
        ('target = "trixie-arm64"', 'target = "trixie-armhf"', "Card.target"),
        ('target = "trixie-arm64"\n', "", "target is missing"),
        ("wifi.hidden = true", 'wifi.hidden = "yes"', "hidden must be bool"),
        ("[cards.pi-1]", '[cards."../pi"]', "as a host name is"),
        ('mode = "bundle"', 'key_file = "wifi.txt"', "go together"),
        ('mode = "bundle"', 'key_file = "wifi.txt"\ncertificate_file = "ca.crt"', "not both"),
    ],
)
def test_a_mistake_is_named_with_its_remedy(folder: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(CardError, match=said) as caught:
        cards("--card", changed(folder, old, new))
    assert "correct horse" not in str(caught.value)


def test_a_table_must_be_one(folder: Path) -> None:
    (folder / "cards.toml").write_text("[cards]\npi-1 = 5\n")
    with pytest.raises(CardError, match="must be a table"):
        cards("--card", str(folder / "cards.toml"))


def test_a_misspelled_passphrase_never_makes_an_open_network(folder: Path) -> None:
    path = changed(folder, 'passphrase_file = "wifi.txt"', "")
    with pytest.raises(CardError, match="give a passphrase"):
        cards("--card", path)


def test_a_name_that_the_file_lacks_gets_a_suggestion(folder: Path) -> None:
    with pytest.raises(CardError, match="did you mean pi-"):
        cards("--card", str(folder / "cards.toml"), "--name", "pi-3")
    with pytest.raises(CardError, match="there are pi-1, pi-2"):
        cards("--card", str(folder / "cards.toml"), "--name", "zebra")
    with pytest.raises(CardError, match="no card is named"):
        cards()


def test_secrets_come_from_the_environment_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "cards.toml").write_text(
        CARDS.replace('passphrase_file = "wifi.txt"', "").replace('token_file = "tokens/{name}.token"', "")
    )
    monkeypatch.setenv("BRAMBLE_WIFI_PASSPHRASE", "battery staple")
    monkeypatch.setenv("BRAMBLE_ENROLMENT_TOKEN", "from-outside")
    card = cards("--card", str(folder / "cards.toml"))["pi-1"]
    assert card.wifi is not None and card.wifi.passphrase is not None
    assert card.wifi.passphrase.value == "battery staple"
    assert isinstance(card.identity, EnrolmentToken) and card.identity.token.value == "from-outside"


def test_a_person_is_asked_once_for_one_network() -> None:
    asked: list[str] = []

    def answer(question: str) -> str:
        asked.append(question)
        return "battery staple"

    secrets = Secrets({}, answer)
    for _ in range(2):
        found = secrets.get(None, "NONE", "Passphrase of ward")
        assert found is not None and found.value == "battery staple"
    assert asked == ["Passphrase of ward: "]
    assert Secrets({}).get(None, "NONE", "Passphrase") is None


def test_a_card_without_identity_is_refused_with_three_remedies(folder: Path) -> None:
    path = changed(folder, 'token_file = "tokens/{name}.token"', "")
    with pytest.raises(CardError, match=r"token_file.*--ca.*certificate_file"):
        cards("--card", path, "--name", "pi-1")


def test_a_certificate_made_beforehand_is_an_explicit_choice(folder: Path) -> None:
    (folder / "key.pem").write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    path = changed(
        folder, 'token_file = "tokens/{name}.token"', 'certificate_file = "ca.crt"\nkey_file = "key.pem"'
    )
    assert isinstance(cards("--card", path)["pi-1"].identity, IssuedCertificate)


def test_no_option_takes_a_secret_itself() -> None:
    parser = argparse.ArgumentParser()
    add_card_options(parser)
    options = [option for option, *_ in (*OPTIONS, *SWITCHES)]
    words = ("pass", "token", "secret", "hash", "psk")
    for option in options:
        assert not any(word in option for word in words) or option.endswith("-file"), option


# ---- inventory ----


def test_an_inventory_has_a_row_a_card(folder: Path) -> None:
    rows = "name,mode,data.source,wifi.hidden,data.validation_fraction,device\n"
    rows += "pi-1,bundle,csv:/srv/a.csv,yes,0.3,/dev/sda\npi-2,,,no,,\n"
    (folder / "rows.csv").write_text(rows)
    found = cards("--card", str(folder / "cards.toml"), "--inventory", str(folder / "rows.csv"))
    one, two = found["pi-1"], found["pi-2"]
    assert one.wifi is not None and two.wifi is not None
    assert (one.mode, one.data.source, one.wifi.hidden, one.data.validation_fraction) == (
        *("bundle", "csv:/srv/a.csv", True),
        0.3,
    )
    assert (two.mode, two.wifi.hidden) == ("bundle", False)  # from its own table, and from its row


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("name,wifi.sid\npi-1,x\n", "line 2.wifi: unknown key 'sid'; did you mean ssid"),
        ("name,mode\n,bundle\n", "needs a name"),
        ("name,mode\npi-1,bundle\npi-1,bundle\n", "line 3"),
        ("name,mode\npi-1,bundle,more\n", "no more columns"),
        ("name,watchdog\npi-1,perhaps\n", "watchdog must be yes or no"),
        ("name,data.seed\npi-1,many\n", "seed must be a number"),
    ],
)
def test_a_bad_row_is_named_by_its_line(folder: Path, rows: str, said: str) -> None:
    (folder / "rows.csv").write_text(rows)
    with pytest.raises(CardError, match=said):
        cards("--card", str(folder / "cards.toml"), "--inventory", str(folder / "rows.csv"))


# ---- files and parts ----


def test_a_file_that_is_no_text_or_too_long_is_refused(folder: Path) -> None:
    (folder / "wifi.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(CardError, match="not a text file"):
        cards("--card", str(folder / "cards.toml"))
    (folder / "wifi.txt").write_bytes(b"x" * 70_000)
    with pytest.raises(CardError, match="too many"):
        cards("--card", str(folder / "cards.toml"))


def test_tables_are_laid_over_each_other() -> None:
    under = {"a": {"x": 1, "y": 2}, "b": 1}
    assert merged(under, {"a": {"y": 3}, "c": 4}) == {"a": {"x": 1, "y": 3}, "b": 1, "c": 4}
    assert under == {"a": {"x": 1, "y": 2}, "b": 1}


@pytest.mark.parametrize("text", ["host", "host:", ":80x", "host:port"])
def test_an_address_without_a_port_is_refused(text: str) -> None:
    with pytest.raises(CardError, match="HOST:PORT"):
        endpoint(text)


# ---- jobs ----


def test_a_job_has_the_payload_and_the_device_of_its_card(folder: Path) -> None:
    make_wheelhouse(folder / "wheels" / "trixie-arm64")
    path = changed(folder, 'timezone = "', 'wheelhouse = "wheels/{target}"\ntimezone = "')
    one, two = card_jobs(parse("--card", path))
    assert (one.device, two.device) == (None, "/dev/sdx")
    assert any(entry.path == "/etc/bramble/edge.toml" for entry in one.payload.root)
    assert not two.payload.root and any(file.path == "bramble/SHA256SUMS" for file in two.payload.boot)


def test_a_job_needs_a_client(folder: Path) -> None:
    with pytest.raises(CardError, match="bramble-provision wheelhouse --target trixie-arm64"):
        card_jobs(parse("--card", str(folder / "cards.toml")))


def test_the_authority_makes_a_token_for_each_card_but_not_in_a_dry_run(folder: Path) -> None:
    authority = FleetCA.create(folder / "ca", "ward")
    make_wheelhouse(folder / "wheels")
    path = changed(folder, 'token_file = "tokens/{name}.token"', 'wheelhouse = "wheels"')
    arguments = parse("--card", path, "--ca", str(folder / "ca"))
    card_jobs(arguments, dry_run=True)
    assert not (authority.directory / "enrolment.db").exists()
    tokens = []
    for job in card_jobs(arguments):
        assert isinstance(job.card.identity, EnrolmentToken)
        tokens.append(job.card.identity.token.value)
    with EnrolmentStore(authority.directory).look() as look:
        assert [row.name for row in look.tokens()] == ["pi-1", "pi-2"]
    assert len(set(tokens)) == 2 and all(token.startswith("brt_") for token in tokens)


def test_no_token_is_made_for_a_card_that_cannot_be(folder: Path) -> None:
    authority = FleetCA.create(folder / "ca", "ward")
    path = changed(folder, 'token_file = "tokens/{name}.token"', "")
    with pytest.raises(CardError, match="--wheelhouse"):
        card_jobs(parse("--card", path, "--ca", str(folder / "ca")))
    assert not (authority.directory / "enrolment.db").exists()


def test_a_token_that_is_given_is_kept(folder: Path) -> None:
    FleetCA.create(folder / "ca", "ward")
    make_wheelhouse(folder / "wheels")
    path = changed(folder, 'timezone = "', 'wheelhouse = "wheels"\ntimezone = "')
    for job in card_jobs(parse("--card", path, "--ca", str(folder / "ca"))):
        assert isinstance(job.card.identity, EnrolmentToken)
        assert job.card.identity.token.value == f"token-of-{job.card.name}"


def test_a_name_of_the_server_s_own_gets_no_token(folder: Path) -> None:
    FleetCA.create(folder / "ca", "ward")
    make_wheelhouse(folder / "wheels")
    path = changed(folder, 'token_file = "tokens/{name}.token"', 'wheelhouse = "wheels"')
    Path(path).write_text(Path(path).read_text().replace("[cards.pi-1]", "[cards.aggregator]"))
    with pytest.raises(EnrolmentServiceError, match="server's side"):
        card_jobs(parse("--card", path, "--ca", str(folder / "ca")))
