"""Wheels are resolved for the target and not for this machine, checked, locked and unpacked."""

from __future__ import annotations

import json
import shutil
import sys
import tarfile
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from provisioning.cli import main
from provisioning.wheelhouse import debs as debs_module
from provisioning.wheelhouse.errors import WheelhouseError
from provisioning.wheelhouse.lock import read_lock
from provisioning.wheelhouse.make import make_wheelhouse, open_wheelhouse
from provisioning.wheelhouse.own import build_own_wheel, source_digest
from provisioning.wheelhouse.resolve import fetch_with_pip, resolve
from provisioning.wheelhouse.site import find_python, unpack_deb, unpack_wheel
from provisioning.wheelhouse.targets import SYSTEMS, system, system_of
from provisioning.wheelhouse.wheels import Wheel
from tests.provisioning.wheels import bramble_wheel, index, make_deb, make_wheel

TRIXIE, BOOKWORM, ARMHF = system("trixie-arm64"), system("bookworm-arm64"), system("bookworm-armhf")


def quiet(_what: str, _share: float) -> None:
    """No progress."""


# ---- targets ----


def test_tags_reach_from_the_systems_library_down_to_manylinux2014() -> None:
    assert TRIXIE.platforms[0] == "manylinux_2_41_aarch64"
    assert TRIXIE.platforms[-3:] == ("manylinux_2_17_aarch64", "manylinux2014_aarch64", "linux_aarch64")
    assert "manylinux_2_34_armv7l" in ARMHF.platforms  # tflite-runtime's
    assert (TRIXIE.python_version, BOOKWORM.python_version) == ("3.13", "3.11")


def test_a_machine_is_known_by_what_it_says_of_itself() -> None:
    assert system_of("trixie", "aarch64") is TRIXIE
    with pytest.raises(WheelhouseError, match="no client is made for bullseye on armv6l"):
        system_of("bullseye", "armv6l")
    with pytest.raises(WheelhouseError, match=r"target 'jessie' is not one of .*trixie-arm64"):
        system("jessie")


# ---- what is needed ----


def test_markers_are_read_for_the_target(tmp_path: Path) -> None:
    requires = [
        "litert; platform_machine in 'x86_64 aarch64'",
        "tflite; platform_machine == 'armv7l' and python_version < '3.12'",
        "windows; sys_platform == 'win32'",
        "extra-thing; extra == 'server'",
        "edge-thing; extra == 'edge'",
    ]
    own = Wheel.of(bramble_wheel(tmp_path, requires))
    assert [r.name for r in own.requirements(TRIXIE, ["edge"])] == ["litert", "edge-thing"]
    assert [r.name for r in own.requirements(ARMHF, ["edge"])] == ["tflite", "edge-thing"]


def test_bounds_of_all_who_ask_are_kept(tmp_path: Path) -> None:
    """`b` is first taken at 3, then `c` wants less: 2 is taken, and what only 3 wanted is not."""
    folder = tmp_path / "index"
    make_wheel(folder, "b", "3", ["only-of-3"])
    make_wheel(folder, "b", "2", ["d[extra]"])
    make_wheel(folder, "c", "1", ["b<3"])
    make_wheel(folder, "d", "1", ["e; extra == 'extra'"])
    make_wheel(folder, "e", "1")
    make_wheel(folder, "only_of_3", "1")
    own = Wheel.of(bramble_wheel(tmp_path, ["b", "c"]))
    out = tmp_path / "out"
    out.mkdir()
    found = resolve(own, TRIXIE, out, extra="edge", fetch=index(folder), report=quiet)
    assert {wheel.name: wheel.version for wheel in found} == {"b": "2", "c": "1", "d": "1", "e": "1"}


def test_what_cannot_be_had_is_named(tmp_path: Path) -> None:
    own = Wheel.of(bramble_wheel(tmp_path, ["absent>=2"]))
    with pytest.raises(WheelhouseError, match=r"trixie-arm64: no matching distribution found for absent>=2"):
        resolve(own, TRIXIE, tmp_path, extra="edge", fetch=index(tmp_path), report=quiet)
    with pytest.raises(WheelhouseError, match="absent was asked for and did not come"):
        resolve(own, TRIXIE, tmp_path, extra="edge", fetch=lambda *_: None, report=quiet)


