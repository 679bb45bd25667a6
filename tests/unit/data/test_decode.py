"""One image: modes, shapes against torchvision, and everything that must be refused."""

import contextlib
import io
import re
import struct
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ddbench.data.decode import (
    MAX_PIXELS,
    CorruptImage,
    Header,
    OtherFormat,
    decode,
    parallel_map,
    read_header,
    stored_shape,
    to_stored,
)

RNG = np.random.default_rng(0)
RGB = Image.fromarray(RNG.integers(0, 256, (30, 40, 3), dtype=np.uint8))


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["PNG", "BMP", "PPM", "TIFF"])
def test_lossless_formats_give_their_pixels(kind: str) -> None:
    np.testing.assert_array_equal(np.asarray(decode(encoded(RGB, kind))), np.asarray(RGB))


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "RGBA", "CMYK"])
def test_every_8_bit_mode_becomes_rgb(mode: str) -> None:
    image = RGB.convert(mode)
    actual = decode(encoded(image, "TIFF" if mode == "CMYK" else "PNG"))
    assert actual.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(actual), np.asarray(image.convert("RGB")))


def test_the_name_of_a_file_does_not_decide_its_format() -> None:
    # ImageNet holds a PNG called .JPEG: bytes decide.
    assert read_header(encoded(RGB, "PNG")) == read_header(encoded(RGB, "JPEG")) == Header(30, 40, False)


def test_the_size_needs_no_more_than_the_header() -> None:
    data = encoded(RGB, "JPEG")
    start_of_scan = data.index(b"\xff\xda")
    assert read_header(data[: start_of_scan + 20]) == Header(30, 40, False)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (encoded(RGB, "JPEG")[:-200], "^truncated$"),
        (encoded(RGB, "PNG")[:-900], "^(truncated|damaged .broken)"),
        (encoded(RGB, "JPEG")[:10], "^(truncated|its header is truncated or damaged)$"),
        (encoded(RGB, "PNG")[:12], "^(truncated|its header is truncated or damaged)$"),
        (b"", "^empty file$"),
        (b"not an image at all", "^not an image$"),
        (encoded(RGB, "EPS"), "^a PostScript file$"),
        (encoded(RGB, "GIF"), "^a GIF$"),
        (encoded(RGB, "AVIF"), "^an AVIF image$"),
        (b"<!doctype html><p>404", "^an HTML page$"),
        (b"version https://git-lfs.github.com/spec/v1\n", "^a Git LFS pointer "),
        (encoded(Image.fromarray(np.zeros((4, 4), dtype=np.int32)), "TIFF"), "without a stated range .mode I"),
        (encoded(Image.fromarray(np.zeros((4, 4), dtype=np.float32)), "TIFF"), "without a stated range .mode F"),
        (png_header(10_000, 9_000), "10000 x 9000 pixels is more than"),
        (png_header(60_000, 60_000), f"^3600000000 pixels is more than the {MAX_PIXELS} allowed$"),
    ],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_what_cannot_be_used_is_refused_with_its_reason(data: bytes, reason: str) -> None:
    with pytest.raises(CorruptImage, match=reason) as caught:
        decode(data)
    assert "\n" not in str(caught.value)
    assert not re.search("0x|<|BytesIO", str(caught.value))
    assert isinstance(caught.value, OtherFormat) == reason.startswith(("^a ", "^an "))


LEVELS = np.array([[0, 1, 128, 129], [4095, 32767, 65407, 65535]])


