"""firstrun.sh run to its end, as root, in a folder that it takes for the whole system."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from provisioning.card import Card, Secret
from provisioning.customise import firstrun
from provisioning.customise.kernel import with_words
from tests.provisioning.card_images import BOOKWORM_CMDLINE, HASH, SSH_KEY, a_card, wifi

BUSYBOX = shutil.which("busybox")
APPLETS = ("sh", "cat", "chmod", "chown", "cut", "date", "grep", "id", "ln", "mkdir", "printf")
MORE_APPLETS = ("rm", "sed", "sync", "touch")
RECORDED = ("systemctl", "rfkill", "raspi-config", "useradd", "locale-gen", "update-locale")
FOLDERS = ("bin", "proc", "dev", "etc/ssh", "home/anna", "boot/firmware", "var/lib/systemd/rfkill", "srv")
HELPERS = {
    "usr/lib/raspberrypi-sys-mods/imager_custom": "imager_custom",
    "usr/lib/userconf-pi/userconf": "userconf",
}

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="chroot needs root"),
    pytest.mark.skipif(BUSYBOX is None, reason="busybox is missing: apt install busybox"),
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A system of busybox; what it lacks writes down how it was called."""
    assert BUSYBOX is not None
    system = tmp_path / "root"
    for folder in FOLDERS:
        (system / folder).mkdir(parents=True)
    for library in (BUSYBOX, *_libraries(BUSYBOX)):
        (system / library.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, system / library.lstrip("/"))
    for applet in (*APPLETS, *MORE_APPLETS):
        (system / "bin" / applet).symlink_to(BUSYBOX)
    for name in RECORDED:
        _recorder(system / "bin" / name, name)
    for path, name in HELPERS.items():
        _recorder(system / path, name)
    _recorder(system / "bin/chpasswd", "chpasswd", "cat >> /calls; ")
    _recorder(system / "bin/getent", "getent", "printf 'anna:x:0:0::/home/anna:/bin/sh\\n'; ")
    (system / "dev/null").touch()
    (system / "etc/passwd").write_text("anna:x:0:0::/home/anna:/bin/sh\n")
    (system / "etc/group").write_text("anna:x:0:\n")
    (system / "etc/hosts").write_text("127.0.0.1\tlocalhost\n127.0.1.1\traspberrypi\n")
    (system / "proc/uptime").write_text("12.34 5.6\n")
    (system / "var/lib/systemd/rfkill/platform-x:wlan").write_text("1\n")
    (system / "calls").touch()
    return system


def _libraries(program: str) -> list[str]:
    lines = subprocess.run(["ldd", program], capture_output=True, text=True, timeout=20, check=False).stdout
    return [word for line in lines.splitlines() for word in line.split() if word.startswith("/")]


