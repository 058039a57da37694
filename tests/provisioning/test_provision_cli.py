"""``bramble-provision ca``: each command through `main`, once through ``python -m``, every refusal."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from provisioning.cli import main
from provisioning.pki.authority import FleetCA
from provisioning.pki.keys import make_device_key_and_csr

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def ca(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    assert main(["ca", "init", "--fleet", "ward"]) == 0
    return tmp_path / "ca"


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    """What a command prints with ``--json``."""
    capsys.readouterr()
    assert main(["ca", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def failure(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line of an expected failure."""
    capsys.readouterr()
    assert main(["ca", *arguments]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("error: ") and output.err.count("\n") == 1
    return output.err


def test_the_day_of_an_authority(ca: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    request = tmp_path / "pi-1.csr"
    request.write_bytes(make_device_key_and_csr(tmp_path / "device", "pi-1"))
    signed = told(capsys, "sign", str(request), "--name", "pi-1", "--days", "30")
    assert (signed["name"], signed["state"], signed["certificate"]) == ("pi-1", "valid", "pi-1.crt")
    issued = told(capsys, "issue", "pi-2", "--out", "cards/pi-2")
    assert stat.S_IMODE(Path(issued["key"]).stat().st_mode) == 0o600
    assert Path(issued["ca"]).read_bytes() == (ca / "ca.crt").read_bytes()
    told(capsys, "issue", "--out", "broker", "--server", "localhost", "127.0.0.1")
    told(capsys, "issue", "aggregator", "--out", "aggregator")
    listed = told(capsys, "list")
    assert [(entry["name"], entry["role"]) for entry in listed["certificates"]] == [
        ("pi-1", "device"), ("pi-2", "device"), ("broker", "server"), ("aggregator", "aggregator"),
    ]  # fmt: skip
    plan = told(capsys, "revoke", "pi-2", "--dry-run")
    assert [entry["name"] for entry in plan["would_revoke"]] == ["pi-2"] and plan["revoked"] == []
    assert FleetCA.open(ca).ledger().revoked_names() == ()
    done = told(capsys, "revoke", "pi-2", "--yes")
    assert [entry["state"] for entry in done["revoked"]] == ["valid"]
    assert told(capsys, "show", "pi-2")["certificates"][0]["state"] == "revoked"
    facts = told(capsys, "show")
    assert (facts["fleet"], facts["valid"], facts["revoked"]) == ("ward", 3, 1)
    assert facts["fingerprint"] == FleetCA.open(ca).fingerprint


def test_for_people(ca: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ca", "list"]) == 0
    assert "no certificates yet" in capsys.readouterr().out
    assert main(["ca", "issue", "pi-1", "--out", "pi-1"]) == 0
    for arguments in (["list"], ["show", "pi-1"], ["revoke", "pi-1", "--dry-run"]):
        capsys.readouterr()
        assert main(["ca", *arguments]) == 0
        assert "pi-1 " in capsys.readouterr().out
    assert main(["ca", "show"]) == 0
    assert "fingerprint" in capsys.readouterr().out


def test_nothing_is_overwritten(ca: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "holds an authority already" in failure(capsys, "init", "--fleet", "other")
    told(capsys, "issue", "pi-1", "--out", "pi-1")
    before = (tmp_path / "pi-1" / "device.key").read_bytes()
    assert "exists; choose another folder" in failure(capsys, "issue", "pi-1", "--out", "pi-1")
    assert (tmp_path / "pi-1" / "device.key").read_bytes() == before
    request = tmp_path / "r.csr"
    request.write_bytes(make_device_key_and_csr(tmp_path / "d", "pi-3"))
    (tmp_path / "pi-3.crt").write_text("mine", "ascii")
    assert "exists; nothing is overwritten" in failure(capsys, "sign", str(request), "--name", "pi-3")
    assert (tmp_path / "pi-3.crt").read_text("ascii") == "mine"
    assert not FleetCA.open(ca).ledger().of("pi-3")


def test_refusals_leave_nothing_behind(ca: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    request = tmp_path / "r.csr"
    request.write_bytes(make_device_key_and_csr(tmp_path / "d", "pi-1"))
    before = sorted(tmp_path.rglob("*"))
    assert "not for 'pi-2'" in failure(capsys, "sign", str(request), "--name", "pi-2")
    assert "must be 1 to 64" in failure(capsys, "sign", str(request), "--name", "../x")
    assert "No such file" in failure(capsys, "sign", "none.csr", "--name", "pi-1")
    assert "must be 1 to 64" in failure(capsys, "issue", "a/b", "--out", "new")
    assert "from 1 to 1825" in failure(capsys, "issue", "pi-1", "--out", "new", "--days", "0")
    assert "side" in failure(capsys, "issue", "broker", "--out", "new")
    assert "one of the two" in failure(capsys, "issue", "--out", "new")
    assert "one of the two" in failure(capsys, "issue", "pi-1", "--out", "new", "--server", "h")
    assert "never issued" in failure(capsys, "show", "pi-1")
    assert "nothing to revoke" in failure(capsys, "revoke", "pi-1", "--dry-run")
    assert "never issued" in failure(capsys, "revoke", "pi-1")
    assert "holds no authority" in failure(capsys, "list", "--ca", "elsewhere")
    assert sorted(tmp_path.rglob("*")) == before


def test_revoking_asks_first(
    ca: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told(capsys, "issue", "pi-1", "--out", "pi-1")
    monkeypatch.setattr("sys.stdin", open(os.devnull))  # noqa: SIM115, PTH123
    assert "give --yes" in failure(capsys, "revoke", "pi-1")
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _question: "n")
    assert "give --yes" in failure(capsys, "revoke", "pi-1")
    monkeypatch.setattr("builtins.input", lambda _question: "Yes")
    assert main(["ca", "revoke", "pi-1"]) == 0
    assert FleetCA.open(ca).ledger().revoked_names() == ("pi-1",)


def test_an_interruption(
    ca: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_directory: Path) -> FleetCA:
        raise KeyboardInterrupt

    monkeypatch.setattr(FleetCA, "open", interrupted)
    assert main(["ca", "list"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize(
    "arguments", [[], ["ca"], ["fly"], ["ca", "init"], ["ca", "sign"], ["ca", "list", "--x"]]
)
def test_wrong_usage(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2


@pytest.mark.parametrize(
    "command", ["", "ca", "ca init", "ca issue", "ca sign", "ca revoke", "ca list", "ca show"]
)
def test_every_help_ends_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*command.split(), "--help"])
    assert stop.value.code == 0
    tail = capsys.readouterr().out.split("example")[-1]
    assert f"bramble-provision {command}".strip() in tail


def test_as_a_program(tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "provisioning.cli", "ca", *arguments, "--ca", str(tmp_path / "ca")],
            cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    assert run("init", "--fleet", "ward").returncode == 0
    again = run("init", "--fleet", "ward")
    assert again.returncode == 1 and again.stderr.startswith("error: ") and again.stderr.count("\n") == 1
