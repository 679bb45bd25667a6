"""Decodes image files and resizes them to the stored size."""

import io
import os
import re
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

Pixels = NDArray[np.uint8]
Resize = Literal["bilinear", "bicubic"]
T = TypeVar("T")

DECODE_VERSION = "1"
"""Part of every key that depends on pixels. Increase it if the pixels of the same file change."""
READABLE_VERSION = "2"
"""Part of the keys with `skip_corrupt`. Increase it if other files become readable."""
MAX_PIXELS = 80_000_000
# Other decoders are not safe for untrusted files: they are less tested, or they start programs (EPS).
_FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP")
_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
_CHUNK = 64
_OTHER_FORMATS = (
    (rb"GIF8[79]a", "a GIF"),
    (rb"....ftyp(avif|avis)", "an AVIF image"),
    (rb"....ftyp(heic|heix|mif1|msf1)", "a HEIC image"),
    (rb"\x00\x00\x00\x0cjP  ", "a JPEG 2000 image"),
    (rb"\s*<(!DOCTYPE html|html)", "an HTML page"),
    (rb"\s*<(\?xml|svg)", "an XML or SVG file"),
    (rb"%PDF", "a PDF file"),
    (rb"%!PS", "a PostScript file"),
    (rb"version https://git-lfs", "a Git LFS pointer (git lfs pull fetches the file)"),
    (rb"PK\x03\x04", "a zip archive"),
    (rb"\x1f\x8b", "a gzip archive"),
)
"""The beginnings of common files that are not read, and what they are."""
_PHOTOMETRIC, _BITS, _SAMPLE_FORMAT, _UNSIGNED = 262, 258, 339, 1  # TIFF tags


class CorruptImage(Exception):
    """An image cannot be used, for the given reason. The caller adds the image's name."""


class OtherFormat(CorruptImage):
    """A file is not an image of a supported format. The message states the format, e.g. `a GIF`."""


class Header(NamedTuple):
    """What the header of an image file states.

    Attributes:
        height: Height in pixels.
        width: Width in pixels.
        is_deep: Whether the file has more than 8 bits per channel.
    """

    height: int
    width: int
    is_deep: bool


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
    if _is_gray_above_8_bits(image) and _largest_level(image) is None:
        raise CorruptImage(f"pixels without a stated range (mode {image.mode}: 32 bits, signed or floating-point)")
    return image


def _is_gray_above_8_bits(image: Image.Image) -> bool:
    return image.mode.startswith(("I", "F"))


def _largest_level(image: Image.Image) -> int | None:
    """Returns the level that stands for white in a gray image above 8 bits; None if the file does not state it."""
    if image.mode == "F":
        return None
    if image.format != "TIFF":  # PNG: 16 bits; PPM: Pillow scales from the maximum in the header to 16 bits
        return 2**16 - 1
    tags = image.getexif()
    bits, sample_format = tags.get(_BITS, 1), tags.get(_SAMPLE_FORMAT, _UNSIGNED)
    bits, sample_format = (value[0] if isinstance(value, tuple) else value for value in (bits, sample_format))
    return 2**bits - 1 if bits <= 16 and sample_format == _UNSIGNED else None


def _to_8_bits(image: Image.Image) -> Image.Image:
    largest = _largest_level(image)
    assert largest is not None
    levels = np.asarray(image).astype(np.int64)
    if image.format == "TIFF" and image.getexif().get(_PHOTOMETRIC) == 0:
        levels = largest - levels  # white is 0
    return Image.fromarray(((levels * 255 + largest // 2) // largest).clip(0, 255).astype(np.uint8))


def _call_decoder(data: bytes, read: Callable[[], T]) -> T:
    """Translates every error of a decoder to CorruptImage: decoders raise many types for invalid bytes."""
    try:
        return read()
    except (CorruptImage, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise _unidentified(data) from error
    except Exception as error:
        raise CorruptImage(_in_words(error)) from error


def _unidentified(data: bytes) -> CorruptImage:
    if not data:
        return CorruptImage("empty file")
    for pattern, what in _OTHER_FORMATS:
        if re.match(pattern, data, re.DOTALL | re.IGNORECASE):
            return OtherFormat(what)
    if re.match(rb"\xff\xd8|\x89PNG|RIFF....WEBP|BM|II\*\0|MM\0\*|P[1-6]\s", data, re.DOTALL):
        return CorruptImage("its header is truncated or damaged")
    return CorruptImage("not an image")


def _in_words(error: Exception) -> str:
    """Returns the message of a decoder without its internal names and addresses."""
    text = re.sub(r"\s*<[^<>]*\bat 0x[0-9a-fA-F]+>", "", " ".join(str(error).split()))
    if size := re.match(r"Image size \((\d+) pixels\) exceeds limit", text):
        return f"{size[1]} pixels is more than the {MAX_PIXELS} allowed"
    if "truncated" in text.lower() or isinstance(error, EOFError):
        return "truncated"
    return f"damaged ({text or type(error).__name__})"


def read_header(data: bytes) -> Header:
    """Reads the header of an image file.

    Args:
        data: The first bytes of the file, with the whole header.

    Returns:
        The header.

    Raises:
        CorruptImage: The header is unreadable, or the image is not supported.
    """

    def read() -> Header:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            _require_supported(image)
            coding = " ".join(str(tile[3]) for tile in image.tile)  # Pillow names it RGB;16B or I;16, for instance
            is_deep = _is_gray_above_8_bits(image) or ";16" in coding
            return Header(image.height, image.width, is_deep)

    return _call_decoder(data, read)


def decode(data: bytes) -> Image.Image:
    """Decodes an image file to RGB.

    As in torchvision's loader, alpha is dropped and EXIF rotation is not applied. Images with more than 8 bits per
    channel are scaled: the largest value of the file's bit depth becomes 255.

    Args:
        data: The content of the file.

    Returns:
        The RGB image.

    Raises:
        CorruptImage: The file is unreadable or truncated, or the image has more than `MAX_PIXELS` pixels or pixels
            without a stated range.
    """

    def read() -> Image.Image:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            _require_supported(image)
            if _is_gray_above_8_bits(image):
                return _to_8_bits(image).convert("RGB")
            image.load()
            image.info.pop("transparency", None)  # alpha is dropped; Pillow would warn, without the file's name
            return image.convert("RGB")

    return _call_decoder(data, read)


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
            # Pillow's warnings do not name the file. `MAX_PIXELS` is checked above.
            warnings.filterwarnings("ignore", module="PIL")
            for results in pool.map(chunk, range(0, count, _CHUNK)):
                yield from results
    finally:
        pool.shutdown(cancel_futures=True)
