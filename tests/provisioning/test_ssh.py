"""A device made over SSH, against a real sshd on loopback that installs into a folder."""

from __future__ import annotations

import getpass
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from provisioning.card import Card, EnrolmentToken, Secret
from provisioning.card_jobs import TO_BE_ISSUED
from provisioning.cli import main
from provisioning.ssh.errors import RemoteError
from provisioning.ssh.host_keys import Host, is_pinned, pin, scan
from provisioning.ssh.install import Facts, Outcome, _check, install, probe
from provisioning.ssh.remote import Remote
from provisioning.wheelhouse.errors import WheelhouseError
from tests.provisioning.install_cases import TOKEN, card, wheelhouse

SSHD = shutil.which("sshd") or ("/usr/sbin/sshd" if Path("/usr/sbin/sshd").exists() else None)


@dataclass(frozen=True)
class Device:
    """An SSH service whose users land in `home`."""

    host: Host
    home: Path
    key_file: Path
    known_hosts: Path
    config: Path

    @property
    def root(self) -> Path:
        return self.home / "root"

    def remote(self) -> Remote:
        return Remote(self.host, self.known_hosts, self.key_file)

    def trusted(self) -> Remote:
        """With its host key pinned."""
        pin(self.host, self.known_hosts, next(iter(scan(self.host))))
        return self.remote()


def keygen(path: Path) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path


def free_port() -> int:
    with socket.socket() as probe_socket:
        probe_socket.bind(("127.0.0.1", 0))
        return int(probe_socket.getsockname()[1])


def wait_until_listening(port: int, process: subprocess.Popen[bytes], deadline_s: float = 20.0) -> None:
    until = time.monotonic() + deadline_s
    while time.monotonic() < until and process.poll() is None:
        with socket.socket() as client:
            client.settimeout(1)
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
    pytest.skip("sshd does not start here")


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    if SSHD is None or shutil.which("ssh-keyscan") is None:
        pytest.skip("openssh-server and openssh-client are not installed")
    home, port = tmp_path / "home", free_port()
    home.mkdir()
    key, host_key = keygen(tmp_path / "user_key"), keygen(tmp_path / "host_key")
    force = tmp_path / "force.sh"
    force.write_text(f'cd {home} && HOME={home} && export HOME && eval "$SSH_ORIGINAL_COMMAND"\n')
    config = tmp_path / "sshd_config"
    config.write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {host_key}\nPidFile none\nUsePAM no\n"
        f"AuthorizedKeysFile {key}.pub\nStrictModes no\nPasswordAuthentication no\n"
        f"PermitRootLogin prohibit-password\nForceCommand /bin/sh {force}\n"
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd started by root insists on it
    process = subprocess.Popen([SSHD, "-D", "-e", "-f", str(config)], stderr=subprocess.DEVNULL)
    try:
        wait_until_listening(port, process)
        yield Device(
            Host(getpass.getuser(), "127.0.0.1", port), home, key, tmp_path / "ssh" / "known_hosts", config
        )
    finally:
        process.terminate()
        process.wait(timeout=10)