def _recorder(path: Path, name: str, first: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\n{first}printf "<%s>" {name} "$@" >> /calls; echo >> /calls\n')
    path.chmod(0o755)


def run(root: Path, card: Card, commands: tuple[tuple[str, ...], ...] = ()) -> list[str]:
    """Run the script there; how the recorded programs were called."""
    rendering = firstrun.render(card, commands)
    content = rendering.files[0].content
    assert isinstance(content, bytes)
    boot = root / "boot/firmware"
    (boot / "firstrun.sh").write_bytes(content)
    (boot / "cmdline.txt").write_bytes(with_words(BOOKWORM_CMDLINE, rendering.kernel))
    result = subprocess.run(
        ["/bin/sh", "/boot/firmware/firstrun.sh"],
        env={"PATH": "/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        preexec_fn=lambda: (os.chroot(root), os.chdir("/")),  # type: ignore[arg-type, return-value, func-returns-value]
    )
    print(result.stderr)
    assert result.returncode == 0, result.stderr
    return (root / "calls").read_text().splitlines()


def full_card(**changes: object) -> Card:
    values: dict[str, object] = {"user": "anna", "wifi": wifi(ssid="$(touch /pwned)'\";"), "keymap": "de"}
    return a_card(**(values | changes))


def test_the_image_s_own_helpers_are_used(root: Path) -> None:
    key = SSH_KEY + " $(touch /pwned) `touch /pwned`'"
    calls = run(root, full_card(ssh_keys=(key,), locale="de_DE.UTF-8"), (("touch", "/srv/it's; $(x)"),))
    assert calls == [
        "<imager_custom><set_hostname><pi-1>",
        "<userconf><anna><!>",
        "<getent><passwd><anna>",
        "<systemctl><-q><enable><ssh>",
        "<raspi-config><nonint><do_wifi_country><DE>",
        "<rfkill><unblock><wifi>",
        "<raspi-config><nonint><do_change_locale><de_DE.UTF-8>",
        "<imager_custom><set_keymap><de>",
        "<imager_custom><set_timezone><Etc/UTC>",
    ]
    keys = root / "home/anna/.ssh/authorized_keys"
    assert keys.read_text() == key + "\n"
    assert (keys.stat().st_mode & 0o777, keys.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    connection = root / "etc/NetworkManager/system-connections/preconfigured.nmconnection"
    assert "key-mgmt=wpa-psk" in connection.read_text() and connection.stat().st_mode & 0o777 == 0o600
    assert (root / "var/lib/systemd/rfkill/platform-x:wlan").read_text() == "0\n"
    assert (root / "etc/ssh/sshd_config.d/10-bramble.conf").read_text() == "PasswordAuthentication no\n"
    assert (root / "etc/sudoers.d/010_bramble").stat().st_mode & 0o777 == 0o440
    assert (root / "srv/it's; $(x)").exists() and not (root / "pwned").exists()


def test_it_runs_once_and_says_how_it_went(root: Path) -> None:
    run(root, full_card())
    boot = root / "boot/firmware"
    assert (boot / "cmdline.txt").read_bytes() == BOOKWORM_CMDLINE
    assert not (boot / "firstrun.sh").exists()
    line = (boot / "bramble/status.log").read_text()
    uptime, _, rest = line.split(" ", 2)
    assert (uptime, rest) == ("12.34", "settings ok\n")


def test_a_system_without_the_helpers_gets_the_same(root: Path) -> None:
    for path in (*HELPERS, "bin/raspi-config"):
        (root / path).unlink()
    (root / "usr/share/zoneinfo/Etc").mkdir(parents=True)
    (root / "usr/share/zoneinfo/Etc/UTC").touch()
    card = full_card(password_hash=Secret(HASH), keymap=None, locale="de_DE.UTF-8", ssh_keys=())
    calls = run(root, card)
    assert (
        f"anna:{HASH}" in calls and "<chpasswd><-e>" in calls and "<update-locale><LANG=de_DE.UTF-8>" in calls
    )
    assert (root / "etc/hostname").read_text() == "pi-1\n"
    assert (root / "etc/hosts").read_text() == "127.0.0.1\tlocalhost\n127.0.1.1\tpi-1\n"
    assert (root / "etc/localtime").readlink() == Path("/usr/share/zoneinfo/Etc/UTC")
    assert (root / "etc/ssh/sshd_config.d/10-bramble.conf").read_text() == "PasswordAuthentication yes\n"
    assert not (root / "etc/sudoers.d").exists() and not (root / "home/anna/.ssh").exists()


def test_what_failed_is_written_down_and_the_rest_goes_on(root: Path) -> None:
    (root / "usr/lib/userconf-pi/userconf").write_text("#!/bin/sh\nexit 1\n")
    calls = run(root, full_card(), (("false-program", "x"), ("touch", "/srv/after")))
    assert "<systemctl><-q><enable><ssh>" in calls and (root / "srv/after").exists()
    line = (root / "boot/firmware/bramble/status.log").read_text()
    assert line.endswith("settings failed set_user false-program\n")
