"""From the bytes of an image file to stored pixels: the one decoding and resizing that every road uses."""

import io
import os
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
Resize = Literal["bilinear", "bicubic"]
T = TypeVar("T")

DECODE_VERSION = "1"  # part of every key that pixels go into: raise it when the same file gives other pixels
MAX_PIXELS = 80_000_000
# Only these decoders run on a person's files: others (EPS, for one) start programs or are seldom exercised.
_FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP")
_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
_CHUNK = 64


class CorruptImage(Exception):
    """An image that cannot be used, with the reason; the caller knows its name."""


def stored_shape(height: int, width: int, stored_size: int) -> tuple[int, int]:
    """Height and width with the short side at `stored_size`, aspect kept, long side rounded down.

    The rule of torchvision's `Resize(int)`. Raises CorruptImage if the result would exceed MAX_PIXELS.
    """
    short, long = min(height, width), max(height, width)
    new_long = stored_size * long // short
    if stored_size * new_long > MAX_PIXELS:
        raise CorruptImage(f"{width} x {height} pixels at short side {stored_size} is more than {MAX_PIXELS} pixels")
    return (stored_size, new_long) if height <= width else (new_long, stored_size)


def _checked(image: Image.Image) -> Image.Image:
    if image.width * image.height > MAX_PIXELS:
        raise CorruptImage(f"{image.width} x {image.height} pixels is more than the {MAX_PIXELS} allowed")
    if image.mode.startswith(("I", "F")):
        raise CorruptImage(f"more than 8 bits a channel (mode {image.mode})")
    return image


def _guarded(read: Callable[[], T]) -> T:
    """Whatever a decoder raises on bytes from outside means one thing: the image is unusable."""
    try:
        return read()
    except (CorruptImage, MemoryError):
        raise
    except Exception as error:
        raise CorruptImage(" ".join(str(error).split()) or type(error).__name__) from error


def image_size(data: bytes) -> tuple[int, int]:
    """Height and width from an image file's header; `data` may end after it. Raises CorruptImage."""

    def read() -> tuple[int, int]:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            return _checked(image).height, image.width

    return _guarded(read)


def decode(data: bytes) -> Image.Image:
    """The RGB image of a whole file's bytes.

    Gray and palette become RGB, alpha is dropped, EXIF rotation is not applied (as in torchvision's loader).
    Raises CorruptImage: unreadable or truncated, more than MAX_PIXELS, more than 8 bits a channel.
    """

    def read() -> Image.Image:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            return _checked(image).convert("RGB")

    return _guarded(read)


def to_stored(image: Image.Image, stored_size: int, resize: Resize) -> Pixels:
    """uint8 [3, h, w] of an RGB image, short side at `stored_size`, by Pillow's antialiased filter."""
    height, width = stored_shape(image.height, image.width, stored_size)
    if (height, width) != (image.height, image.width):
        image = image.resize((width, height), _FILTERS[resize])
    return np.asarray(image, dtype=np.uint8).transpose(2, 0, 1)


def parallel_map(function: Callable[[int], T], count: int) -> Iterator[T]:
    """`function(0) .. function(count - 1)` in order, computed by threads: Pillow and hashlib release the GIL.

    The first exception, in order, is raised and what has not begun is dropped.
    """

    def chunk(start: int) -> list[T]:
        return [function(index) for index in range(start, min(start + _CHUNK, count))]

    pool = ThreadPoolExecutor(max_workers=os.cpu_count() or 1)
    try:
        with warnings.catch_warnings():
            # MAX_PIXELS is checked above, as an error that names the file; Pillow's own warning does not.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            for results in pool.map(chunk, range(0, count, _CHUNK)):
                yield from results
    finally:
        pool.shutdown(cancel_futures=True)
