"""Whole images personalised without root, held against fsck, and read back."""

from __future__ import annotations

import dataclasses
import hashlib
import struct
from pathlib import Path
from typing import Any

import pytest

from provisioning.customise import tools
from provisioning.customise.apply import new_instance_id, personalise, prepare
from provisioning.customise.detect import detect
from provisioning.customise.errors import CustomiseError
from provisioning.customise.ext4 import RootPartition
from provisioning.customise.fat import BootPartition
from provisioning.customise.kernel import with_words, words_for
from provisioning.customise.layout import Layout, Partition, layout_of, read_layout
from provisioning.customise.payload import (
    BootFile,
    Payload,
    RootEntry,
    RootFile,
    RootFolder,
    RootLink,
    content_bytes,
)
from provisioning.customise.readback import check_written
from tests.provisioning.card_images import (
    BOOT_AT,
    BOOT_BYTES,
    CMDLINE,
    ROOT_AT,
    a_card,
    bookworm_image,
    check_file_systems,
    make_image,
    needs_tools,
    one_byte_changed,
    preseed_image,
    system,
    tool,
    trixie_image,
    wifi,
)

pytestmark = needs_tools
MAKERS: dict[str, Any] = {"trixie": trixie_image, "bookworm": bookworm_image, "preseed": preseed_image}
TARGETS = {"trixie": "trixie-arm64", "bookworm": "bookworm-arm64", "preseed": "trixie-arm64"}
INSTALL = (("sh", "/boot/firmware/bramble/install.sh"),)
UNIT = RootLink("/etc/systemd/system/multi-user.target.wants/bramble.service", "../bramble.service")


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "numpy (dev).whl"
    path.write_bytes(b"wheel" * 40_000)
    return path


def root_payload(wheel: Path) -> tuple[RootEntry, ...]:
    return (
        RootFolder("/var/lib/private", 0o700),
        RootFile("/var/lib/private/bramble/token", b"the-token\n", 0o600, (990, 991)),
        RootFile("/opt/bramble/site/a package/x (dev).py", wheel),
        RootFile("/opt/bramble/empty", b""),
        UNIT,
    )


def boot_payload(wheel: Path) -> tuple[BootFile, ...]:
    return (
        BootFile("bramble/edge.toml", b"name = 'pi-1'\n"),
        BootFile("bramble/wheels/numpy (dev).whl", wheel),
    )


def boot_of(image: Path) -> BootPartition:
    return BootPartition(image, BOOT_AT)


def root_of(image: Path) -> RootPartition:
    return RootPartition(image, ROOT_AT)


# ---- everything at once ----


@pytest.mark.parametrize("mode", ["prebaked", "bundle"])
@pytest.mark.parametrize("kind", MAKERS)
def test_an_image_of_each_kind_in_each_mode(kind: str, mode: str, tmp_path: Path, wheel: Path) -> None:
    image = MAKERS[kind](tmp_path / "card.img")
    card = a_card(target=TARGETS[kind], mode=mode, wifi=wifi())
    bundle = mode == "bundle"
    payload = Payload(boot_payload(wheel), () if bundle else root_payload(wheel), INSTALL if bundle else ())
    applied = personalise(image, card, payload, instance_id="pi-1-0123")

    check_file_systems(image)
    boot = boot_of(image)
    assert boot.read("bramble/wheels/numpy (dev).whl") == wheel.read_bytes()
    line = (boot.read("cmdline.txt") or b"").decode()
    assert line.startswith(CMDLINE.decode()) and line.count("\n") == 1
    for word in ("cgroup_enable=memory", "rootflags=noatime", "cfg80211.ieee80211_regdom=DE"):
        assert word in line.split()
    written = {(item.partition, item.path): item.sha256 for item in applied.written}
    assert written["boot", "cmdline.txt"] == hashlib.sha256(line.encode()).hexdigest()
    names = set(boot.names())
    expected = {
        ("trixie", "prebaked"): "user-data",
        ("trixie", "bundle"): "user-data",
        ("bookworm", "prebaked"): "custom.toml",
        ("bookworm", "bundle"): "firstrun.sh",
        ("preseed", "prebaked"): "rpi-preseed.toml",
        ("preseed", "bundle"): "rpi-preseed.toml",
    }[kind, mode]
    assert expected in names
    settings = "/etc/systemd/journald.conf.d/50-bramble.conf"
    if bundle:
        text = boot.read(expected) or b""
        assert b"install.sh" in text and settings.encode() in text
        assert root_of(image).read(settings) is None
    else:
        root = root_of(image)
        assert b"Storage=volatile" in (root.read(settings) or b"")
        assert root.read("/opt/bramble/site/a package/x (dev).py") == wheel.read_bytes()
        token, folder, link, empty = root.stat(
            ["/var/lib/private/bramble/token", "/var/lib/private", UNIT.path, "/opt/bramble/empty"]
        )
        assert token is not None and (token.mode, token.owner) == (0o600, (990, 991))
        assert folder is not None and (folder.kind, folder.mode) == ("directory", 0o700)
        assert link is not None and link.link == UNIT.target
        assert empty is not None and empty.kind == "regular"


