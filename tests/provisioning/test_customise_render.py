"""One card in each format, letter for letter; what a hostile value does there, which is nothing."""

from __future__ import annotations

import os
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from provisioning.card import Card, Secret
from provisioning.customise import cloud_init, custom_toml, firstrun, preseed
from provisioning.customise.apply import render
from provisioning.customise.errors import CustomiseError
from provisioning.customise.rendering import Rendering
from provisioning.customise.schema import check, check_network
from provisioning.customise.settings import by_commands, entries
from provisioning.customise.wifi import connection_file, derived_key
from tests.provisioning.card_images import HASH, SSH_KEY, a_card, wifi

GOLDEN = Path(__file__).with_name("golden")
COMMANDS = (("/usr/bin/python3", "-I", "/boot/firmware/bramble/bramble-edge", "device", "install"),)
HOSTILE_SSIDS = [
    "$(reboot)",
    "a'b",
    'a"b',
    "`x`",
    "a;b\\c",
    "a]b",
    "- x: y",
    "a\nb",
    "café",
    "#",
    " lead",
    "{x}",
]
HOSTILE_KEY = SSH_KEY.rpartition(" ")[0] + " $(reboot) `id` '; rm -rf / #\"] \\"


def full_card(**changes: object) -> Card:
    """A card on which everything is set."""
    values: dict[str, object] = {
        "user": "anna",
        "password_hash": Secret(HASH),
        "wifi": wifi(hidden=True),
        "locale": "de_DE.UTF-8",
        "keymap": "de",
        "timezone": "Europe/Berlin",
    }
    return a_card(**(values | changes))


def text_of(rendering: Rendering, name: str) -> str:
    content = next(file.content for file in rendering.files if file.path == name)
    assert isinstance(content, bytes)
    return content.decode()


# ---- letter for letter ----


@pytest.mark.parametrize("name", ["user-data", "meta-data", "network-config"])
def test_cloud_init(name: str) -> None:
    rendering = cloud_init.render(full_card(), COMMANDS, "pi-1-0123456789abcdef")
    assert text_of(rendering, name) == (GOLDEN / name).read_text()
    assert rendering.kernel == ("ds=nocloud;i=pi-1-0123456789abcdef",)


def test_custom_toml() -> None:
    rendering = custom_toml.render(full_card(locale=None))
    assert text_of(rendering, "custom.toml") == (GOLDEN / "custom.toml").read_text()
    assert rendering.kernel == ()


def test_rpi_preseed() -> None:
    rendering = preseed.render(full_card(), COMMANDS)
    assert text_of(rendering, "rpi-preseed.toml") == (GOLDEN / "rpi-preseed.toml").read_text()
    assert text_of(rendering, "bramble/authorized_keys") == SSH_KEY.rpartition(" ")[0] + "\n"


def test_firstrun() -> None:
    rendering = firstrun.render(full_card(), COMMANDS)
    script = text_of(rendering, "firstrun.sh")
    values, body = script.split("\n# Everything above", 1)
    assert values == (GOLDEN / "firstrun-values.sh").read_text()
    assert body.endswith(f"step {shlex.join(COMMANDS[0])}\nfinish\n")
    assert rendering.kernel[0] == "systemd.run=/boot/firmware/firstrun.sh"


def test_an_open_network_says_so_in_every_format() -> None:
    card = a_card(wifi=wifi(passphrase=None, open_network=True))
    network = yaml.safe_load(text_of(cloud_init.render(card, (), "x"), "network-config"))
    point = network["network"]["wifis"]["wlan0"]["access-points"]["ward net"]
    assert point == {"auth": {"key-management": "none"}}
    wlan = tomllib.loads(text_of(preseed.render(card, ()), "rpi-preseed.toml"))["wlan"]
    assert wlan["key_mgmt"] == "none" and "password" not in wlan
    assert not custom_toml.can_say(card, ())  # its reader takes a missing password for an open network
    assert card.wifi is not None and "wifi-security" not in connection_file(card.wifi)


def test_the_key_of_a_network_is_the_standard_s() -> None:
    """IEEE 802.11i, annex H.4: the third and the first of its examples."""
    ieee = wifi(ssid="IEEE", passphrase=Secret("password"))
    assert derived_key(ieee) == "f42c6fc52df0ebef9ebb4b90b38a5f902e83fe1b135a70e23aed762e9710a12e"
    this = wifi(ssid="ThisIsASSID", passphrase=Secret("ThisIsAPassword"))
    assert derived_key(this) == "0dc0d6eb90555ed6419756b9a15ec3e3209b63df707dd508d14581f8982721af"
    assert derived_key(wifi(passphrase=Secret("AB" * 32))) == "ab" * 32


