"""Any picture a hospital may have, brought to the pixels of a model's input."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from compression.spec import ImageInput
from edge_client.data import DataError, preprocess
from edge_client.data.pictures import MAX_PIXELS, eight_bits, is_readable, looks_like_picture, to_pixels

GREY = ImageInput(height=8, width=8)
COLOUR = ImageInput(height=8, width=8, channels=3)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("wanted", [GREY, COLOUR], ids=["grey", "colour"])
def test_every_mode_comes_out_in_shape(mode: str, wanted: ImageInput) -> None:
    picture = encoded(Image.new(mode, (33, 21)))
    pixels = to_pixels(picture, wanted)
    assert pixels.dtype == np.uint8
    assert pixels.shape == wanted.shape
    assert not pixels.any()  # black stays black, whatever the mode


def test_grey_levels_survive_every_mode() -> None:
    ramp = np.linspace(0, 255, 64).astype(np.uint8).reshape(8, 8)
    grey = Image.fromarray(ramp)
    for image in (grey, grey.convert("RGB"), grey.convert("RGBA"), grey.convert("LA")):
        np.testing.assert_array_equal(to_pixels(encoded(image), GREY)[..., 0], ramp)


def test_a_palette_is_looked_up() -> None:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 10, 200, 30])
    np.testing.assert_array_equal(to_pixels(encoded(image), COLOUR)[0, 0], [10, 200, 30])


def test_what_is_transparent_becomes_black() -> None:
    hidden = Image.new("RGBA", (8, 8), (255, 255, 255, 0))
    assert not to_pixels(encoded(hidden), COLOUR).any()
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([250, 250, 250])
    assert not to_pixels(encoded(palette, "GIF", transparency=0), GREY).any()


@pytest.mark.parametrize(("deepest", "shift"), [(200, 0), (4000, 4), (60_000, 8)])
def test_sixteen_bit_pictures_keep_their_depth(deepest: int, shift: int) -> None:
    values = np.linspace(0, deepest, 64).astype(np.uint16).reshape(8, 8)
    for kind in ("PNG", "TIFF"):
        pixels = to_pixels(encoded(Image.fromarray(values), kind), GREY)
        np.testing.assert_array_equal(pixels[..., 0], values >> shift)


def test_deep_pictures_with_negative_values_are_stretched() -> None:
    hounsfield = np.array([[-1000, 0], [1000, 3000]], np.int32)
    np.testing.assert_array_equal(eight_bits(hounsfield), [[0, 64], [128, 255]])


def test_reals_are_scaled_by_their_range() -> None:
    np.testing.assert_array_equal(eight_bits(np.array([0.0, 0.5, 1.0])), [0, 128, 255])
    np.testing.assert_array_equal(eight_bits(np.array([0.0, 100.0, 255.0])), [0, 100, 255])
    np.testing.assert_array_equal(eight_bits(np.array([True, False])), [255, 0])
    np.testing.assert_array_equal(eight_bits(np.array([-3.0, -3.0])), [0, 0])


@pytest.mark.parametrize("values", [np.array([np.nan, 1.0]), np.array(["a"]), np.zeros(0, np.float32)])
def test_what_are_no_pixels_is_refused(values: np.ndarray) -> None:
    with pytest.raises(DataError):
        eight_bits(values)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(orientation: int) -> None:
    upright = np.zeros((8, 8), np.uint8)
    upright[:4, :4] = 255  # bright in the upper left
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright, 1),
        7: np.rot90(upright.T, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = encoded(Image.fromarray(np.ascontiguousarray(stored)), "PNG", exif=exif)
    np.testing.assert_array_equal(to_pixels(picture, GREY)[..., 0], upright)


def test_a_lying_picture_is_squeezed_the_right_way_round() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.new("L", (40, 20))
    stored.paste(255, (0, 0, 20, 20))  # left half; turned clockwise it is the upper half
    pixels = to_pixels(encoded(stored, "JPEG", exif=exif, quality=95), ImageInput(height=16, width=8))
    assert pixels.shape == (16, 8, 1)
    assert pixels[:6].min() > 240
    assert pixels[10:].max() < 15


def test_a_png_named_jpg_is_read(tmp_path: Path) -> None:
    file = tmp_path / "scan.jpg"
    file.write_bytes(encoded(Image.new("L", (8, 8), 77)))
    assert (to_pixels(file, GREY) == 77).all()


def test_a_large_jpeg_decoded_small_differs_little_from_a_full_decode() -> None:
    waves = (127 + 100 * np.sin(np.arange(1024) / 90)[:, None] * np.cos(np.arange(1024) / 70)).astype(
        np.uint8
    )
    target = ImageInput(height=64, width=64)
    drafted = to_pixels(encoded(Image.fromarray(waves), "JPEG", quality=95), target)
    full = to_pixels(waves, target)
    assert np.abs(drafted.astype(int) - full).max() <= 3


def test_decompression_bombs_are_refused_before_they_are_inflated() -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DataError, match=r"pixels exceed|pixels\)"):
            to_pixels(bomb, GREY)
    with pytest.raises(DataError, match="expected 1 to"):
        to_pixels(np.zeros((1, 1), np.uint8)[np.zeros((MAX_PIXELS + 1, 1), np.uint8)[:, 0]], GREY)


@pytest.mark.parametrize(
    "data", [b"", b"not a picture", b"\xff\xd8\xff\xe0" + bytes(50), b"%!PS-Adobe-3.0 EPSF"]
)
def test_what_is_no_picture_is_one_error(data: bytes) -> None:
    with pytest.raises(DataError, match="cannot be read as a picture"):
        to_pixels(data, GREY)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF"])
def test_a_file_cut_short_is_not_readable(tmp_path: Path, kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)
    whole = encoded(Image.fromarray(noise), kind)
    file = tmp_path / "scan"
    file.write_bytes(whole)
    assert is_readable(file)
    file.write_bytes(whole[: len(whole) // 2])
    assert not is_readable(file)
    with pytest.raises(DataError):
        to_pixels(file, GREY)


BASES = [
    encoded(Image.fromarray(np.random.default_rng(1).integers(0, 255, (24, 24, 3), np.uint8)), kind)
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")
]


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(BASES),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=8),
    st.floats(0, 1),
)
def test_damaged_pictures_are_read_or_refused_and_nothing_else(
    base: bytes, damage: list[tuple[float, int]], cut: float
) -> None:
    data = bytearray(base)
    for where, value in damage:
        data[int(where * (len(data) - 1))] = value
    if cut > 0.5:
        del data[int(cut * len(data)) :]
    try:
        pixels = to_pixels(bytes(data), GREY)
    except DataError as exc:
        assert "\n" not in str(exc)
    else:
        assert pixels.shape == GREY.shape


def test_first_bytes_tell_a_picture() -> None:
    assert all(looks_like_picture(base[:12]) for base in BASES[:-1])
    assert not looks_like_picture(b"path,label\n1")


def test_preprocess_scales_and_offsets() -> None:
    input = ImageInput(height=2, width=2, scale=1 / 127.5, offset=-1.0)
    example = preprocess(np.array([[0, 255], [51, 204]], np.uint8), input)
    assert example.dtype == np.float32
    np.testing.assert_allclose(example[..., 0], [[-1, 1], [-0.6, 0.6]], atol=1e-6)


def test_preprocess_takes_bytes_path_and_array_alike(tmp_path: Path) -> None:
    array = np.random.default_rng(2).integers(0, 255, (8, 8), np.uint8)
    picture = encoded(Image.fromarray(array))
    (tmp_path / "scan.png").write_bytes(picture)
    wanted = preprocess(array, GREY)
    np.testing.assert_array_equal(preprocess(picture, GREY), wanted)
    np.testing.assert_array_equal(preprocess(tmp_path / "scan.png", GREY), wanted)
    np.testing.assert_array_equal(preprocess(array[..., None], GREY), wanted)


@pytest.mark.parametrize("shape", [(8,), (8, 8, 2), (2, 8, 8, 3)])
def test_arrays_that_are_no_picture_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="is no picture"):
        preprocess(np.zeros(shape, np.uint8), GREY)
    with pytest.raises(DataError, match="takes pictures"):
        preprocess([1.0, 2.0], GREY)