def test_what_the_distribution_provides_is_not_fetched_and_limits_hold(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    make_wheel(folder, "cryptography", "50", ["cffi>=2"])
    make_wheel(folder, "cryptography", "45", ["cffi>=1"])
    own = Wheel.of(bramble_wheel(tmp_path, ["numpy<2", "cryptography>=42"]))
    out = tmp_path / "out"
    out.mkdir()
    asked: list[str] = []
    found = resolve(own, ARMHF, out, extra="edge", fetch=index(folder, asked), report=quiet)
    assert [(wheel.name, wheel.version) for wheel in found] == [("cryptography", "45")]
    assert asked == ["cryptography<46,>=42"]


def test_pip_fetches_for_the_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "index"
    make_wheel(folder, "native", "1.0", tag="cp313-cp313-manylinux_2_28_aarch64")
    make_wheel(folder, "native", "1.1", tag="cp313-cp313-manylinux_2_28_x86_64")
    make_wheel(folder, "native", "1.2", tag="cp311-cp311-manylinux_2_28_aarch64")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    for target, wanted in ((TRIXIE, "1.0"), (BOOKWORM, "1.2")):
        out = tmp_path / target.name
        out.mkdir()
        fetch_with_pip(target, {"native": SpecifierSet(">=1")}, out)
        assert [Wheel.of(path).version for path in out.iterdir()] == [wanted]
    with pytest.raises(WheelhouseError, match="bookworm-armhf: No matching distribution found for native"):
        fetch_with_pip(ARMHF, {"native": SpecifierSet(">=1")}, tmp_path)


# ---- unpacking ----


def test_a_wheel_is_unpacked_without_what_a_device_never_opens(tmp_path: Path) -> None:
    files = {
        "pack/__init__.py": b"x = 1\n",
        "pack/stub.pyi": b"",
        "pack/include/a.h": b"",
        "pack/tests/test_it.py": b"",
        "pack-1.0.data/purelib/pack/more.py": b"",
        "pack-1.0.data/scripts/tool": b"",
    }
    wheel = Wheel.of(make_wheel(tmp_path, "pack", "1.0", files=files))
    unpack_wheel(wheel, tmp_path / "site")
    kept = {path.name for path in (tmp_path / "site" / "pack").rglob("*") if path.is_file()}
    assert kept == {"__init__.py", "more.py"}
    assert (tmp_path / "site" / "pack-1.0.dist-info" / "METADATA").is_file()


@pytest.mark.parametrize("name", ["../outside.py", "/etc/passwd", "pack/../../x.py", "a\\b.py"])
def test_a_name_that_leads_outside_is_refused(tmp_path: Path, name: str) -> None:
    wheel = Wheel.of(make_wheel(tmp_path, "pack", "1.0", files={name: b"x"}))
    with pytest.raises(WheelhouseError, match="leads out of the folder"):
        unpack_wheel(wheel, tmp_path / "site")


def test_a_file_that_is_not_what_record_says_is_refused(tmp_path: Path) -> None:
    files = {"pack/__init__.py": b"x"}
    wrong = {"pack/__init__.py": "sha256=AAAA"}
    wheel = Wheel.of(make_wheel(tmp_path, "pack", "1.0", files=files, record=wrong))
    with pytest.raises(WheelhouseError, match="is not what RECORD says"):
        unpack_wheel(wheel, tmp_path / "site")


def test_two_wheels_with_different_files_of_one_name_are_refused(tmp_path: Path) -> None:
    for name, data in (("one", b"1"), ("two", b"2")):
        make_wheel(tmp_path, name, "1.0", files={"shared/__init__.py": data})
    unpack_wheel(Wheel.of(tmp_path / "one-1.0-py3-none-any.whl"), tmp_path / "site")
    with pytest.raises(WheelhouseError, match="two wheels hold different files named shared"):
        unpack_wheel(Wheel.of(tmp_path / "two-1.0-py3-none-any.whl"), tmp_path / "site")


def test_a_damaged_wheel_is_named(tmp_path: Path) -> None:
    path = make_wheel(tmp_path, "pack", "1.0")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(WheelhouseError, match=r"pack-1\.0-py3-none-any\.whl"):
        unpack_wheel(Wheel.of(path), tmp_path / "site")
    with pytest.raises(WheelhouseError, match="is damaged"):
        Wheel.of(path).requirements(TRIXIE)
    with pytest.raises(WheelhouseError, match="is not named as a wheel is"):
        Wheel.of(tmp_path / "pack.whl")


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not installed")
def test_a_debian_package_gives_modules_and_libraries_under_the_names_that_are_asked_for(
    tmp_path: Path,
) -> None:
    triplet = "usr/lib/arm-linux-gnueabihf"
    files = {
        "usr/lib/python3/dist-packages/numpy/__init__.py": b"",
        "usr/lib/python3/dist-packages/numpy/tests/test_a.py": b"",
        f"{triplet}/libz.so.1.2.3": b"z",
        f"{triplet}/blas/libblas.so.3.11": b"blas",
        f"{triplet}/perl/Util.so": b"no library of ours",
        "usr/share/doc/numpy/copyright": b"",
    }
    links = {f"{triplet}/libz.so.1": "libz.so.1.2.3", f"{triplet}/blas/libblas.so.3": "libblas.so.3.11"}
    site = tmp_path / "site"
    assert unpack_deb(make_deb(tmp_path, "python3-numpy", files, links), site) == 3
    found = {str(path.relative_to(site)) for path in site.rglob("*") if path.is_file()}
    assert found == {"numpy/__init__.py", "shared-libraries/libz.so.1", "shared-libraries/libblas.so.3"}
    (tmp_path / "bad_1_armhf.deb").write_bytes(b"no package")
    with pytest.raises(WheelhouseError, match=r"dpkg-deb cannot read bad_1_armhf\.deb"):
        unpack_deb(tmp_path / "bad_1_armhf.deb", site)


# ---- the whole ----


def small(tmp_path: Path) -> tuple[Path, Path]:
    """An index and Bramble's own wheel."""
    folder = tmp_path / "index"
    make_wheel(folder, "numpy", "2.0")
    return folder, bramble_wheel(tmp_path / "own", ["numpy; extra == 'edge'"])


def test_a_wheelhouse_is_made_once_and_found_whole_after_that(tmp_path: Path) -> None:
    folder, own = small(tmp_path)
    out, asked = tmp_path / "out", list[str]()
    first = make_wheelhouse(BOOKWORM, out, bramble_wheel=own, fetch=index(folder, asked), now=1000)
    assert (first.changed, first.lock.build, first.lock.target) == (True, 1000, "bookworm-arm64")
    assert {item.name for item in first.lock.items} == {"bramble", "numpy"}
    assert not (out / "site" / "broker_server").exists()
    archive = first.archive.read_bytes()
    offline = make_wheelhouse(BOOKWORM, out, bramble_wheel=own, fetch=index(tmp_path / "none"), now=2000)
    assert (offline.changed, offline.lock, asked) == (False, first.lock, ["numpy"])
    assert open_wheelhouse(out).archive.read_bytes() == archive


def test_a_damaged_file_is_fetched_again_and_nothing_else(tmp_path: Path) -> None:
    folder, own = small(tmp_path)
    make_wheel(folder, "other", "1.0")
    own = bramble_wheel(tmp_path / "own", ["numpy; extra == 'edge'", "other; extra == 'edge'"])
    out, asked = tmp_path / "out", list[str]()
    make_wheelhouse(BOOKWORM, out, bramble_wheel=own, fetch=index(folder))
    next((out / "wheel").glob("numpy*")).write_bytes(b"flipped")
    again = make_wheelhouse(BOOKWORM, out, bramble_wheel=own, fetch=index(folder, asked))
    assert (again.changed, asked) == (True, ["numpy"])
    assert make_wheelhouse(BOOKWORM, out, bramble_wheel=own, fetch=index(folder)).changed is False


@pytest.mark.parametrize("change", ["cut short", "gone", "one more"])
def test_a_tree_that_is_not_what_was_packed_goes_onto_no_card(tmp_path: Path, change: str) -> None:
    """A pre-baked card gets the tree and not the archive: its files are as good only if somebody looks."""
    folder, own = small(tmp_path)
    out = tmp_path / "out"
    build = make_wheelhouse(BOOKWORM, out, bramble_wheel=own, fetch=index(folder)).lock.build
    module = out / "site" / "edge_client" / "cli.py"
    if change == "cut short":
        module.write_bytes(b"")
    elif change == "gone":
        next((out / "site").glob("numpy/*")).unlink()
    else:
        module.with_name("more.py").write_text("import evil")
    with pytest.raises(WheelhouseError, match="is damaged; mend it"):
        open_wheelhouse(out)
    assert make_wheelhouse(BOOKWORM, out, bramble_wheel=own, fetch=index(folder), now=build).changed
    leavings = out / "site" / "edge_client" / "__pycache__" / "cli.cpython-3.pyc"
    leavings.parent.mkdir(exist_ok=True)
    leavings.write_bytes(b"")
    assert open_wheelhouse(out).lock.build == build + 1  # a client of its own, in the same second too


def test_a_new_client_reuses_what_it_still_needs_and_drops_the_rest(tmp_path: Path) -> None:
    folder, own = small(tmp_path)
    out, asked = tmp_path / "out", list[str]()
    make_wheelhouse(BOOKWORM, out, bramble_wheel=own, fetch=index(folder), now=1000)
    make_wheel(folder, "numpy", "3.0")
    newer = bramble_wheel(tmp_path / "newer", ["numpy; extra == 'edge'"], version="1.1")
    second = make_wheelhouse(BOOKWORM, out, bramble_wheel=newer, fetch=index(folder, asked), now=2000)
    assert (second.lock.client, second.lock.build, asked) == ("1.1", 2000, [])
    assert sorted(path.name.partition("-")[0] for path in (out / "wheel").iterdir()) == ["bramble", "numpy"]
    earlier = make_wheelhouse(BOOKWORM, out, bramble_wheel=newer, fetch=index(folder), refresh=True, now=1500)
    assert earlier.lock.build == 2001  # the clock was set back: it is newer all the same
    third = make_wheelhouse(BOOKWORM, out, bramble_wheel=newer, fetch=index(folder), refresh=True)
    assert {item.version for item in third.lock.items} == {"1.1", "3.0"}


def test_equal_trees_give_equal_archives(tmp_path: Path) -> None:
    folder, own = small(tmp_path)
    made = [
        make_wheelhouse(BOOKWORM, tmp_path / name, bramble_wheel=own, fetch=index(folder), now=1000)
        for name in ("one", "two")
    ]
    assert made[0].lock.archive == made[1].lock.archive
    with tarfile.open(made[0].archive) as tar:
        names = tar.getnames()
    assert names[0] == "client.json" and "site/edge_client/cli.py" in names


def test_bytecode_is_for_the_targets_python_and_needs_no_sources_times(tmp_path: Path) -> None:
    folder, own = small(tmp_path)
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    target = next(one for one in SYSTEMS.values() if (one.python_version == here) and one.debs is None)
    made = make_wheelhouse(target, tmp_path / "out", bramble_wheel=own, fetch=index(folder))
    assert made.lock.bytecode is True
    compiled = next((tmp_path / "out" / "site" / "edge_client" / "__pycache__").glob("cli.*.pyc"))
    assert compiled.read_bytes()[4:8] == b"\x01\x00\x00\x00"  # PEP 552: hash-based, not checked
    with pytest.raises(WheelhouseError, match=r"is not a Python 3\.9"):
        find_python("3.9", Path(sys.executable))
    assert find_python("2.6") is None


def test_what_is_not_a_wheelhouse_is_refused(tmp_path: Path) -> None:
    folder, own = small(tmp_path)
    with pytest.raises(WheelhouseError, match=r"is not a wheelhouse; make one: bramble-provision wheelhouse"):
        open_wheelhouse(tmp_path)
    out = tmp_path / "out"
    make_wheelhouse(BOOKWORM, out, bramble_wheel=own, fetch=index(folder))
    with pytest.raises(WheelhouseError, match="is a wheelhouse for bookworm-arm64; choose another folder"):
        make_wheelhouse(TRIXIE, out, bramble_wheel=own, fetch=index(folder))
    (out / "client.tar.gz").write_bytes(b"cut")
    mend = "is damaged; mend it: bramble-provision wheelhouse --target bookworm-arm64 --out "
    with pytest.raises(WheelhouseError, match=mend):
        open_wheelhouse(out)
    (out / "wheelhouse.json").write_text("{}")
    with pytest.raises(WheelhouseError, match="is damaged"):
        read_lock(out)


def test_a_wheel_that_is_not_brambles_is_refused(tmp_path: Path) -> None:
    other = make_wheel(tmp_path, "other", "1.0")
    with pytest.raises(WheelhouseError, match="it is not Bramble's wheel"):
        make_wheelhouse(BOOKWORM, tmp_path / "out", bramble_wheel=other, fetch=index(tmp_path))


def test_brambles_own_wheel_holds_what_a_device_runs(tmp_path: Path) -> None:
    wheel = build_own_wheel(tmp_path)
    unpack_wheel(wheel, tmp_path / "site", only=("edge_client", "compression"))
    assert (tmp_path / "site" / "edge_client" / "cli.py").is_file()
    assert not (tmp_path / "site" / "provisioning").exists()
    names = {requirement.name for requirement in wheel.requirements(TRIXIE, ["edge"])}
    assert {"numpy", "paho-mqtt", "cryptography", "ai-edge-litert"} <= names
    assert "tensorflow" not in names
    assert len(source_digest()) == 64
    with pytest.raises(WheelhouseError, match="give its wheel with --bramble-wheel FILE"):
        build_own_wheel(tmp_path, source=tmp_path / "nowhere")


# ---- packages of the distribution ----


def test_packages_are_what_the_base_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for apt-get that knows three packages: libc6 is in every image."""
    script = tmp_path / "bin" / "apt-get"
    script.parent.mkdir()
    script.write_text(
        "#!/bin/sh\n"
        'case "$*" in\n'
        "*download*) for one in $*; do case $one in *=*-*) n=${one%%=*}; v=${one#*=};\n"
        '  touch "${n}_$(echo $v | sed s/:/%3a/)_armhf.deb";; esac; done;;\n'
        "*--print-uris*python3-numpy*)\n"
        "  echo \"'x://y/libc6_2.36-9_armhf.deb' libc6_2.36-9_armhf.deb 5 SHA256:a\"\n"
        "  echo \"'x://y/a.deb' python3-numpy_1%3a1.24-1_armhf.deb 5 SHA256:a\";;\n"
        "*--print-uris*) echo \"'x://y/libc6_2.36-9_armhf.deb' libc6_2.36-9_armhf.deb 5 SHA256:a\";;\n"
        "esac\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}:/usr/bin:/bin")
    assert ARMHF.debs is not None
    found = debs_module.fetch_debs(ARMHF.debs, ["python3-numpy"], tmp_path, tmp_path / "state")
    assert [path.name for path in found] == ["python3-numpy_1%3a1.24-1_armhf.deb"]
    assert debs_module.version_of(found[0]) == ("python3-numpy", "1:1.24-1")
    assert (tmp_path / "state" / "lists" / "partial").is_dir()


def test_without_apt_it_says_where_to_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert ARMHF.debs is not None
    with pytest.raises(WheelhouseError, match="make this wheelhouse on Debian or Ubuntu"):
        debs_module.fetch_debs(ARMHF.debs, ["python3-numpy"], tmp_path, tmp_path)


def test_an_archive_out_of_reach_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "apt-get"
    script.write_text("#!/bin/sh\necho 'E: Could not resolve host' >&2\nexit 100\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    assert ARMHF.debs is not None
    with pytest.raises(WheelhouseError, match="apt finds no python3-numpy for armhf: Could not resolve host"):
        debs_module.fetch_debs(ARMHF.debs, ["python3-numpy"], tmp_path, tmp_path / "state")


# ---- the command ----


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = bramble_wheel(tmp_path)
    arguments = ["wheelhouse", "--target", "bookworm-arm64", "--out", str(tmp_path / "out")]
    arguments += ["--bramble-wheel", str(own)]
    assert main([*arguments, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["changed"], told["target"], told["items"][0]["name"]) == (True, "bookworm-arm64", "bramble")
    assert main(arguments) == 0
    assert "up to date" in capsys.readouterr().out
    assert main([*arguments, "--python", "/bin/false"]) == 1
    assert "is not a Python 3.11" in capsys.readouterr().err
