"""Random changes to training pictures: flips, rotation, shift, brightness.

Flip, rotation and shift are one affine map, resampled once by Pillow (0.05 ms for 64 x 64), so the
picture is not blurred thrice. What comes in from beyond the edge is black.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from PIL import Image

from compression.spec import Augmentation
from edge_client.data.catalogue import Pixels

_DRAWS = 6  # random numbers an example uses, whatever is switched on: switching changes no other draw


def augment_pictures(pictures: Pixels, how: Augmentation, rng: np.random.Generator) -> Pixels:
    """Change each picture on its own.

    Args:
        pictures: uint8 [N, height, width, channels]; left as it is.
        how: the largest changes.
        rng: draws `_DRAWS` numbers an example.

    Returns:
        uint8 of the same shape.
    """
    draws = rng.random((len(pictures), _DRAWS))
    if how == Augmentation():
        return pictures
    return np.stack([_changed(picture, how, draw) for picture, draw in zip(pictures, draws, strict=True)])


def _changed(picture: Pixels, how: Augmentation, draw: npt.NDArray[np.float64]) -> Pixels:
    flip_across = how.horizontal_flip and draw[0] < 0.5
    flip_down = how.vertical_flip and draw[1] < 0.5
    angle, right, down, light = 2.0 * draw[2:] - 1.0
    if how.rotation_degrees or how.shift:
        picture = _moved(
            picture,
            across=-1.0 if flip_across else 1.0,
            down=-1.0 if flip_down else 1.0,
            angle=math.radians(how.rotation_degrees * angle),
            shift=(how.shift * right * picture.shape[1], how.shift * down * picture.shape[0]),
        )
    else:
        picture = picture[:: -1 if flip_down else 1, :: -1 if flip_across else 1]
    if how.brightness:
        table = np.clip(np.rint(np.arange(256) * (1.0 + how.brightness * light)), 0, 255).astype(np.uint8)
        picture = table[picture]
    return picture


def _moved(
    picture: Pixels, *, across: float, down: float, angle: float, shift: tuple[float, float]
) -> Pixels:
    """Rotate about the centre, flip and shift; each output pixel looks up where it came from."""
    height, width, channels = picture.shape
    cosine, sine = math.cos(angle), math.sin(angle)
    middle_x, middle_y = width / 2, height / 2
    to_x, to_y = middle_x + shift[0], middle_y + shift[1]
    a, b = across * cosine, across * sine
    d, e = -down * sine, down * cosine
    matrix = (a, b, middle_x - a * to_x - b * to_y, d, e, middle_y - d * to_x - e * to_y)
    image = Image.fromarray(picture[:, :, 0] if channels == 1 else picture)
    moved = image.transform((width, height), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    return np.asarray(moved).reshape(height, width, channels)