def test_secrets_stay_out_of_fat_in_a_prebaked_card(tmp_path: Path, wheel: Path) -> None:
    image = trixie_image(tmp_path / "card.img")
    personalise(image, a_card(), Payload((), root_payload(wheel)), instance_id="x")
    data = image.read_bytes()
    assert b"the-token" not in data[BOOT_AT : BOOT_AT + BOOT_BYTES]
    assert b"the-token" in data[ROOT_AT:]


def test_files_that_were_there_are_replaced(tmp_path: Path) -> None:
    image = trixie_image(tmp_path / "card.img")
    files = (
        RootFile("/etc/systemd/system.conf", b"new\n", 0o600),
        RootFile("/usr/lib/os-release", b"VERSION_CODENAME=other\n"),
        RootLink("/etc/systemd/system.conf.link", "/dev/null"),
    )
    personalise(image, a_card(), Payload((BootFile("meta-data2", b"x"),), files), instance_id="x")
    root_of(image).write([RootLink("/etc/systemd/system.conf", "/dev/null")])
    found = root_of(image).stat(["/etc/systemd/system.conf"])[0]
    assert found is not None and (found.kind, found.link) == ("symlink", "/dev/null")
    check_file_systems(image)


@pytest.mark.parametrize("target", ["", "/a" * 30, "a b", 'a"b', "a\nb"])
def test_a_link_that_could_not_be_read_back_is_refused(target: str) -> None:
    with pytest.raises(CustomiseError, match="is not a path of 1 to 59"):
        RootLink("/opt/link", target)


def test_a_personalised_image_is_not_personalised_again(tmp_path: Path, wheel: Path) -> None:
    image = trixie_image(tmp_path / "card.img")
    payload = Payload(boot_payload(wheel))
    personalise(image, a_card(), payload, instance_id="x")
    with pytest.raises(CustomiseError, match="personalised already"):
        personalise(image, a_card(name="pi-2"), payload, instance_id="y")


def test_the_layout_may_come_from_a_block_that_is_held_back(tmp_path: Path) -> None:
    image = trixie_image(tmp_path / "card.img")
    first = image.read_bytes()[:512]
    with image.open("r+b") as file:
        file.write(bytes(512))
    with pytest.raises(CustomiseError, match="no partition table"):
        prepare(image, a_card(), Payload(), instance_id="x")
    applied = personalise(image, a_card(), Payload(), instance_id="x", layout=layout_of(first))
    assert applied.layout.root is not None and applied.layout.root.offset == ROOT_AT


def test_an_instance_identifier_names_the_card() -> None:
    assert new_instance_id(a_card(), "0123") == "pi-1-0123"


# ---- read back ----


@pytest.mark.parametrize("text", [b"the-token\n", b"name = 'pi-1'\n", b"Storage=volatile"])
def test_a_flipped_bit_is_found(text: bytes, tmp_path: Path, wheel: Path) -> None:
    image = trixie_image(tmp_path / "card.img")
    applied = personalise(image, a_card(), Payload(boot_payload(wheel), root_payload(wheel)), instance_id="x")
    check_written(image, applied.written, applied.layout)
    one_byte_changed(image, text)
    with pytest.raises(CustomiseError, match="differs from what was written"):
        check_written(image, applied.written, applied.layout)


@pytest.mark.parametrize(
    "command",
    [
        'sif "/var/lib/private/bramble/token" mode 0100644',
        'sif "/var/lib/private/bramble/token" uid 0',
        'sif "/var/lib/private" mode 040755',
        f'rm "{UNIT.path}"',
        'rm "/opt/bramble/empty"',
    ],
)
def test_a_changed_mode_owner_or_link_is_found(command: str, tmp_path: Path, wheel: Path) -> None:
    image = trixie_image(tmp_path / "card.img")
    applied = personalise(image, a_card(), Payload((), root_payload(wheel)), instance_id="x")
    tool("debugfs", "-w", "-R", command, f"{image}?offset={ROOT_AT}")
    with pytest.raises(CustomiseError, match="is not as it was written"):
        check_written(image, applied.written, applied.layout)