def test_no_passphrase_is_written_in_any_format() -> None:
    card = full_card()
    found = [cloud_init.render(card, (), "x"), preseed.render(card, ()), firstrun.render(card, ())]
    for rendering in (*found, custom_toml.render(card)):
        for file in rendering.files:
            assert isinstance(file.content, bytes) and b"correct horse" not in file.content


def test_who_has_no_password_gets_sudo_and_who_has_one_types_it() -> None:
    without = yaml.safe_load(text_of(cloud_init.render(a_card(), (), "x"), "user-data"))["user"]
    assert without["sudo"] == "ALL=(ALL) NOPASSWD:ALL" and without["lock_passwd"] is True
    having = yaml.safe_load(text_of(cloud_init.render(full_card(), (), "x"), "user-data"))["user"]
    assert having["sudo"] is None and having["lock_passwd"] is False


def test_a_card_that_nobody_logs_in_to_leaves_ssh_off() -> None:
    card = a_card(ssh_keys=())
    data = yaml.safe_load(text_of(cloud_init.render(card, (), "x"), "user-data"))
    assert "runcmd" not in data and data["ssh_pwauth"] is False
    assert tomllib.loads(text_of(custom_toml.render(card), "custom.toml"))["ssh"]["enabled"] is False
    preseeded = tomllib.loads(text_of(preseed.render(card, ()), "rpi-preseed.toml"))
    assert preseeded["ssh"]["enabled"] is False and "runcmd" not in preseeded


def test_bookworm_gets_custom_toml_only_where_it_can_say_everything() -> None:
    def names(card: Card, commands: Any = ()) -> list[str]:
        return [file.path for file in render("firstboot", card, commands, "x").files]

    assert names(a_card()) == ["custom.toml"]
    assert names(a_card(), COMMANDS) == ["firstrun.sh"]
    assert names(a_card(locale="de_DE.UTF-8")) == ["firstrun.sh"]
    assert names(a_card(wifi=wifi(ssid="a;b"))) == ["firstrun.sh"]
    assert names(a_card(wifi=wifi(ssid="-h"))) == ["firstrun.sh"]


# ---- hostile values ----


@pytest.mark.parametrize("ssid", HOSTILE_SSIDS)
def test_a_network_s_name_arrives_as_it_is(ssid: str) -> None:
    card = a_card(wifi=wifi(ssid=ssid), ssh_keys=(HOSTILE_KEY,))
    network = yaml.safe_load(text_of(cloud_init.render(card, (), "x"), "network-config"))
    assert list(network["network"]["wifis"]["wlan0"]["access-points"]) == [ssid]
    user = yaml.safe_load(text_of(cloud_init.render(card, (), "x"), "user-data"))["user"]
    assert user["ssh_authorized_keys"] == [HOSTILE_KEY]
    wlan = tomllib.loads(text_of(preseed.render(card, ()), "rpi-preseed.toml"))["wlan"]
    assert bytes.fromhex(wlan["ssid_hex"]).decode() == ssid
    line = next(each for each in connection_file(wifi(ssid=ssid)).splitlines() if each.startswith("ssid="))
    assert bytes(int(part) for part in line[5:-1].split(";")).decode() == ssid


def test_rpi_preseed_s_small_parser_gets_nothing_that_ends_an_array() -> None:
    rendering = preseed.render(a_card(ssh_keys=(HOSTILE_KEY,)), COMMANDS)
    assert HOSTILE_KEY.partition(" $")[0] in text_of(rendering, "bramble/authorized_keys")
    with pytest.raises(CustomiseError, match=r"runcmd\.late\[2\] breaks the rule 'pattern'"):
        preseed.render(a_card(), (("echo", "]"),))


@settings(deadline=None, max_examples=40)  # each starts a shell
@given(st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40))
def test_the_shell_sets_exactly_the_value(value: str) -> None:
    script = firstrun.assignments({"value": value}) + "printf '%s.' \"$value\"\n"
    environment = {"PATH": os.defpath, "LC_ALL": "C.UTF-8"}
    result = subprocess.run(
        ["sh", "-c", script], capture_output=True, env=environment, timeout=20, check=True
    )
    assert result.stdout == f"{value}.".encode()


