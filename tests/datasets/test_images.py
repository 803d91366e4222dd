"""Decoding: all formats and modes to RGB, plain JPEGs with the same pixels, faster."""

import io
import random

import numpy as np
import pytest
from PIL import Image

from keras_tinyalex.datasets.images import (
    _decode_any,
    _decode_plain_jpeg,
    decode_image,
)


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("mode", "color", "expected"),
    [("L", 77, (77, 77, 77)), ("CMYK", (0, 255, 255, 0), (255, 0, 0))],
)
def test_other_modes_become_rgb(mode, color, expected):
    data = encoded(Image.new(mode, (64, 64), color), "JPEG", quality=100)
    pixels = decode_image(data)
    assert pixels.shape == (64, 64, 3)
    assert np.abs(pixels.astype(int) - expected).max() <= 2


def test_sixteen_bit_png_keeps_its_brightness():
    image = Image.fromarray(np.full((64, 64), 0x8000, np.uint16))
    assert np.unique(decode_image(encoded(image, "PNG"))).tolist() == [0x80]


def test_palette_and_transparent_images():
    red = Image.new("RGBA", (64, 64), (255, 0, 0, 128))
    assert decode_image(encoded(red, "PNG"))[0, 0].tolist() == [255, 0, 0]
    palette = Image.new("RGB", (64, 64), (0, 0, 255)).quantize()
    assert decode_image(encoded(palette, "GIF"))[0, 0].tolist() == [0, 0, 255]


def test_other_sizes_are_resized():
    wide = Image.new("RGB", (100, 30), (9, 9, 9))
    assert decode_image(encoded(wide, "PNG"), (16, 32)).shape == (16, 32, 3)
    assert decode_image(encoded(wide, "PNG"), None).shape == (30, 100, 3)


def make_image(size=(64, 64), mode="RGB"):
    pixels = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3))
    smooth = Image.fromarray(pixels.astype(np.uint8)).resize((8, 8)).resize(size)
    return smooth.convert(mode)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("size", [(64, 64), (1, 1), (500, 333)])
@pytest.mark.parametrize(
    "options",
    [{}, {"quality": 100, "subsampling": 0}, {"progressive": True}, {"optimize": True}],
)
def test_both_decoders_give_a_plain_jpeg_the_same_pixels(mode, size, options):
    data = encoded(make_image(size, mode), "JPEG", **options)
    plain, any_ = _decode_plain_jpeg(data), _decode_any(data)
    assert plain.size == any_.size == size
    assert plain.mode == any_.mode == "RGB"
    assert (np.asarray(plain) == np.asarray(any_)).all()


def test_the_plain_decoder_refuses_everything_else():
    exif = Image.Exif()
    exif[0x0112] = 6  # the orientation
    complete = encoded(make_image(), "JPEG")
    others = [
        encoded(make_image(), "JPEG", exif=exif),
        encoded(make_image(), "JPEG", icc_profile=b"profile"),
        encoded(make_image(), "JPEG", comment=b"comment"),
        encoded(make_image(mode="CMYK"), "JPEG"),
        *(encoded(make_image(), form) for form in ("PNG", "GIF", "BMP", "WEBP")),
        *(complete[:length] for length in range(0, len(complete) - 2, 7)),
    ]
    assert [_decode_plain_jpeg(data) for data in others] == [None] * len(others)
    assert decode_image(others[0], None).shape == (64, 64, 3)


def test_too_many_declared_pixels_are_refused():
    data = bytearray(encoded(make_image(), "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = b"\x1f\x40\x27\x10"
    assert _decode_plain_jpeg(bytes(data)) is None
    with pytest.raises(ValueError, match="it claims 10000 x 8000 pixels"):
        decode_image(bytes(data))


def test_the_plain_decoder_accepts_no_damage_that_the_other_refuses():
    """Random edits: what it accepts, the other decodes to the same pixels."""
    chosen = random.Random(0)
    files = [encoded(make_image(mode=mode), "JPEG") for mode in ("RGB", "L")]
    accepted = 0
    for number in range(4000):
        data = bytearray(files[number % 2])
        at = chosen.randrange(len(data) if number % 4 < 2 else min(650, len(data)))
        if number % 3 == 0:
            data[at] = chosen.randrange(256)
        elif number % 3 == 1:
            del data[at : at + chosen.choice((1, 2, 10))]
        else:
            data[at:at] = chosen.randbytes(chosen.choice((1, 2, 10)))
        plain = _decode_plain_jpeg(bytes(data))
        if plain is not None:
            accepted += 1
            assert (np.asarray(plain) == np.asarray(_decode_any(bytes(data)))).all()
    assert 1000 < accepted < 4000