def test_a_file_that_is_gone_is_found(tmp_path: Path, wheel: Path) -> None:
    image = trixie_image(tmp_path / "card.img")
    applied = personalise(image, a_card(), Payload(boot_payload(wheel)), instance_id="x")
    tool("mdel", "-i", f"{image}@@{BOOT_AT}", "::/bramble/edge.toml")
    with pytest.raises(CustomiseError, match=r"edge\.toml"):
        check_written(image, applied.written, applied.layout)
    without_root = Layout(applied.layout.boot, None)
    root_only = [item for item in applied.written if item.partition == "root"]
    with pytest.raises(CustomiseError, match="no root file system"):
        check_written(image, root_only, without_root)


# ---- what is refused ----


def test_an_unknown_image_is_refused_with_what_was_looked_for(tmp_path: Path) -> None:
    image = make_image(tmp_path / "card.img", {"cmdline.txt": CMDLINE}, {"etc/hosts": b""})
    with pytest.raises(CustomiseError, match=r"looked for init=.*user-data, meta-data.*/usr/bin/rpi-preseed"):
        prepare(image, a_card(), Payload(), instance_id="x")
    with pytest.raises(CustomiseError, match="was not looked into"):
        detect(boot_of(image), None)


@pytest.mark.parametrize(
    ("program", "known"),
    [("usr/bin/cloud-init", "cloud-init"), ("usr/lib/raspberrypi-sys-mods/imager_custom", "firstboot")],
)
def test_the_root_file_system_tells_where_the_boot_partition_does_not(
    program: str, known: str, tmp_path: Path
) -> None:
    image = make_image(
        tmp_path / "card.img", {"cmdline.txt": CMDLINE}, {program: b"#!", **system("trixie", "arm64")}
    )
    facts = detect(boot_of(image), root_of(image))
    assert (facts.format, facts.codename, facts.architecture) == (known, "trixie", "arm64")
    assert program in facts.evidence


@pytest.mark.parametrize("target", ["bookworm-arm64", "bookworm-armhf"])
def test_a_card_for_another_system_is_refused(target: str, tmp_path: Path) -> None:
    image = trixie_image(tmp_path / "card.img")
    with pytest.raises(CustomiseError, match=f"the card is for {target}, the image is trixie"):
        prepare(image, a_card(target=target), Payload(), instance_id="x")


def test_a_64_bit_card_is_refused_on_a_32_bit_image(tmp_path: Path) -> None:
    image = bookworm_image(tmp_path / "card.img", "armhf")
    prepare(image, a_card(target="bookworm-armhf"), Payload(), instance_id="x")
    with pytest.raises(CustomiseError, match="the image is armhf"):
        prepare(image, a_card(target="bookworm-arm64"), Payload(), instance_id="x")


def test_prebaked_needs_a_root_file_system_and_a_bundle_does_not(tmp_path: Path) -> None:
    boot = {"cmdline.txt": CMDLINE, "user-data": b"", "meta-data": b""}
    image = make_image(tmp_path / "card.img", boot, None)
    with pytest.raises(CustomiseError, match="--mode bundle"):
        prepare(image, a_card(), Payload(), instance_id="x")
    applied = personalise(image, a_card(mode="bundle"), Payload(), instance_id="x")
    assert applied.format == "cloud-init"


def test_a_bundle_writes_nothing_into_the_root_file_system(tmp_path: Path, wheel: Path) -> None:
    image = trixie_image(tmp_path / "card.img")
    with pytest.raises(CustomiseError, match="--mode prebaked"):
        prepare(image, a_card(mode="bundle"), Payload((), root_payload(wheel)), instance_id="x")


def test_an_image_without_a_command_line_is_refused(tmp_path: Path) -> None:
    boot = {"user-data": b"", "meta-data": b""}
    image = make_image(tmp_path / "card.img", boot, system("trixie", "arm64"))
    with pytest.raises(CustomiseError, match=r"no cmdline\.txt"):
        prepare(image, a_card(), Payload(), instance_id="x")