@pytest.mark.parametrize("ssid", HOSTILE_SSIDS)
def test_the_script_is_one_that_a_shell_reads(ssid: str, tmp_path: Path) -> None:
    card = full_card(wifi=wifi(ssid=ssid), ssh_keys=(HOSTILE_KEY, SSH_KEY))
    script = tmp_path / "firstrun.sh"
    script.write_text(text_of(firstrun.render(card, (("echo", "it's; $(reboot)", "a\nb"),)), "firstrun.sh"))
    result = subprocess.run(["sh", "-n", script], capture_output=True, text=True, timeout=20, check=False)
    assert (result.returncode, result.stderr) == (0, "")


# ---- schemas ----


@pytest.mark.parametrize(
    ("document", "plain", "said"),
    [
        ("cloud-config", {"hostnam": "pi"}, r"\$: unknown key hostnam"),
        ("cloud-config", {"runcmd": "reboot"}, r"\$\.runcmd breaks the rule 'type'"),
        ("custom-toml", {"config_version": 1, "system": {"hostname": "pi"}}, "user is missing"),
        (
            "rpi-preseed",
            {"config_version": "1.0", "system": {"hostname": "Pi"}, "user": {"name": "pi"}},
            "hostname",
        ),
    ],
)
def test_a_schema_names_the_key(document: Any, plain: dict[str, Any], said: str) -> None:
    with pytest.raises(CustomiseError, match=said):
        check(document, plain)


def network(**point: object) -> dict[str, Any]:
    """A network-config with one access point."""
    wlan = {"dhcp4": True, "regulatory-domain": "DE", "access-points": {"ward": point}}
    return {"network": {"version": 2, "ethernets": {"eth0": {"optional": True}}, "wifis": {"wlan0": wlan}}}


def test_a_misspelled_wifi_key_is_refused_before_it_opens_the_network() -> None:
    check_network(network(password="0" * 64))
    with pytest.raises(CustomiseError, match="unknown key passwd"):
        check_network(network(passwd="0" * 64))
    with pytest.raises(CustomiseError, match="oneOf"):
        check_network(network())
    with pytest.raises(CustomiseError, match="password") as caught:
        check_network(network(password="correct horse"))
    assert "correct horse" not in str(caught.value)


def test_wifi_without_a_country_is_refused() -> None:
    plain = network(password="0" * 64)
    del plain["network"]["wifis"]["wlan0"]["regulatory-domain"]
    with pytest.raises(CustomiseError, match="regulatory-domain is missing"):
        check_network(plain)


def test_one_interface_must_be_waited_for() -> None:
    plain = network(password="0" * 64)
    plain["network"]["wifis"]["wlan0"]["optional"] = True
    with pytest.raises(CustomiseError, match="one interface at least"):
        check_network(plain)
    with pytest.raises(CustomiseError, match="unknown key ethernet"):
        check_network({"network": {"version": 2, "ethernet": {}}})


# ---- the system's settings ----


def test_settings_are_what_the_card_asks_for() -> None:
    paths = [entry.path for entry in entries(a_card())]
    assert "/etc/systemd/journald.conf.d/50-bramble.conf" in paths
    assert entries(a_card(watchdog=False, card_sparing=False)) == ()
    assert [entry.path for entry in entries(a_card(card_sparing=False))] == [
        "/etc/systemd/system.conf.d/50-bramble-watchdog.conf"
    ]


def test_settings_by_command_put_the_same_files_in_place(tmp_path: Path) -> None:
    """The commands, run against a folder instead of /, make what the pre-baked card has."""
    wanted = entries(a_card())
    files, commands = by_commands(wanted)
    for file in files:
        place = tmp_path / "boot/firmware" / file.path
        place.parent.mkdir(parents=True, exist_ok=True)
        assert isinstance(file.content, bytes)
        place.write_bytes(file.content)
    for command in commands:
        target = ("ln", "-sfn", command[2], f"{tmp_path}{command[3]}") if command[0] == "ln" else None
        moved = target or tuple(f"{tmp_path}{word}" if word.startswith("/") else word for word in command)
        subprocess.run(moved, check=True, timeout=20)
    for entry in wanted:
        place = Path(f"{tmp_path}{entry.path}")
        if hasattr(entry, "target"):
            assert place.readlink() == Path(entry.target)
        else:
            assert place.read_bytes() == getattr(entry, "content", None)
            assert place.stat().st_mode & 0o777 == 0o644
