"""One image: modes, shapes against torchvision, and everything that must be refused."""

import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ddbench.data.decode import MAX_PIXELS, CorruptImage, decode, image_size, parallel_map, stored_shape, to_stored

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
    found = decode(encoded(image, "TIFF" if mode == "CMYK" else "PNG"))
    assert found.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(found), np.asarray(image.convert("RGB")))


def test_the_name_of_a_file_does_not_decide_its_format() -> None:
    # ImageNet holds a PNG called .JPEG: bytes decide.
    assert image_size(encoded(RGB, "PNG")) == image_size(encoded(RGB, "JPEG")) == (30, 40)


def test_the_size_needs_no_more_than_the_header() -> None:
    data = encoded(RGB, "JPEG")
    start_of_scan = data.index(b"\xff\xda")
    assert image_size(data[: start_of_scan + 20]) == (30, 40)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (encoded(RGB, "JPEG")[:-200], "truncated"),
        (encoded(RGB, "PNG")[:-900], "truncated|broken"),
        (encoded(RGB, "JPEG")[:10], "cannot identify|Truncated"),
        (b"", "cannot identify"),
        (b"not an image at all", "cannot identify"),
        (encoded(RGB, "EPS"), "cannot identify"),
        (encoded(RGB, "GIF"), "cannot identify"),
        (encoded(Image.fromarray(np.zeros((4, 4), dtype=np.uint16))), "more than 8 bits"),
        (encoded(Image.fromarray(np.zeros((4, 4), dtype=np.float32)), "TIFF"), "more than 8 bits"),
        (png_header(10_000, 9_000), "10000 x 9000 pixels is more than"),
        (png_header(60_000, 60_000), "exceeds limit"),
    ],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_what_cannot_be_used_is_refused_with_its_reason(data: bytes, reason: str) -> None:
    with pytest.raises(CorruptImage, match=reason) as caught:
        decode(data)
    assert "\n" not in str(caught.value)


@settings(deadline=None)
@given(st.binary(max_size=200), st.integers(0, 400), st.integers(0, 255))
def test_damaged_bytes_give_an_image_or_a_refusal(junk: bytes, place: int, value: int) -> None:
    whole = bytearray(encoded(RGB, "JPEG"))
    whole[place] = value
    for data in (junk, bytes(whole), bytes(whole[:place])):
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
    found = torch.from_numpy(np.ascontiguousarray(to_stored(image, 24, resize)))  # type: ignore[arg-type]
    assert torch.equal(found, expected)


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
