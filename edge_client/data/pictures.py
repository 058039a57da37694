"""One picture file or array, whatever its mode, depth or size, to the uint8 pixels of a model's input.

Training, the gate, prediction on the device and the server all come through `to_pixels`, so they
cannot disagree. Only the decoders named in `FORMATS` are ever tried: Pillow also knows formats that
start other programs. A JPEG much larger than the input is decoded at a fraction of its size, which
is what keeps the memory of a Pi small.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from compression.spec import ImageInput
from edge_client.data.catalogue import Pixels
from edge_client.data.errors import DataError

# Importing the decoders registers them; without that Pillow would import all of its forty.
_PLUGINS = (
    BmpImagePlugin.BmpImageFile,
    GifImagePlugin.GifImageFile,
    JpegImagePlugin.JpegImageFile,
    PngImagePlugin.PngImageFile,
    PpmImagePlugin.PpmImageFile,
    TiffImagePlugin.TiffImageFile,
    WebPImagePlugin.WebPImageFile,
)
FORMATS = [plugin.format for plugin in _PLUGINS]
MAX_PIXELS = 1 << 25  # 100 MB as RGB: twice a large mammogram, and a bomb cannot take a Pi down
MAX_FILE_BYTES = 1 << 28
DRAFT_MARGIN = 2  # a JPEG may be decoded smaller, but no smaller than this times the input

PICTURE_ERRORS: tuple[type[Exception], ...] = (  # what Pillow's decoders raise for bytes gone wrong
    OSError,
    ValueError,
    SyntaxError,
    ArithmeticError,
    LookupError,
    TypeError,
    AttributeError,
    RuntimeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)

_TURNS = {  # EXIF orientation: what brings the picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_LYING = (5, 6, 7, 8)  # orientations that swap height and width
_ORIENTATION = 0x0112


def to_pixels(picture: bytes | Path | npt.NDArray[Any], input: ImageInput) -> Pixels:
    """Decode, bring upright, resize and convert.

    The picture is squeezed to the input's height and width; its aspect ratio is not kept.

    Args:
        picture: the bytes or the path of a file, or an array [H, W] or [H, W, 1, 3 or 4].
        input: size and channels wanted.

    Returns:
        uint8 [height, width, channels].

    Raises:
        DataError: it is no picture that can be read.
    """
    if isinstance(picture, np.ndarray):
        return _fitted(_from_array(picture), input, orientation=1)
    name = picture.name if isinstance(picture, Path) else f"picture of {len(picture)} bytes"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on odd files; what matters raises
            with _opened(picture) as image:
                return _decoded(image, input)
    except PICTURE_ERRORS as exc:
        raise DataError(f"{name} cannot be read as a picture: {_reason(exc)}") from exc


def is_readable(path: Path) -> bool:
    """Whether the file decodes to its end; cheaper than `to_pixels`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with _opened(path) as image:
                if image.format == "PNG":
                    image.verify()  # the checksums of all chunks, without inflating
                else:
                    image.draft("L", (1, 1))  # a JPEG's smallest scale still reads every block
                    image.load()
    except PICTURE_ERRORS:
        return False
    return True


def looks_like_picture(head: bytes) -> bool:
    """Whether a file that begins with these bytes (12 are enough) claims to be of a format we read."""
    return head.startswith((b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*")) or (
        head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    )


def eight_bits(values: npt.NDArray[Any]) -> Pixels:
    """Pixel values of any depth as 0 to 255.

    Whole numbers from 0 are taken as 8, 12 or 16 bits deep, whichever holds the largest: scanners
    write 12 bits into 16. Reals within 0 to 1 are scaled; anything else (a CT's Hounsfield units, 32
    bits) is stretched between its smallest and largest value.
    """
    if values.dtype.kind not in "biuf":
        raise DataError(f"pixels of type {values.dtype} are not numbers")
    if not values.size:
        raise DataError("a picture without pixels")
    low, high = float(values.min()), float(values.max())
    return eight_bits_within(values, low, high)


def eight_bits_within(values: npt.NDArray[Any], low: float, high: float) -> Pixels:
    """As `eight_bits`, for values known to lie within `low` and `high`; `NaN` raises `DataError`."""
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    if not np.isfinite(low) or not np.isfinite(high):
        raise DataError("a picture with pixels that are not finite")
    if values.dtype.kind in "iu" and low >= 0 and high <= 0xFFFF:
        shift = 0 if high <= 0xFF else 4 if high <= 0xFFF else 8
        shifted: Pixels = np.right_shift(values, shift).astype(np.uint8)
        return shifted
    if values.dtype.kind == "f" and low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    elif values.dtype.kind == "f" and low >= 0 and high <= 255:
        low, high = 0.0, 255.0
    scale = 255.0 / (high - low) if high > low else 0.0
    stretched = (values.astype(np.float32) - np.float32(low)) * np.float32(scale)
    rounded: Pixels = np.clip(np.rint(stretched), 0, 255).astype(np.uint8)
    return rounded


def _opened(picture: bytes | Path) -> Image.Image:
    size = picture.stat().st_size if isinstance(picture, Path) else len(picture)
    if size > MAX_FILE_BYTES:
        raise DataError(f"{size} bytes exceed {MAX_FILE_BYTES}")
    image = Image.open(picture if isinstance(picture, Path) else io.BytesIO(picture), formats=FORMATS)
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise DataError(f"{image.width} x {image.height} pixels exceed {MAX_PIXELS}")
    return image


def _decoded(image: Image.Image, input: ImageInput) -> Pixels:
    edge = DRAFT_MARGIN * max(input.height, input.width)
    image.draft("L" if input.channels == 1 else "RGB", (edge, edge))
    image.load()
    return _fitted(image, input, _orientation(image))


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except PICTURE_ERRORS:  # a damaged note on the picture does not spoil the picture
        return 1


def _fitted(image: Image.Image, input: ImageInput, orientation: int) -> Pixels:
    lying = orientation in _LYING
    size = (input.height, input.width) if lying else (input.width, input.height)
    small = _plain(image)
    if small.size != size:
        small = small.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
    if orientation in _TURNS:
        small = small.transpose(_TURNS[orientation])
    pixels = np.asarray(_coloured(small, input.channels))
    return pixels.reshape(input.height, input.width, input.channels)


def _plain(image: Image.Image) -> Image.Image:
    """Of a mode that can be resized: palettes looked up, deep pixels reduced to 8 bits."""
    if image.mode == "P":
        return image.convert("RGBA" if "transparency" in image.info else "RGB")
    if image.mode == "PA":
        return image.convert("RGBA")
    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(eight_bits(np.asarray(image)))
    return image.convert("L") if image.mode == "1" else image


def _coloured(image: Image.Image, channels: int) -> Image.Image:
    """Grey or RGB; what is transparent becomes black, as the ground of a scan is."""
    if image.mode in ("RGBA", "LA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    wanted = "L" if channels == 1 else "RGB"
    return image if image.mode == wanted else image.convert(wanted)


def _from_array(array: npt.NDArray[Any]) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in (3, 4)):
        raise DataError(f"an array of shape {array.shape} is no picture; expected [H, W] or [H, W, channels]")
    if not 0 < array.shape[0] * array.shape[1] <= MAX_PIXELS:
        raise DataError(f"{array.shape[1]} x {array.shape[0]} pixels, expected 1 to {MAX_PIXELS}")
    return Image.fromarray(np.ascontiguousarray(eight_bits(array)))


def _reason(exc: Exception) -> str:
    text = str(exc).splitlines()[0] if str(exc) else type(exc).__name__
    return "not a known format" if "cannot identify" in text else text[:120]