@pytest.mark.parametrize("missing", ["mcopy", "debugfs"])
def test_a_missing_tool_is_asked_for_by_its_package(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = trixie_image(tmp_path / "card.img")
    found = tools.shutil.which
    monkeypatch.setattr(
        tools.shutil, "which", lambda name, path: None if name == missing else found(name, path=path)
    )
    package = {"mcopy": "mtools", "debugfs": "e2fsprogs"}[missing]
    with pytest.raises(CustomiseError, match=f"sudo apt install {package}"):
        prepare(image, a_card(), Payload(), instance_id="x")
    if missing == "debugfs":
        facts = prepare(image, a_card(mode="bundle"), Payload(), instance_id="x").facts
        assert (facts.codename, facts.architecture) == (None, None)


def test_no_room_is_said_before_anything_is_written(tmp_path: Path) -> None:
    image = trixie_image(tmp_path / "card.img")
    before = hashlib.sha256(image.read_bytes()).hexdigest()
    big = tmp_path / "big"
    with big.open("wb") as file:
        file.truncate(BOOT_BYTES)
    with pytest.raises(CustomiseError, match=r"boot partition: \d+ bytes to write, \d+ free"):
        boot_of(image).check([BootFile("big", big)])
    with pytest.raises(CustomiseError, match=r"root file system: .* --mode bundle"):
        root_of(image).write([RootFile("/big", big)])
    assert hashlib.sha256(image.read_bytes()).hexdigest() == before


def test_a_settings_file_of_many_megabytes_is_not_read(tmp_path: Path) -> None:
    image = trixie_image(tmp_path / "card.img")
    big = tmp_path / "big"
    with big.open("wb") as file:
        file.truncate(tools.MAX_READ_BYTES + 1)
    boot_of(image).write([BootFile("user-data", big)])
    with pytest.raises(CustomiseError, match="user-data has 16777217 bytes"):
        boot_of(image).read("user-data")
    root_of(image).write([RootLink("/x", "y")])
    tool("debugfs", "-w", "-R", f"write {big} big", f"{image}?offset={ROOT_AT}")
    with pytest.raises(CustomiseError, match="/big has 16777217 bytes"):
        root_of(image).read("/big")


def test_a_source_that_is_gone_is_named(tmp_path: Path) -> None:
    image = trixie_image(tmp_path / "card.img")
    gone = tmp_path / "gone"
    for payload in (Payload((BootFile("x", gone),)), Payload((), (RootFile("/x", gone),))):
        with pytest.raises(CustomiseError, match="gone: No such file"):
            personalise(image, a_card(), payload, instance_id="x")
    with pytest.raises(CustomiseError, match="gone: No such file"):
        boot_of(image).check([BootFile("x", gone)])
    with pytest.raises(CustomiseError, match="gone: No such file"):
        root_of(image).write([RootFile("/x", gone)])


def test_names_that_fat_takes_for_one_are_refused(tmp_path: Path) -> None:
    image = trixie_image(tmp_path / "card.img")
    with pytest.raises(CustomiseError, match="one name"):
        boot_of(image).check([BootFile("a/B", b""), BootFile("A/b", b"")])
    with pytest.raises(CustomiseError, match="one name"):
        boot_of(image).check([BootFile("a", b""), BootFile("a", b"")])


def test_a_path_through_a_link_or_onto_a_folder_is_refused(tmp_path: Path) -> None:
    image = trixie_image(tmp_path / "card.img")
    root = root_of(image)
    root.write([RootLink("/lib", "usr/lib")])
    with pytest.raises(CustomiseError, match="/lib is a symlink"):
        root.write([RootFile("/lib/systemd/x", b"")])
    with pytest.raises(CustomiseError, match="is a regular"):
        root.write([RootFile("/usr/lib/os-release/x", b"")])
    with pytest.raises(CustomiseError, match="/usr/lib is a folder"):
        root.write([RootFile("/usr/lib", b"")])


def test_a_file_system_in_use_is_refused(tmp_path: Path) -> None:
    image = trixie_image(tmp_path / "card.img")
    tool("debugfs", "-w", "-R", "feature +needs_recovery", f"{image}?offset={ROOT_AT}")
    with pytest.raises(CustomiseError, match="not unmounted cleanly"):
        root_of(image).write([RootFile("/x", b"")])


def test_what_is_no_file_system_is_refused(tmp_path: Path) -> None:
    blank = tmp_path / "blank.img"
    blank.write_bytes(bytes(1 << 20))
    with pytest.raises(CustomiseError, match="root file system"):
        RootPartition(blank, 0).write([RootFile("/x", b"")])
    for call in (lambda: BootPartition(blank, 0).names(), lambda: BootPartition(blank, 0).free_bytes()):
        with pytest.raises(CustomiseError, match="boot partition"):
            call()
    with pytest.raises(CustomiseError, match="boot partition"):
        BootPartition(blank, 0).read("x")
    with pytest.raises(CustomiseError, match="cannot be read"):
        RootPartition(trixie_image(tmp_path / "card.img"), ROOT_AT).read_all(["/none"], tmp_path)


@pytest.mark.parametrize(
    "path", ["", "/", "a/../b", "a//b", "./a", 'a"b', "a\\b", "a\nb", "a\0b", "x" * 1025, "/absolute", "a/"]
)
def test_a_boot_path_that_a_tool_might_misread_is_refused(path: str) -> None:
    with pytest.raises(CustomiseError, match="is not a relative path"):
        BootFile(path, b"")


@pytest.mark.parametrize("make", [RootFile, RootLink, RootFolder])
def test_a_root_path_is_absolute(make: Any) -> None:
    with pytest.raises(CustomiseError, match="is not an absolute path"):
        make("etc/x", b"" if make is RootFile else "x")


# ---- the parts ----


def test_content_is_bytes_or_a_file(wheel: Path) -> None:
    assert content_bytes(b"x") == b"x" and content_bytes(wheel) == wheel.read_bytes()


def entry(kind: int, first: int, sectors: int) -> bytes:
    return struct.pack("<4xB3xII", kind, first, sectors)


def record(*entries: bytes) -> bytes:
    return bytes(446) + b"".join(entries).ljust(64, b"\0") + b"\x55\xaa"


def test_partitions_are_found_by_their_kind() -> None:
    layout = layout_of(record(entry(0x0C, 8, 16), entry(0x82, 24, 8), entry(0x83, 32, 64)))
    assert layout == Layout(Partition(1, 4096, 8192), Partition(3, 16384, 32768))


@pytest.mark.parametrize(
    ("sector", "said"),
    [
        (bytes(512), "no partition table"),
        (b"\x55\xaa", "no partition table"),
        (record(entry(0xEE, 1, 9)), "GPT"),
        (record(entry(0x83, 1, 9)), "no FAT partition"),
    ],
)
def test_a_sector_that_is_no_table_is_refused(sector: bytes, said: str) -> None:
    with pytest.raises(CustomiseError, match=said):
        layout_of(sector)


def test_a_target_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(CustomiseError, match="none: No such file"):
        read_layout(tmp_path / "none")


def test_words_replace_their_rivals() -> None:
    line = b"console=tty1 console=ttyS0 ds=nocloud;i=old cgroup_enable=cpuset quiet\n"
    words = (*words_for(a_card(wifi=wifi())), "ds=nocloud;i=new", "quiet")
    assert with_words(line, words).decode().split() == [
        *(
            "console=tty1",
            "console=ttyS0",
            "cgroup_enable=cpuset",
            "cgroup_enable=memory",
            "rootflags=noatime",
        ),
        *("cfg80211.ieee80211_regdom=DE", "ds=nocloud;i=new", "quiet"),
    ]


def test_an_image_s_own_root_flags_stay() -> None:
    assert with_words(b"rootflags=data=ordered", ("rootflags=noatime", "x")) == b"rootflags=data=ordered x\n"


def test_words_are_added_once() -> None:
    once = with_words(CMDLINE, words_for(a_card()))
    assert sorted(with_words(once, words_for(a_card())).split()) == sorted(once.split())


@pytest.mark.parametrize("line", [b"a\nb\n", b"\xff", b"a\n\n"])
def test_a_command_line_that_is_not_one_line_is_refused(line: bytes) -> None:
    with pytest.raises(CustomiseError, match="not one line"):
        with_words(line, ())


def test_a_command_line_that_the_firmware_would_cut_is_refused() -> None:
    with pytest.raises(CustomiseError, match="the firmware takes 1024"):
        with_words(b"x" * 1020, ("cgroup_enable=memory",))


def test_card_sparing_is_a_choice() -> None:
    assert words_for(a_card(card_sparing=False)) == ("cgroup_enable=memory",)
    assert dataclasses.replace(a_card(), card_sparing=False).watchdog


def test_a_tool_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = tmp_path / "mcopy"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(tools, "TIMEOUT_S", 0.2)
    with pytest.raises(CustomiseError, match="did not end"):
        tools.run_tool("mcopy", ())