def tiff_of_bits(bits: int, levels: np.ndarray, photometric: int) -> bytes:
    """A TIFF of one uncompressed strip of 16-bit or packed 12-bit samples."""
    height, width = levels.shape
    if bits == 12:
        packed = "".join(f"{level:012b}" for level in levels.ravel())
        strip = int(packed, 2).to_bytes(len(packed) // 8, "big")
    else:
        strip = levels.astype("<u2").tobytes()
    entries = [
        (256, width),
        (257, height),
        (258, bits),
        (259, 1),
        (262, photometric),
        (273, 8),
        (277, 1),
        (278, height),
    ]
    entries.append((279, len(strip)))
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    return b"II*\0" + struct.pack("<I", 8 + len(strip)) + strip + struct.pack("<H", len(entries)) + directory + bytes(4)


def pgm(levels: np.ndarray, largest: int) -> bytes:
    return f"P5 {levels.shape[1]} {levels.shape[0]} {largest}\n".encode() + levels.astype(">u2").tobytes()


@pytest.mark.parametrize(
    ("data", "levels", "largest"),
    [
        (encoded(Image.fromarray(LEVELS.astype(np.uint16))), LEVELS, 65535),
        (tiff_of_bits(16, LEVELS, 1), LEVELS, 65535),
        (tiff_of_bits(16, LEVELS, 0), 65535 - LEVELS, 65535),
        (tiff_of_bits(12, LEVELS % 4096, 1), LEVELS % 4096, 4095),
        (pgm(LEVELS, 65535), LEVELS, 65535),
        (pgm(LEVELS % 4096, 4095), LEVELS % 4096, 4095),
    ],
    ids=["png", "tiff", "tiff white is 0", "tiff of 12 bits", "pgm", "pgm up to 4095"],
)
def test_deep_gray_is_scaled_by_the_range_that_the_file_states(data: bytes, levels: np.ndarray, largest: int) -> None:
    assert read_header(data) == Header(2, 4, True)
    actual = np.asarray(decode(data))
    np.testing.assert_array_equal(actual[..., 0], np.round(levels * 255 / largest))
    np.testing.assert_array_equal(actual, actual[..., :1].repeat(3, axis=2))


def test_deep_colours_are_deep_too() -> None:
    """Pillow reads the high byte of every channel."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    levels = RNG.integers(0, 65536, (3, 5, 3), dtype=np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    header = chunk(b"IHDR", struct.pack(">2I5B", 5, 3, 16, 2, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    assert read_header(data).is_deep
    np.testing.assert_allclose(np.asarray(decode(data)), levels / 257, atol=1)


@pytest.mark.filterwarnings("error")
def test_transparency_of_a_palette_gives_no_warning_and_the_colours_of_the_palette() -> None:
    image = RGB.quantize(16)
    data = encoded(image, transparency=bytes(range(0, 160, 10)))
    np.testing.assert_array_equal(np.asarray(decode(data)), np.asarray(image.convert("RGB")))


@settings(deadline=None)
@given(st.binary(max_size=200), st.integers(0, 400), st.integers(0, 255))
def test_damaged_bytes_give_an_image_or_a_refusal(junk: bytes, place: int, value: int) -> None:
    complete = bytearray(encoded(RGB, "JPEG"))
    complete[place] = value
    for data in (junk, bytes(complete), bytes(complete[:place])):
        with contextlib.suppress(CorruptImage):
            assert decode(data).mode == "RGB"


@settings(deadline=None)
@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(4, 300))
def test_shape_is_torchvisions(height: int, width: int, stored_size: int) -> None:
    from torchvision.transforms.functional import _compute_resized_output_size

    if max(height, width) / min(height, width) < 30:
        expected = tuple(_compute_resized_output_size((height, width), [stored_size]))
        assert stored_shape(height, width, stored_size) == expected


@pytest.mark.parametrize("resize", ["bilinear", "bicubic"])
@pytest.mark.parametrize("shape", [(30, 40), (53, 31), (90, 20), (7, 9), (24, 24)])
def test_pixels_are_torchvisions(resize: str, shape: tuple[int, int]) -> None:
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.functional import pil_to_tensor
    from torchvision.transforms.functional import resize as torchvision_resize

    image = Image.fromarray(RNG.integers(0, 256, (*shape, 3), dtype=np.uint8))
    expected = pil_to_tensor(torchvision_resize(image, 24, InterpolationMode(resize)))
    actual = torch.from_numpy(np.ascontiguousarray(to_stored(image, 24, resize)))  # type: ignore[arg-type]
    assert torch.equal(actual, expected)


def test_a_long_thin_image_does_not_grow_beyond_the_bound() -> None:
    with pytest.raises(CorruptImage, match="5000000 x 1 pixels at short side 256"):
        stored_shape(1, 5_000_000, 256)
    assert MAX_PIXELS > 4 * 256 * 256


def test_parallel_results_come_in_order_and_the_first_error_wins() -> None:
    assert list(parallel_map(lambda index: index**2, 1000)) == [index**2 for index in range(1000)]
    assert list(parallel_map(lambda index: index, 0)) == []

    def fail(index: int) -> int:
        if index in (300, 700):
            raise ValueError(f"at {index}")
        return index

    with pytest.raises(ValueError, match="at 300"):
        list(parallel_map(fail, 1000))