@pytest.fixture(autouse=True)
def same_python() -> None:
    """The stand-in client is for this Python, and the loopback device has the system's."""
    done = subprocess.run(
        ["python3", "-c", "import sys; print(sys.version_info[:2] == tuple(map(int, sys.argv[1:])))",
         str(sys.version_info[0]), str(sys.version_info[1])],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.stdout.strip() != "True":
        pytest.skip("python3 on PATH is of another version than this one")


# ---- whom to trust ----


@pytest.mark.parametrize(
    "text",
    ["pi", "@host", "pi@", "pi@-oProxyCommand=x", "-l@host", "pi@a b", "pi;x@host", "pi@host;x", "p@h\n"],
)
def test_what_ssh_could_misread_is_refused(text: str) -> None:
    with pytest.raises(RemoteError, match="is not USER@HOST"):
        Host.parse(text)


def test_hosts_are_parsed() -> None:
    assert Host.parse("pi@pi-1.local") == Host("pi", "pi-1.local")
    assert str(Host.parse("pi@fe80::1", 2222)) == "pi@fe80::1:2222"


def test_an_unknown_host_is_shown_and_not_trusted(device: Device) -> None:
    fingerprint = next(iter(scan(device.host)))
    with pytest.raises(RemoteError, match=f"It shows .*{re.escape(fingerprint)}.*--accept-host-key"):
        pin(device.host, device.known_hosts, None)
    with pytest.raises(RemoteError, match="does not show SHA256:other but SHA256:"):
        pin(device.host, device.known_hosts, "SHA256:other")
    assert not device.known_hosts.exists()
    with pytest.raises(RemoteError, match="Host key verification failed"):
        device.remote().run("true")
    assert pin(device.host, device.known_hosts, fingerprint) == fingerprint
    assert is_pinned(device.host, device.known_hosts)
    assert pin(device.host, device.known_hosts, None) is None
    assert device.remote().run("echo hello") == "hello\n"


def test_another_key_than_the_pinned_one_is_refused(device: Device, tmp_path: Path) -> None:
    other = keygen(tmp_path / "other").with_suffix(".pub").read_text().split()
    device.known_hosts.parent.mkdir()
    device.known_hosts.write_text(f"{device.host.known_as} {other[0]} {other[1]}\n")
    with pytest.raises(RemoteError, match="Host key verification failed"):
        device.remote().run("true")


def test_a_device_that_is_off_is_said() -> None:
    with pytest.raises(RemoteError, match="nothing answers as SSH"):
        scan(Host("pi", "127.0.0.1", free_port()))


def test_a_key_that_is_not_known_there_is_refused_without_a_question(device: Device, tmp_path: Path) -> None:
    device.trusted()
    with pytest.raises(RemoteError, match="Permission denied"):
        Remote(device.host, device.known_hosts, keygen(tmp_path / "stranger")).run("true")


# ---- what is done ----


def test_the_second_run_changes_nothing(device: Device, tmp_path: Path) -> None:
    remote, made = device.trusted(), wheelhouse(tmp_path)
    said: list[str] = []
    first = install(remote, card(tmp_path), made, root=str(device.root), say=said.append)
    assert "client.tar.gz" in first.sent and "files/token" in first.sent
    assert first.changes is not None and "install client 1.0, build 1000" in first.changes
    token = device.root / "var/lib/private/bramble/identity/token"
    assert token.read_text() == TOKEN + "\n"
    assert not (device.home / ".cache/bramble/bundle/files/token").exists()
    assert not (device.root / "etc/systemd/system/bramble-install.service").exists()
    second = install(remote, card(tmp_path), made, root=str(device.root))
    assert (second.sent, second.changes) == ((), ())


def test_a_token_that_was_used_is_not_sent_again(device: Device, tmp_path: Path) -> None:
    remote, made = device.trusted(), wheelhouse(tmp_path)
    install(remote, card(tmp_path), made, root=str(device.root))
    identity = device.root / "var/lib/private/bramble/identity"
    (identity / "token").unlink()
    (identity / "device.crt").write_text("issued")
    again = install(remote, card(tmp_path), made, root=str(device.root))
    assert (again.sent, again.changes) == ((), ())


def test_a_token_is_made_where_there_is_no_certificate_yet_and_only_there(
    device: Device, tmp_path: Path
) -> None:
    remote, made, asked = device.trusted(), wheelhouse(tmp_path), list[str]()
    waiting = card(tmp_path, identity=EnrolmentToken(Secret(TO_BE_ISSUED)))

    def complete(one: Card) -> Card:
        asked.append(one.name)
        return card(tmp_path)

    def run(*, dry: bool = False) -> Outcome:
        return install(remote, waiting, made, root=str(device.root), dry=dry, complete=complete)

    assert "files/token" in run(dry=True).sent and asked == []
    assert "files/token" in run().sent and asked == ["pi-1"]
    identity = device.root / "var/lib/private/bramble/identity"
    assert (identity / "token").read_text() == TOKEN + "\n"
    (identity / "token").unlink()
    (identity / "device.crt").write_text("issued")
    again = run()
    assert (again.sent, again.changes, asked) == ((), (), ["pi-1"])


def test_only_what_differs_is_sent(device: Device, tmp_path: Path) -> None:
    remote, made = device.trusted(), wheelhouse(tmp_path)
    install(remote, card(tmp_path), made, root=str(device.root))
    from edge_client.config import DataConfig

    changed = card(tmp_path, data=DataConfig(source="folder:/srv/other"))
    outcome = install(remote, changed, made, root=str(device.root))
    assert set(outcome.sent) == {"files/edge.toml", "SHA256SUMS"}
    assert outcome.changes == ("write /etc/bramble/edge.toml", "note what is installed")


def test_a_dry_run_says_each_step_and_does_none(device: Device, tmp_path: Path) -> None:
    remote, made = device.trusted(), wheelhouse(tmp_path)
    said: list[str] = []
    outcome = install(remote, card(tmp_path), made, root=str(device.root), dry=True, say=said.append)
    assert outcome.changes is None and "would send client.tar.gz" in said
    assert said[-1].startswith("would run: python3 -I ")
    assert list(device.home.iterdir()) == []
    install(remote, card(tmp_path), made, root=str(device.root))
    (device.root / "etc/bramble/edge.toml").unlink()
    outcome = install(remote, card(tmp_path), made, root=str(device.root), dry=True)
    assert outcome.changes == ("write /etc/bramble/edge.toml",)
    assert not (device.root / "etc/bramble/edge.toml").exists()


def test_an_installation_that_fails_there_is_said_here(device: Device, tmp_path: Path) -> None:
    device.root.mkdir()
    (device.root / "etc").write_text("a file where a folder should be")
    with pytest.raises(RemoteError, match="etc"):
        install(device.trusted(), card(tmp_path), wheelhouse(tmp_path), root=str(device.root))


def test_a_system_that_does_not_fit_is_refused(device: Device, tmp_path: Path) -> None:
    remote, made, pi = device.trusted(), wheelhouse(tmp_path), card(tmp_path)
    python = made.lock.python
    assert probe(remote).python == python
    for facts, root, error, reason in (
        (Facts("trixie", "riscv64", python, "root"), "/", WheelhouseError, "no client is made for trixie on"),
        (Facts("bookworm", "aarch64", python, "root"), "/", RemoteError, "runs bookworm-arm64, the card is"),
        (Facts("trixie", "aarch64", python, "user"), "/", RemoteError, "may not use sudo without a password"),
        (Facts("trixie", "aarch64", "3.9", "sudo"), "/x", RemoteError, "has Python 3.9, the client is for"),
    ):
        with pytest.raises(error, match=reason):
            _check(remote, facts, pi, made, root)


def test_the_command(
    device: Device, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = wheelhouse(tmp_path)
    cards = [card(tmp_path)]
    monkeypatch.setattr("provisioning.ssh_commands.described_cards", lambda _: cards)
    arguments = ["ssh", f"{device.host.user}@127.0.0.1", "--port", str(device.host.port)]
    arguments += ["--wheelhouse", str(made.folder), "--login-key", str(device.key_file)]
    arguments += ["--known-hosts", str(device.known_hosts), "--root", str(device.root)]
    assert main(arguments) == 1
    assert "is not known yet" in capsys.readouterr().err
    trust = ["--accept-host-key", next(iter(scan(device.host)))]
    assert main([*arguments, *trust, "--dry-run"]) == 0
    assert "would be sent and installed" in capsys.readouterr().out
    assert not device.known_hosts.parent.exists()  # not even the host's key
    assert main([*arguments, *trust, "--json"]) == 0
    output = capsys.readouterr()
    assert "install client 1.0, build 1000" in json.loads(output.out)["changes"]
    assert TOKEN not in output.out + output.err
    assert main(arguments) == 0
    assert "nothing to do: the device is as it should be" in capsys.readouterr().out
    cards.append(cards[0])
    assert main(arguments) == 1
    assert "2 cards are named; give one with --name" in capsys.readouterr().err
