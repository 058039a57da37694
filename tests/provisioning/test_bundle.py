"""What a card carries, and the installer that makes a device of it: whole, again, cut short, interrupted."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from edge_client.config import DataConfig, load_config
from edge_client.device import installer as installer_module
from edge_client.device.installer import Installer, InstallError
from edge_client.device.program import main as device_main
from edge_client.device.status import copy_status, status_line
from provisioning.bundle.entries import SystemFile, entries
from provisioning.bundle.errors import BundleError
from provisioning.bundle.payload import bundle_files, payload, write_bundle
from provisioning.bundle.program import device_program
from provisioning.bundle.settings import edge_toml
from provisioning.card import EnrolmentToken, Secret
from provisioning.card_jobs import TO_BE_ISSUED
from provisioning.cli import main
from provisioning.customise.payload import BootFile, RootFile, RootFolder, RootLink, content_bytes
from provisioning.enrolment.store import EnrolmentStore
from tests.provisioning.install_cases import TOKEN, bundle, card, issued, wheelhouse

STATE = "var/lib/private/bramble/identity"


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sync waits for everybody's writes, and no power cut comes here."""
    monkeypatch.setattr("os.sync", lambda: None)


def tree(root: Path) -> dict[str, tuple[str, int]]:
    """Every file and link below a folder: content and mode."""
    return {
        str(path.relative_to(root)): (
            str(path.readlink()) if path.is_symlink() else path.read_bytes().hex(),
            stat.S_IMODE(path.lstat().st_mode),
        )
        for path in sorted(root.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


# ---- what is on the card ----


def test_settings_are_those_that_a_client_reads(tmp_path: Path) -> None:
    path = tmp_path / "edge.toml"
    path.write_bytes(edge_toml(card(tmp_path)))
    config = load_config(path)
    assert (config.name, config.fleet, config.state) == ("pi-1", "ward", "/var/lib/bramble")
    assert str(config.broker) == "mqtts://broker.lan:8883"
    assert config.enrolment is not None
    assert (config.enrolment.host, config.enrolment.token_file) == (
        "ca.lan",
        "/var/lib/bramble/identity/token",
    )
    assert TOKEN not in path.read_text()
    plain = tomllib.loads(edge_toml(card(tmp_path, identity=issued(tmp_path))).decode())
    assert "token_file" not in plain["enrolment"]


def test_a_prebaked_card_has_nothing_secret_on_the_boot_partition(tmp_path: Path) -> None:
    made = payload(card(tmp_path, mode="prebaked"), wheelhouse(tmp_path))
    assert not made.first_boot
    assert all(TOKEN.encode() not in content_bytes(file.content) for file in made.boot)
    files = {entry.path: entry for entry in made.root if isinstance(entry, RootFile)}
    token = files[f"/{STATE}/token"]
    assert (token.content, token.mode) == (TOKEN.encode() + b"\n", 0o600)
    assert "/opt/bramble/a/site/edge_client/cli.py" in files
    assert files["/opt/bramble/bramble-edge"].mode == 0o755
    folders = {entry.path: entry.mode for entry in made.root if isinstance(entry, RootFolder)}
    assert folders["/var/lib/private"] == 0o700
    links = {entry.path: entry.target for entry in made.root if isinstance(entry, RootLink)}
    wanted = "/etc/systemd/system/multi-user.target.wants"
    assert links[f"{wanted}/bramble-edge.service"] == "../bramble-edge.service"
    assert f"{wanted}/bramble-install.service" not in links


@pytest.mark.parametrize(
    ("source", "shown"),
    [("csv:/home/pi/scans/list.csv", "/home/pi/scans"), ("table:/home/pi/rows.csv", "/home/pi/rows.csv")],
)
def test_the_service_sees_the_pictures_that_a_list_in_a_home_names(
    tmp_path: Path, source: str, shown: str
) -> None:
    files = {entry.path: entry for entry in entries(card(tmp_path, data=DataConfig(source)), from_boot=False)}
    unit = files["/etc/systemd/system/bramble-edge.service"]
    assert isinstance(unit, SystemFile) and f"BindReadOnlyPaths=-{shown}\n".encode() in unit.content


def test_a_bundle_lies_on_the_boot_partition_and_runs_once(tmp_path: Path) -> None:
    made = payload(card(tmp_path), wheelhouse(tmp_path))
    assert made.root == ()
    names = [file.path for file in made.boot]
    assert "bramble/client.tar.gz" in names and names[-1] == "bramble/SHA256SUMS"
    assert made.first_boot[0][-3:] == ("device", "install", "/boot/firmware/bramble")
    assert all(isinstance(file, BootFile) for file in made.boot)


def test_an_issued_certificate_travels_with_its_key(tmp_path: Path) -> None:
    files = bundle_files(card(tmp_path, identity=issued(tmp_path)), wheelhouse(tmp_path))
    plan = json.loads(content_bytes(files["install.json"]))
    secret = [entry["path"] for entry in plan["files"] if entry.get("secret")]
    assert secret == [f"/{STATE}/device.key"]
    assert content_bytes(files["files/device.crt"]).startswith(b"-----BEGIN CERTIFICATE-----")


def test_a_wheelhouse_of_another_target_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="card pi-1 is for bookworm-arm64, the wheelhouse for trixie-arm64"):
        payload(card(tmp_path, target="bookworm-arm64"), wheelhouse(tmp_path))


def test_the_program_is_the_same_bytes_each_time_and_needs_nothing(tmp_path: Path) -> None:
    data = device_program()
    assert data == device_program() and data.startswith(b"#!/usr/bin/python3 -IS\n")
    path = tmp_path / "bramble-edge"
    path.write_bytes(data)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert "edge_client/device/launcher.py" in archive.namelist()
    done = subprocess.run(
        [sys.executable, "-IS", str(path), "device"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr[:20]) == (2, "usage: bramble-edge ")


# ---- the installer ----


def test_installing_twice_changes_nothing_the_second_time(tmp_path: Path) -> None:
    folder, root = bundle(tmp_path), tmp_path / "root"
    planned = Installer(folder, root, dry=True).run()
    assert not root.exists()
    assert Installer(folder, root).run() == planned
    assert not (folder / "files" / "token").exists()
    token = root / STATE / "token"
    assert token.read_text() == TOKEN + "\n" and stat.S_IMODE(token.stat().st_mode) == 0o600
    assert stat.S_IMODE((root / "var/lib/private").stat().st_mode) == 0o700
    before = tree(root)
    assert Installer(folder, root).run() == []
    assert tree(root) == before
    log = (folder / "status.log").read_text().splitlines()
    assert [line.split()[2:4] for line in log] == [["install", "started"], ["install", "ok"]] * 2
    assert TOKEN not in "\n".join(log)


def test_a_token_that_was_used_is_not_put_back(tmp_path: Path) -> None:
    folder, root = bundle(tmp_path), tmp_path / "root"
    Installer(folder, root).run()
    (root / STATE / "token").unlink()
    (root / STATE / "device.crt").write_text("issued")
    fresh = bundle(tmp_path)  # the same card, copied once more
    assert (fresh / "files" / "token").exists()
    assert Installer(fresh, root).run() == ["erase files/token"]
    assert not (root / STATE / "token").exists()


@pytest.mark.parametrize("name", ["client.tar.gz", "files/edge.toml", "files/token", "install.json"])
def test_a_file_that_was_cut_short_is_named_on_the_boot_partition(tmp_path: Path, name: str) -> None:
    folder, root = bundle(tmp_path), tmp_path / "root"
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[:-1])
    with pytest.raises(InstallError, match="damaged or cut short; write the card again"):
        Installer(folder, root).run()
    assert not root.exists()
    last = (folder / "status.log").read_text().splitlines()[-1]
    assert f"install failed bundle checksum: {name} is damaged" in last


@pytest.mark.parametrize(
    ("lines", "reason"), [(0, "is cut short"), (3, "is cut short"), (None, "is missing")]
)
def test_a_list_of_sums_that_was_cut_short_is_no_shorter_list(
    tmp_path: Path, lines: int | None, reason: str
) -> None:
    folder = bundle(tmp_path)
    sums = folder / "SHA256SUMS"
    kept = sums.read_text().splitlines()[: lines or 0]
    sums.unlink() if lines is None else sums.write_text("\n".join(kept))
    with pytest.raises(InstallError, match=f"SHA256SUMS {reason}"):
        Installer(folder, tmp_path / "root").run()


def test_a_missing_file_is_missing_and_not_skipped(tmp_path: Path) -> None:
    folder = bundle(tmp_path)
    (folder / "client.tar.gz").unlink()
    with pytest.raises(InstallError, match=r"client\.tar\.gz is damaged"):
        Installer(folder, tmp_path / "root").run()


def test_after_a_power_cut_at_any_file_the_next_run_finishes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The power goes before the n-th write, for every n; what the next run leaves is always the same."""
    whole = tmp_path / "whole"
    original = shutil.copytree(bundle(tmp_path), tmp_path / "original")
    changes = Installer(shutil.copytree(original, tmp_path / "first"), whole).run()
    expected, real = tree(whole), installer_module._put
    for cut in range(len(changes)):
        root, done = tmp_path / f"root-{cut}", [0]
        folder = shutil.copytree(original, tmp_path / f"bundle-{cut}")

        def put(*arguments: object, cut: int = cut, done: list[int] = done, **options: object) -> None:
            done[0] += 1
            if done[0] > cut:
                raise OSError(5, "the power went")
            real(*arguments, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(installer_module, "_put", put)
        try:
            Installer(folder, root).run()
        except InstallError:
            monkeypatch.setattr(installer_module, "_put", real)
            Installer(folder, root).run()
        assert tree(root) == expected


def test_the_first_thing_installed_is_what_would_go_on(tmp_path: Path) -> None:
    changes = Installer(bundle(tmp_path), tmp_path / "root").run()
    written = [change for change in changes if change.startswith("write")]
    assert written[0] == "write /etc/systemd/system/bramble-install.service"
    assert changes.index("install client 1.0, build 1000") > changes.index(written[0])


def test_a_newer_client_on_the_device_stays(tmp_path: Path) -> None:
    folder, root = bundle(tmp_path), tmp_path / "root"
    Installer(folder, root).run()
    manifest = root / "opt/bramble/a/client.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"build": 5000}))
    assert Installer(folder, root).run() == []
    assert json.loads(manifest.read_text())["build"] == 5000


def test_a_power_cut_while_a_secret_is_erased_is_mended(tmp_path: Path) -> None:
    """The zeros are on the card, the removal is not."""
    folder, root = bundle(tmp_path), tmp_path / "root"
    token = folder / "files" / "token"
    size = token.stat().st_size
    Installer(folder, root).run()
    (root / "opt/bramble/installed").unlink()
    token.write_bytes(bytes(size))
    assert Installer(folder, root).run() == ["erase files/token", "note what is installed"]
    assert (root / STATE / "token").read_text() == TOKEN + "\n" and not token.exists()


def test_a_client_that_failed_its_trial_is_installed_again_when_asked_for(tmp_path: Path) -> None:
    root = tmp_path / "root"
    old = bundle_files(card(tmp_path), wheelhouse(tmp_path, "0.9", 900))
    write_bundle(old, tmp_path / "old")
    Installer(tmp_path / "old", root).run()
    folder = bundle(tmp_path)
    Installer(folder, root).run()
    trial = root / "var/lib/bramble/trial.json"
    trial.parent.mkdir(parents=True)
    trial.write_text('{"build": 1000, "state": "failed"}')
    assert Installer(folder, root).run() == ["install client 1.0, build 1000"]
    assert Installer(folder, root).run() == []


def test_systemd_is_told_only_when_something_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(installer_module, "_systemctl", lambda *words: told.append(" ".join(words)))
    installer = Installer(bundle(tmp_path))
    monkeypatch.setattr(installer, "_at", lambda path: tmp_path / "root" / path.lstrip("/"))
    plan = {"start": ["bramble-edge.service", "bramble-status.path"]}
    expected = [
        "daemon-reload",
        "restart --no-block bramble-edge.service",
        "start --no-block bramble-status.path",
    ]
    installer._system(plan)  # all is in place, by a run that came no further
    assert told == expected
    installer._finish()
    installer.changes.clear()
    installer._system(plan)
    assert told == expected
    installer.changes.append("something")
    installer._system(plan)
    assert told == 2 * expected


def test_systemctl_that_fails_or_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "systemctl"
    script.write_text("#!/bin/sh\necho 'Unit is masked' >&2\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    with pytest.raises(InstallError, match="systemctl daemon-reload: Unit is masked"):
        installer_module._systemctl("daemon-reload")
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with pytest.raises(InstallError, match="is not run by systemd"):
        installer_module._systemctl("daemon-reload")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_files_of_the_state_belong_to_the_services_user(tmp_path: Path) -> None:
    folder, root = bundle(tmp_path), tmp_path / "root"
    state = root / "var/lib/bramble"
    state.mkdir(parents=True)
    os.chown(state, 4321, 4321)
    Installer(folder, root).run()
    assert (root / STATE / "token").stat().st_uid == 4321
    assert (root / "etc/bramble/edge.toml").stat().st_uid == 0


def test_a_boot_partition_that_cannot_be_written_does_not_stop_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = bundle(tmp_path)
    (folder / "status.log").mkdir()
    Installer(folder, tmp_path / "root").run()
    assert "install ok" in capsys.readouterr().err


# ---- status ----


def test_news_are_copied_once_and_as_plain_text(tmp_path: Path) -> None:
    source, target = tmp_path / "service.log", tmp_path / "status.log"
    target.write_text("1.0 t install ok\n")
    source.write_bytes(b"1.0 t install ok\n2.0 t enrol \x1b[31mok\n" + b"3.0 " + b"x" * 9000 + b"\n")
    copy_status(source, target)
    copy_status(source, target)
    lines = target.read_text().splitlines()
    assert lines[:2] == ["1.0 t install ok", "2.0 t enrol [31mok"]
    assert len(lines) == 3 and len(lines[2]) == 500
    target.write_text("x" * 300_000)
    copy_status(source, target)
    assert target.stat().st_size == 300_000
    copy_status(tmp_path / "none", target)


def test_news_through_a_link_are_not_copied(tmp_path: Path) -> None:
    """The service may put a link to a file of root's there, and everybody reads the boot partition."""
    secret, source, target = tmp_path / "shadow", tmp_path / "service.log", tmp_path / "status.log"
    secret.write_text("root:hash\n")
    source.symlink_to(secret)
    copy_status(source, target)
    assert not target.exists()
    source.unlink()
    os.mkfifo(source)
    copy_status(source, target)  # and does not wait for a writer


def test_a_status_line_is_one_line(tmp_path: Path) -> None:
    words = status_line("install", "failed", "two\nlines").split(" ")
    assert words[2:] == ["install", "failed", "two", "lines"]
    assert float(words[0]) > 0 and words[1].endswith("Z")


# ---- as programs ----


def test_the_device_program_installs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, root = bundle(tmp_path), tmp_path / "root"
    assert device_main(["device", "install", str(folder), "--root", str(root), "--dry-run"]) == 0
    assert "write /etc/bramble/edge.toml" in capsys.readouterr().out and not root.exists()
    assert device_main(["device", "install", str(folder), "--root", str(root)]) == 0
    assert device_main(["device", "install", str(folder), "--root", str(root)]) == 0
    assert capsys.readouterr().out.endswith("nothing to do\n")
    assert device_main(["device", "status", "--root", str(root)]) == 0
    assert capsys.readouterr().out == "* a  1.0  build 1000\n"
    assert device_main(["device", "status", "--root", str(root), "--json"]) == 0
    [client] = json.loads(capsys.readouterr().out)["clients"]
    assert client == {"slot": "a", "runs": True, "version": "1.0", "build": 1000, "trial": None}
    log = tmp_path / "log"
    log.write_text("line\n")
    assert device_main(["device", "copy-status", str(log), str(tmp_path / "copy"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"lines": 1}
    assert device_main(["device", "install", str(folder), "--root", str(root), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"changes": [], "dry_run": False}
    assert (tmp_path / "copy").read_text() == "line\n"
    assert device_main(["device", "fly"]) == 2
    assert device_main(["device", "status", "--root", str(tmp_path / "none")]) == 1
    assert "holds no client; install one" in capsys.readouterr().err


def test_the_command_writes_a_bundle_that_others_cannot_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = wheelhouse(tmp_path)
    monkeypatch.setattr("provisioning.install_commands.described_cards", lambda _: [card(tmp_path)])
    arguments = ["bundle", "--wheelhouse", str(made.folder), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--json"]) == 0
    folder = Path(json.loads(capsys.readouterr().out)["bundles"][0]["folder"])
    assert folder == tmp_path / "out" / "pi-1" / "bramble"
    assert stat.S_IMODE((folder / "files" / "token").stat().st_mode) == 0o600
    assert main(arguments) == 0
    assert capsys.readouterr().out == f"{folder}\n"


def test_the_command_makes_each_cards_token_with_the_authority_at_hand(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, waiting = wheelhouse(tmp_path), EnrolmentToken(Secret(TO_BE_ISSUED))
    monkeypatch.setattr(
        "provisioning.install_commands.described_cards", lambda _: [card(tmp_path, identity=waiting)]
    )
    arguments = ["bundle", "--wheelhouse", str(made.folder), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--ca", str(tmp_path / "ca")]) == 0
    token = tmp_path / "out" / "pi-1" / "bramble" / "files" / "token"
    assert token.read_text().startswith("brt_")
    with EnrolmentStore(tmp_path / "ca").look() as look:
        assert [row.name for row in look.tokens()] == ["pi-1"]
    assert token.read_text().strip() not in capsys.readouterr().out
