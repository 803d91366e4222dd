"""Decoding: all formats and modes to RGB, plain JPEGs with the same pixels, faster."""

import io
import random
import struct

import numpy as np
import pytest
from image_helpers import STORED
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
    # Half of red over white: 255 * 128 / 255 of red, 127 of white.
    red = Image.new("RGBA", (64, 64), (255, 0, 0, 128))
    assert decode_image(encoded(red, "PNG"))[0, 0].tolist() == [255, 127, 127]
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


@pytest.mark.parametrize(
    ("width", "height", "message"),
    [
        (10_000, 8_000, "it claims 10000 x 8000 pixels in [\\d,]+ bytes"),
        (20_000, 20_000, "it has 20000 x 20000 pixels, and the limit is 268 million"),
    ],
)
def test_too_many_declared_pixels_are_refused(width, height, message):
    data = bytearray(encoded(make_image(), "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    assert _decode_plain_jpeg(bytes(data)) is None
    with pytest.raises(ValueError, match=message):
        decode_image(bytes(data))


def test_a_png_of_too_many_pixels_is_refused():
    data = encoded(Image.new("1", (9000, 9000)), "PNG")
    with pytest.raises(ValueError, match="9000 x 9000 pixels, and the limit is 67 mil"):
        decode_image(data)


def test_a_phone_picture_of_108_megapixels_is_read():
    data = encoded(Image.new("RGB", (12_000, 9_000), (10, 200, 30)), "JPEG")
    assert np.abs(decode_image(data).astype(int) - (10, 200, 30)).max() <= 2


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize(
    ("form", "options"),
    [("JPEG", {"quality": 100, "subsampling": 0}), ("PNG", {}), ("WEBP", {})],
)
def test_the_image_is_upright(orientation, form, options):
    image = Image.new("RGB", (48, 32), "white")
    image.paste((200, 0, 0), (0, 0, 24, 16))  # the upper left quarter
    upright = np.asarray(image).astype(int)
    if STORED[orientation] is not None:
        image = image.transpose(STORED[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(image, form, exif=exif, **options)
    pixels = decode_image(data, None)
    assert pixels.shape == (32, 48, 3)
    assert np.abs(pixels[4:12, 4:20] - upright[4:12, 4:20]).max() <= 6
    assert np.abs(pixels[20:, 28:] - upright[20:, 28:]).max() <= 6


@pytest.mark.parametrize("exif", [b"", b"Exif\0\0MM\0", b"Exif\0\0" + bytes(40)])
def test_damaged_exif_is_no_orientation(exif):
    assert decode_image(encoded(make_image(), "JPEG", exif=exif)).shape == (64, 64, 3)


def drawing(mode):
    """Black on a transparent ground, whose hidden color is black, too."""
    image = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 32, 64))
    return image if mode == "RGBA" else image.convert(mode)


@pytest.mark.parametrize(
    ("mode", "form"), [("RGBA", "PNG"), ("LA", "PNG"), ("RGBA", "WEBP")]
)
def test_transparent_pixels_are_white(mode, form):
    pixels = decode_image(encoded(drawing(mode), form, lossless=True), None)
    assert (pixels[:, :32] == 0).all()
    assert (pixels[:, 32:] == 255).all()


def test_transparent_palettes_are_white():
    palette = Image.new("P", (64, 64), 0)
    palette.putpalette([0, 0, 0, 0, 0, 200])
    palette.paste(1, (0, 0, 32, 64))
    for form in ("GIF", "PNG"):
        pixels = decode_image(encoded(palette, form, transparency=0), None)
        assert pixels[0, 0].tolist() == [0, 0, 200]
        assert pixels[0, 63].tolist() == [255, 255, 255]


def test_a_jpeg_of_several_pictures_is_its_first():
    first = make_image()
    data = encoded(first, "MPO", save_all=True, append_images=[first.rotate(90)])
    assert Image.open(io.BytesIO(data)).format == "MPO"
    assert (decode_image(data) == decode_image(encoded(first, "JPEG"))).all()


def test_data_after_a_jpeg_are_no_damage():
    """A motion photo: a video follows, whose bytes may look like markers."""
    data = encoded(make_image(), "JPEG")
    video = b"ftypmp42\xff\xda\x00\x08" + bytes(100)
    assert (decode_image(data + video) == decode_image(data)).all()
    with pytest.raises(ValueError, match="no end marker"):
        decode_image(data[:-2] + bytes(100))


def test_one_channel():
    red = encoded(Image.new("RGB", (8, 8), (255, 0, 0)), "PNG")
    pixels = decode_image(red, (4, 6), channels=1)
    assert pixels.shape == (4, 6, 1)
    assert np.unique(pixels).tolist() == [76]  # 0.299 * 255


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
