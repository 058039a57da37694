"""``bramble-provision image`` makes a card as a file; ``inspect`` says what one carries, secrets apart."""

from __future__ import annotations

import hashlib
import json
import lzma
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from provisioning.card import IssuedCertificate, Secret
from provisioning.cli import main
from provisioning.customise.apply import personalise
from provisioning.customise.errors import CustomiseError
from provisioning.customise.inspect import inspect_card
from provisioning.customise.masking import mask_text, masked
from provisioning.customise.payload import BootFile, Payload, RootFile
from provisioning.pki.certificates import self_signed
from provisioning.pki.keys import private_pem
from tests.provisioning.card_images import (
    BOOT_AT,
    HASH,
    SSH_KEY,
    a_card,
    bookworm_image,
    ca_pem,
    check_file_systems,
    make_image,
    make_wheelhouse,
    needs_tools,
    preseed_image,
    tool,
    trixie_image,
    wifi,
)

pytestmark = needs_tools
TOKEN = "brt_" + "t" * 43
PASSPHRASE = "correct horse"
CARDS = f"""
[defaults]
target = "trixie-arm64"
ssh_keys = ["{SSH_KEY}"]
token_file = "token"
password_hash_file = "hash"
wheelhouse = "wheels"
[defaults.fleet]
name = "ward"
server_key = "{"ab" * 32}"
ca_file = "ca.crt"
broker = "broker.local:8883"
enrolment = "broker.local:8884"
[defaults.wifi]
ssid = "ward"
country = "DE"
passphrase_file = "wifi"
[defaults.data]
source = "folder:/srv/images"
[cards.pi-1]
[cards.pi-2]
mode = "bundle"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """cards.toml and the files that it names, a wheelhouse, and the image of a trixie with its hash."""
    (tmp_path / "cards.toml").write_text(CARDS)
    (tmp_path / "ca.crt").write_text(ca_pem())
    for name, text in (("token", TOKEN), ("hash", HASH), ("wifi", PASSPHRASE)):
        (tmp_path / name).write_text(text + "\n")
    make_wheelhouse(tmp_path / "wheels")
    image = trixie_image(tmp_path / "pios.img")
    digest = hashlib.sha256(image.read_bytes()).hexdigest()
    (tmp_path / "pios.img.sha256").write_text(f"{digest}  pios.img\n")
    return tmp_path


def image_command(folder: Path, *more: str, out: str = "{name}.img", image: str = "pios.img") -> int:
    card = str(folder / "cards.toml")
    return main(["image", str(folder / image), "--out", str(folder / out), "--card", card, *more])


def derived() -> str:
    return hashlib.pbkdf2_hmac("sha1", PASSPHRASE.encode(), b"ward", 4096, 32).hex()


# ---- image ----


def test_each_card_gets_its_file_and_no_secret_is_shown(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert image_command(folder) == 0
    for name in ("pi-1", "pi-2"):
        check_file_systems(folder / f"{name}.img")
        assert (folder / f"{name}.img").stat().st_mode & 0o777 == 0o600
        assert main(["inspect", str(folder / f"{name}.img")]) == 0
        assert main(["inspect", str(folder / f"{name}.img"), "--json"]) == 0
    shown = "".join(capsys.readouterr())
    for secret in (TOKEN, HASH, PASSPHRASE, derived()):
        assert secret not in shown
    for fact in ("pi-1 (cloud-init:", "hostname: pi-2", "broker.local", "ward", "read back", SSH_KEY):
        assert fact in shown
    instances = [
        inspect_card(folder / f"{name}.img").settings["meta-data"]["instance-id"] for name in ("pi-1", "pi-2")
    ]
    assert instances[0].startswith("pi-1-") and instances[1].startswith("pi-2-")


def test_the_file_s_hashes_come_as_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert image_command(folder, "--name", "pi-1", "--json") == 0
    facts = json.loads(capsys.readouterr().out)[0]
    assert (facts["name"], facts["format"], facts["mode"], facts["identity"]) == (
        *("pi-1", "cloud-init", "prebaked"),
        "token",
    )
    assert facts["files"]["root:/opt/bramble/a/site/edge_client/cli.py"] == (
        hashlib.sha256(b"print('client')\n").hexdigest()
    )


def test_the_finished_name_is_on_the_disk_before_it_is_called_done(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[Path, bool]] = []
    monkeypatch.setattr(
        "provisioning.customise.image_file.sync_directory",
        lambda path: synced.append((path, (folder / "pi-1.img").exists())),
    )
    assert image_command(folder, "--name", "pi-1") == 0
    assert synced == [(folder, True)]


def test_a_dry_run_writes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(folder.iterdir())
    assert image_command(folder, "--dry-run") == 0
    assert "would write" in capsys.readouterr().out and sorted(folder.iterdir()) == before


def test_an_archive_is_decoded_and_checked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    packed = lzma.compress((folder / "pios.img").read_bytes(), preset=0)
    (folder / "pios.img.xz").write_bytes(packed)
    arguments = ("--name", "pi-1", "--sha256", hashlib.sha256(packed).hexdigest())
    assert image_command(folder, *arguments, image="pios.img.xz") == 0
    check_file_systems(folder / "pi-1.img")
    (folder / "pios.img.xz").write_bytes(packed[:-100])
    assert image_command(folder, "--no-hash", image="pios.img.xz", out="b-{name}.img") == 1
    assert "truncated" in capsys.readouterr().err
    assert not list(folder.glob("*b-*"))


def test_a_failure_leaves_no_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = ("--name", "pi-1", "--sha256", "0" * 64)
    assert image_command(folder, *bad) == 1
    assert "has SHA-256" in capsys.readouterr().err
    assert image_command(folder, "--name", "pi-1", "--target", "bookworm-arm64") == 1
    assert "wheelhouse for trixie-arm64" in capsys.readouterr().err
    unknown = make_image(folder / "unknown.img", {"cmdline.txt": b"x"}, {"etc/x": b""})
    assert image_command(folder, "--name", "pi-1", "--no-hash", image=unknown.name) == 1
    assert "no first-boot format" in capsys.readouterr().err
    assert not list(folder.glob("*pi-1*"))


def test_a_file_that_is_there_stays(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "pi-1.img").write_text("mine")
    assert image_command(folder, "--name", "pi-1") == 1
    assert "exists" in capsys.readouterr().err and (folder / "pi-1.img").read_text() == "mine"
    assert image_command(folder, out="one.img") == 1
    assert "put {name} in it" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["image", "inspect"])
def test_help_ends_with_an_example(command: str) -> None:
    arguments = [sys.executable, "-m", "provisioning.cli", command, "--help"]
    result = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=True)
    assert f"bramble-provision {command}" in result.stdout.splitlines()[-1]


# ---- inspect ----


def put_boot(image: Path, name: str, data: bytes) -> None:
    source = image.with_suffix(".put")
    source.write_bytes(data)
    tool("mcopy", "-o", "-i", f"{image}@@{BOOT_AT}", source, f"::/{name}")


def test_the_log_of_a_boot_is_shown_once_and_cleaned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = trixie_image(tmp_path / "card.img")
    line = "12.5 2026-01-01T00:00:00Z install failed bundle checksum: numpy is damaged"
    root = (RootFile("/var/lib/private/bramble/status.log", f"{line}\n13 x enrol ok\n".encode()),)
    personalise(image, a_card(), Payload((BootFile("bramble/README.txt", b""),), root), instance_id="x")
    put_boot(image, "bramble/status.log", f"{line}\n\x1b[31m{TOKEN}\n".encode())
    assert inspect_card(image).status == (line, "[31m***", "13 x enrol ok")
    assert main(["inspect", str(image)]) == 0
    assert line in capsys.readouterr().out


def test_a_certificate_s_end_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = trixie_image(tmp_path / "card.img")
    key = ec.generate_private_key(ec.SECP256R1())
    old = self_signed(key, "ward", datetime.now(UTC) - timedelta(days=3651))
    root = (
        RootFile("/etc/bramble/ca.crt", ca_pem().encode()),
        RootFile("/var/lib/private/bramble/identity/device.crt", old),
        RootFile("/var/lib/private/bramble/identity/device.key", private_pem(key), 0o600),
    )
    identity = IssuedCertificate(old.decode(), Secret(private_pem(key).decode()))
    personalise(image, a_card(identity=identity), Payload((), root), instance_id="x")
    carried = inspect_card(image)
    assert [each.days_left for each in carried.certificates] == [3649, -1]
    assert carried.secrets == ("/var/lib/private/bramble/identity/device.key",)
    assert main(["inspect", str(image)]) == 0
    shown = capsys.readouterr().out
    assert "EXPIRED" in shown and "3649 days left" in shown and "PRIVATE KEY" not in shown


def test_each_format_is_shown(tmp_path: Path) -> None:
    password = Secret(HASH)
    first = bookworm_image(tmp_path / "a.img")
    personalise(
        first,
        a_card(target="bookworm-arm64", wifi=wifi(), password_hash=password),
        Payload(),
        instance_id="x",
    )
    shown = inspect_card(first).settings["custom.toml"]
    assert (shown["user"]["password"], shown["wlan"]["password"], shown["user"]["name"]) == (
        "***",
        "***",
        "pi",
    )
    second = preseed_image(tmp_path / "b.img")
    personalise(second, a_card(wifi=wifi(), password_hash=password), Payload(), instance_id="x")
    shown = inspect_card(second).settings["rpi-preseed.toml"]
    assert (shown["user"]["password"], shown["wlan"]["password"]) == ("***", "***")
    third = bookworm_image(tmp_path / "c.img")
    personalise(third, a_card(target="bookworm-arm64", locale="de_DE.UTF-8"), Payload(), instance_id="x")
    assert any("firstrun.sh is still there" in note for note in inspect_card(third).notes)


def test_a_blank_image_and_a_broken_seed_are_said_to_be_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = make_image(tmp_path / "card.img", {"cmdline.txt": b"quiet\n"}, {"etc/x": b""})
    carried = inspect_card(image)
    assert carried.format == "unknown" and "looked for" in carried.evidence and carried.status == ()
    put_boot(image, "user-data", b"a: [\n")
    put_boot(image, "custom.toml", b"a = \n")
    settings = inspect_card(image).settings
    assert settings["user-data"] == settings["custom.toml"] == "cannot be parsed: the image will ignore it"
    bomb = "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"
    put_boot(image, "user-data", bomb.encode())
    put_boot(image, "cmdline.txt", b"quiet \x1b[31m\n")
    assert "references" in inspect_card(image).settings["user-data"]
    assert inspect_card(image).settings["cmdline.txt"] == "quiet [31m"
    monkeypatch.setattr("provisioning.customise.inspect.have_tool", lambda _name: False)
    assert "e2fsprogs" in inspect_card(image).notes[0]
    bare = make_image(tmp_path / "bare.img", {"cmdline.txt": b"quiet\n"}, None)
    assert "no root file system" in inspect_card(bare).notes[0]


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"no image")
    with pytest.raises(CustomiseError, match="no partition table"):
        inspect_card(tmp_path / "x")


def test_secrets_are_masked_by_key_and_by_look() -> None:
    plain = {
        "passwd": HASH,
        "lock_passwd": True,
        "psk": "x",
        "nested": [{"token": "x", "note": f"has {TOKEN}"}, "b" * 64],
        "server_key": "c" * 64,
        "token_file": "/etc/token",
        "password_authentication": False,
        "hashed": "x",
    }
    assert masked(plain) == {
        "passwd": "***",
        "lock_passwd": True,
        "psk": "***",
        "nested": [{"token": "***", "note": "has ***"}, "***"],
        "server_key": "c" * 64,
        "token_file": "/etc/token",
        "password_authentication": False,
        "hashed": "***",
    }
    assert mask_text(f"login {HASH} end") == "login *** end"
