"""Decodes image files and resizes them to the stored size."""

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

DECODE_VERSION = "1"
"""Part of every key that depends on pixels. Increase it if the pixels of the same file change."""
MAX_PIXELS = 80_000_000
# Other decoders are not safe for untrusted files: they are less tested, or they start programs (EPS).
_FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP")
_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
_CHUNK = 64


class CorruptImage(Exception):
    """An image cannot be used, for the given reason. The caller adds the image's name."""


def stored_shape(height: int, width: int, stored_size: int) -> tuple[int, int]:
    """Computes the size of an image after its short side is resized to `stored_size`.

    The rule of torchvision's `Resize(int)`: the aspect ratio is kept, the long side is rounded down.

    Args:
        height: Height in pixels.
        width: Width in pixels.
        stored_size: The new short side in pixels.

    Returns:
        The new height and width.

    Raises:
        CorruptImage: The result would exceed `MAX_PIXELS`.

    Example:
        >>> stored_shape(300, 451, 72)
        (72, 108)
    """
    short, long = min(height, width), max(height, width)
    new_long = stored_size * long // short
    if stored_size * new_long > MAX_PIXELS:
        raise CorruptImage(f"{width} x {height} pixels at short side {stored_size} is more than {MAX_PIXELS} pixels")
    return (stored_size, new_long) if height <= width else (new_long, stored_size)


def _require_supported(image: Image.Image) -> Image.Image:
    if image.width * image.height > MAX_PIXELS:
        raise CorruptImage(f"{image.width} x {image.height} pixels is more than the {MAX_PIXELS} allowed")
    if image.mode.startswith(("I", "F")):
        raise CorruptImage(f"more than 8 bits per channel (mode {image.mode})")
    return image


def _call_decoder(read: Callable[[], T]) -> T:
    """Translates every error of a decoder to CorruptImage: decoders raise many types for invalid bytes."""
    try:
        return read()
    except (CorruptImage, MemoryError):
        raise
    except Exception as error:
        raise CorruptImage(" ".join(str(error).split()) or type(error).__name__) from error


def image_size(data: bytes) -> tuple[int, int]:
    """Reads the size of an image from the header of its file.

    Args:
        data: The first bytes of the file, with the whole header.

    Returns:
        Height and width in pixels.

    Raises:
        CorruptImage: The header is unreadable, or the image is not supported.
    """

    def read() -> tuple[int, int]:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            return _require_supported(image).height, image.width

    return _call_decoder(read)


def decode(data: bytes) -> Image.Image:
    """Decodes an image file to RGB.

    As in torchvision's loader, alpha is dropped and EXIF rotation is not applied.

    Args:
        data: The content of the file.

    Returns:
        The RGB image.

    Raises:
        CorruptImage: The file is unreadable or truncated, or the image has more than `MAX_PIXELS` pixels or more than
            8 bits per channel.
    """

    def read() -> Image.Image:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            return _require_supported(image).convert("RGB")

    return _call_decoder(read)


def to_stored(image: Image.Image, stored_size: int, resize: Resize) -> Pixels:
    """Resizes an image with Pillow's antialiased filter.

    Args:
        image: An RGB image.
        stored_size: The new short side in pixels.
        resize: The filter.

    Returns:
        uint8 [3, h, w].

    Raises:
        CorruptImage: The result would exceed `MAX_PIXELS`.

    Example:
        >>> pixels = to_stored(Image.new("RGB", (40, 20), (255, 0, 0)), 4, "bilinear")
        >>> pixels.shape, pixels[:, 0, 0].tolist()
        ((3, 4, 8), [255, 0, 0])
    """
    height, width = stored_shape(image.height, image.width, stored_size)
    if (height, width) != (image.height, image.width):
        image = image.resize((width, height), _FILTERS[resize])
    return np.asarray(image, dtype=np.uint8).transpose(2, 0, 1)


def parallel_map(function: Callable[[int], T], count: int) -> Iterator[T]:
    """Calls a function with 0 to `count` - 1 in threads. Pillow and hashlib release the GIL.

    Args:
        function: The function. If it raises, the first exception in order is raised here, and the calls that have not
            started are cancelled.
        count: The number of calls.

    Yields:
        The results, in order.

    Example:
        >>> list(parallel_map(lambda index: index**2, 4))
        [0, 1, 4, 9]
    """

    def chunk(start: int) -> list[T]:
        return [function(index) for index in range(start, min(start + _CHUNK, count))]

    pool = ThreadPoolExecutor(max_workers=os.cpu_count() or 1)
    try:
        with warnings.catch_warnings():
            # `MAX_PIXELS` is checked above; Pillow's warning would not name the file.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            for results in pool.map(chunk, range(0, count, _CHUNK)):
                yield from results
    finally:
        pool.shutdown(cancel_futures=True)
