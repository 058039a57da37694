"""Images in their archives: what is whole is read whole, whatever is not is refused and says why."""

from __future__ import annotations

import gzip
import hashlib
import io
import lzma
import random
import shutil
import subprocess
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from provisioning.image import formats, xz, zst
from provisioning.image.ahead import DEPTH, ahead
from provisioning.image.errors import ImageError
from provisioning.image.hashed_file import HashedFile
from provisioning.image.sources import Image, find_hash, open_image, read_image

zstandard = pytest.importorskip("zstandard")
MIB = 1 << 20
UNLIMITED = 1 << 40


def image_bytes(size: int = 2 * MIB + 512) -> bytes:
    """A disk image: a boot record's mark, then stretches that compress well and stretches that do not."""
    noise = random.Random(7).randbytes(MIB // 4)
    data = bytearray((noise + bytes(MIB)) * (size // MIB + 1))[:size]
    data[510:512] = b"\x55\xaa"
    return bytes(data)


IMAGE = image_bytes()


def zipped(data: bytes, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        archive.writestr("folder/", "")
        archive.writestr("folder/card.img", data)
    return out.getvalue()


def xz_streams(data: bytes) -> bytes:
    """Three streams with padding between, one of them empty."""
    return lzma.compress(data[:MIB]) + bytes(8) + lzma.compress(b"") + lzma.compress(data[MIB:]) + bytes(4)


def zst_frames(data: bytes) -> bytes:
    """Two frames and one to be skipped; one of them with a checksum."""
    skipped = (zst.SKIPPABLE + 3).to_bytes(4, "little") + (5).to_bytes(4, "little") + b"hello"
    with_checksum = zstandard.ZstdCompressor(write_checksum=True)
    return bytes(with_checksum.compress(data[:MIB]) + skipped + zstandard.compress(data[MIB:]))


def zst_unknown_size(data: bytes) -> bytes:
    packer = zstandard.ZstdCompressor().compressobj()
    return bytes(packer.compress(data) + packer.flush())


PACKERS: dict[str, tuple[str, Callable[[bytes], bytes], int | None]] = {
    "img": ("img", lambda data: data, len(IMAGE)),
    "xz": ("xz", lzma.compress, len(IMAGE)),
    "xz of several streams": ("xz", xz_streams, len(IMAGE)),
    "zst": ("zst", zstandard.compress, len(IMAGE)),
    "zst of several frames": ("zst", zst_frames, len(IMAGE)),
    "zst without a size": ("zst", zst_unknown_size, None),
    "gz": ("gz", gzip.compress, None),
    "gz of two members": ("gz", lambda data: gzip.compress(data[:MIB]) + gzip.compress(data[MIB:]), None),
    "gz with padding": ("gz", lambda data: gzip.compress(data) + bytes(8), None),
    "zip": ("zip", zipped, len(IMAGE)),
    "zip, stored": ("zip", lambda data: zipped(data, zipfile.ZIP_STORED), len(IMAGE)),
}


@cache
def packed_image(name: str) -> bytes:
    return PACKERS[name][1](IMAGE)


every_packer = pytest.mark.parametrize("name", PACKERS)


def write(folder: Path, data: bytes, name: str = "card.img.packed") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def read(path: Path, *, limit: int = UNLIMITED, sha256: str | None = None) -> bytes:
    image = open_image(path, sha256=sha256, no_hash=sha256 is None)
    with HashedFile(path) as file:
        return b"".join(read_image(image, file, limit=limit))


@every_packer
def test_what_was_packed_comes_out(name: str, tmp_path: Path) -> None:
    kind, _pack, size = PACKERS[name]
    packed = packed_image(name)
    path = write(tmp_path, packed)
    image = open_image(path, no_hash=True)
    assert (image.kind, image.size, image.archive_bytes) == (kind, size, len(packed))
    assert read(path, sha256=hashlib.sha256(packed).hexdigest()) == IMAGE


@every_packer
def test_the_stdlib_alone_does_as_well(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "inflate", zlib)
    assert read(write(tmp_path, packed_image(name))) == IMAGE


@every_packer
@pytest.mark.parametrize("keep", [0.05, 0.5, 0.999])
def test_a_truncated_archive_is_never_whole(name: str, keep: float, tmp_path: Path) -> None:
    packed = packed_image(name)
    path = write(tmp_path, packed[: int(len(packed) * keep)])
    if name == "img":  # nothing in it says how long it was: this is what the hash is for
        with pytest.raises(ImageError, match="has SHA-256"):
            read(path, sha256=hashlib.sha256(packed).hexdigest())
    else:
        with pytest.raises(ImageError, match=r"truncated|damaged|declares"):
            read(path)


@every_packer
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_a_changed_byte_is_an_error_or_no_difference(name: str, tmp_path: Path, data: st.DataObject) -> None:
    packed = bytearray(packed_image(name))
    digest = hashlib.sha256(packed).hexdigest()
    place = data.draw(st.integers(0, len(packed) - 1))
    packed[place] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(ImageError):
        read(write(tmp_path, bytes(packed)), sha256=digest)


@every_packer
def test_an_archive_that_holds_more_than_the_target_stops_there(name: str, tmp_path: Path) -> None:
    path = write(tmp_path, packed_image(name))
    with pytest.raises(ImageError, match=f"more than {MIB} bytes"):
        read(path, limit=MIB)


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress, zst_unknown_size, zipped])
def test_a_bomb_is_decoded_in_pieces(pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    """However much the archive blows up, no piece in memory is larger than a block."""
    path = write(tmp_path, pack(bytes(32 * MIB)))
    image = open_image(path, no_hash=True)
    with HashedFile(path) as file:
        pieces = [len(piece) for piece in image.opened.pieces(file)]
    assert sum(pieces) == 32 * MIB
    assert image.kind == "xz" or max(pieces) <= formats.PIECE


def test_decoding_ahead_ends_with_who_uses_it() -> None:
    made = []

    def endless() -> Iterator[bytes]:
        while True:
            made.append(1)
            yield b"x"

    pieces = ahead(endless())
    assert [next(pieces), next(pieces)] == [b"x", b"x"]
    pieces.close()  # type: ignore[attr-defined]
    assert len(made) <= 2 + DEPTH + 1
    assert "decode" not in {thread.name for thread in threading.enumerate()}

    def broken() -> Iterator[bytes]:
        yield b"a"
        raise EOFError("cut off")

    pieces = ahead(broken())
    assert next(pieces) == b"a"
    with pytest.raises(EOFError, match="cut off"):
        next(pieces)


# ---- xz in parallel ----

needs_xz = pytest.mark.skipif(shutil.which("xz") is None, reason="xz is not installed")


def xz_blocks(data: bytes, *options: str) -> bytes:
    return subprocess.run(["xz", "-0", "-c", *options], input=data, capture_output=True, check=True).stdout


@needs_xz
@pytest.mark.parametrize(
    "options",
    [
        ["--block-size=512KiB"],
        ["--block-size=300000", "-T2"],
        ["-C", "crc32", "--block-size=512KiB"],
        ["-C", "none"],
    ],
)
def test_blocks_are_decoded_side_by_side_and_in_order(options: list[str], tmp_path: Path) -> None:
    packed = xz_blocks(IMAGE, *options)
    path = write(tmp_path, packed + lzma.compress(b"tail"))
    layout = xz.read_layout(path)
    assert layout.decoded == len(IMAGE) + 4
    assert layout.affordable(4) > 1
    assert read(path) == IMAGE + b"tail"


@needs_xz
def test_large_blocks_are_decoded_as_one_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xz, "MAX_BUFFERED", MIB)
    path = write(tmp_path, xz_blocks(IMAGE, "--block-size=1536KiB") + bytes(4) + lzma.compress(b"tail"))
    assert xz.read_layout(path).affordable(4) == 1
    assert read(path) == IMAGE + b"tail"


@needs_xz
def test_a_damaged_block_is_named(tmp_path: Path) -> None:
    packed = bytearray(xz_blocks(IMAGE, "--block-size=512KiB"))
    packed[len(packed) // 2] ^= 1
    with pytest.raises(ImageError, match="damaged or truncated"):
        read(write(tmp_path, bytes(packed)))


def test_an_index_that_lies_about_a_block(tmp_path: Path) -> None:
    path = write(tmp_path, lzma.compress(IMAGE))
    layout = xz.read_layout(path)
    (block, flags), *_ = layout.blocks
    lying = xz.Layout(((xz.Block(block.start, block.unpadded, block.decoded - 1), flags),) * 2)
    with HashedFile(path) as file, pytest.raises((EOFError, lzma.LZMAError)):
        list(xz.decode(file, lying))


# ---- which file it is ----


def test_the_content_decides_not_the_name(tmp_path: Path) -> None:
    assert open_image(write(tmp_path, gzip.compress(IMAGE), "card.img.xz"), no_hash=True).kind == "gz"


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    for data in (b"", b"text", bytes(MIB)):
        with pytest.raises(ImageError, match="neither xz"):
            open_image(write(tmp_path, data), no_hash=True)
    with pytest.raises(ImageError, match="is not a file"):
        open_image(tmp_path, no_hash=True)
    with pytest.raises(ImageError, match="does not exist"):
        open_image(tmp_path / "none.img", no_hash=True)
    with pytest.raises(ImageError, match="empty image"):
        open_image(write(tmp_path, lzma.compress(b"")), no_hash=True)
    with pytest.raises(ImageError, match="decodes to 0 bytes"):
        read(write(tmp_path, gzip.compress(b"")))


def test_a_zip_holds_one_image(tmp_path: Path) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a.txt", "readme")
        archive.writestr("a.img", IMAGE)
    assert read(write(tmp_path, out.getvalue())) == IMAGE
    with zipfile.ZipFile(out, "a") as archive:
        archive.writestr("b.img", IMAGE)
    with pytest.raises(ImageError, match="holds 3 files"):
        open_image(write(tmp_path, out.getvalue()), no_hash=True)
    with pytest.raises(ImageError, match="unusual way"):
        open_image(write(tmp_path, zipped(IMAGE, zipfile.ZIP_BZIP2)), no_hash=True)


# ---- its hash ----

HEX = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    "text", [HEX, f"{HEX.upper()}\n", f"{HEX}  card.img\n", f"{'f' * 64} *other.img\n{HEX} *./card.img\n"]
)
def test_the_hash_lies_beside_the_image(text: str, tmp_path: Path) -> None:
    path = write(tmp_path, IMAGE, "card.img")
    (tmp_path / "card.img.sha256").write_text(text, encoding="utf-8")
    assert find_hash(path, None) == HEX
    assert find_hash(path, "A" * 64) == "a" * 64  # what is typed wins


def test_without_a_hash_one_has_to_say_so(tmp_path: Path) -> None:
    path = write(tmp_path, IMAGE, "card.img")
    with pytest.raises(ImageError, match="--no-hash"):
        open_image(path)
    assert open_image(path, no_hash=True).sha256 is None
    with pytest.raises(ImageError, match="is not a SHA-256"):
        open_image(path, sha256="abc")
    for text in ("", "no hash", f"{HEX}  other.img", f"{HEX} card.img\n{HEX} card.img\n"):
        (tmp_path / "card.img.sha256").write_text(text, encoding="utf-8")
        with pytest.raises(ImageError, match="does not hold one SHA-256"):
            open_image(path)


def test_a_wrong_hash_names_both(tmp_path: Path) -> None:
    path = write(tmp_path, lzma.compress(IMAGE))
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(ImageError, match=f"has SHA-256 {found}, not {HEX}"):
        read(path, sha256=HEX)


def test_an_image_that_shrank_since_it_was_looked_at(tmp_path: Path) -> None:
    path = write(tmp_path, IMAGE)
    image: Image = open_image(path, no_hash=True)
    path.write_bytes(IMAGE[:-512])
    with HashedFile(path) as file, pytest.raises(ImageError, match="it declares"):
        list(read_image(image, file, limit=UNLIMITED))


def test_zst_without_its_package_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "zstandard", None)
    with pytest.raises(ImageError, match="pip install"):
        open_image(write(tmp_path, zst.MAGIC + bytes(600)), no_hash=True)
