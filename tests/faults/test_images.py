"""1,000 seeded corruptions and 1,000 good images: recall and false alarms."""

import io
import os
import random
import struct
import zlib
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from keras_tinyalex.datasets.images import decode_image
from keras_tinyalex.datasets.reading import verify
from keras_tinyalex.datasets.tiny_imagenet import load_data

pytestmark = pytest.mark.faults

MODES = ("RGB", "RGB", "RGB", "L", "CMYK")


def encoded(pixels, mode="RGB", form="JPEG", **options):
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, form, **options)
    return file.getvalue()


def make_jpeg(seed, mode=None):
    """Returns a JPEG of 64x64 pixels: color ramps and noise."""
    generator = np.random.default_rng(seed)
    ramp = np.linspace(0, 255, 64)[:, None, None] * generator.random(3)
    pixels = (ramp + generator.integers(0, 40, (64, 64, 3))).clip(0, 255)
    mode = mode or MODES[seed % len(MODES)]
    quality = int(generator.integers(60, 96))
    return encoded(pixels.astype("uint8"), mode, quality=quality)


def other_format(form):
    def make(data, chosen):
        pixels = np.full((64, 64, 3), chosen.randrange(256), "uint8")
        return encoded(pixels, form=form)

    return make


def sixteen_bit(data, chosen):
    gray = np.full((64, 64), chosen.randrange(1 << 16), "uint16")
    file = io.BytesIO()
    Image.fromarray(gray).save(file, "PNG")
    return file.getvalue()


def header_of(data):
    """Returns the number of bytes before the data of the first scan."""
    at = data.index(b"\xff\xda")
    return at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")


def flip_in_scan(data, chosen):
    at = chosen.randrange(header_of(data), len(data) - 2)
    return data[:at] + bytes([data[at] ^ 1 << chosen.randrange(8)]) + data[at + 1 :]


def bad_marker(data, chosen):
    at = data.index(b"\xff\xda")  # start of scan
    return data[:at] + b"\xff\x00" + data[at + 2 :]


def cut_between(first, last):
    """Returns a function that cuts at a random byte from `first` to `last`."""
    return lambda data, chosen: data[: chosen.randrange(first(data), last(data))]


# The kinds of damage of which all must be found.
DAMAGES = {
    "zero bytes": lambda data, chosen: b"",
    "text": lambda data, chosen: b"not an image %d\n" % chosen.randrange(999),
    "HTML page": lambda data, chosen: b"<html>404 %d" % chosen.randrange(999),
    "noise": lambda data, chosen: chosen.randbytes(len(data)),
    "zeros": lambda data, chosen: bytes(len(data)),
    "cut in the header": cut_between(lambda data: 1, header_of),
    "cut in the pixels": cut_between(header_of, lambda data: len(data) - 2),
    "cut at the end marker": lambda data, chosen: data[:-2],
    "first bytes lost": lambda data, chosen: data[chosen.randrange(1, 20) :],
    "second half zeroed": lambda data, chosen: (
        data[: len(data) // 2] + bytes(len(data) // 2)
    ),
    "bad marker": bad_marker,
    "TIFF named .JPEG": other_format("TIFF"),
}
# What is read, and told.
MISNAMED = {
    "GIF named .JPEG": other_format("GIF"),
    "WebP named .JPEG": other_format("WEBP"),
    "PNG named .JPEG": other_format("PNG"),
    "BMP named .JPEG": other_format("BMP"),
    "16-bit PNG named .JPEG": sixteen_bit,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Returns a folder of 1,000 good and 1,000 damaged files, and their damage."""
    root = tmp_path_factory.mktemp("images")
    chosen = random.Random(0)
    kinds = {}
    for name in ("good", "bad"):
        (root / name).mkdir()
    for number in range(1000):
        data = make_jpeg(number)
        (root / "good" / f"{number}.JPEG").write_bytes(data)
        kind = list(DAMAGES)[number % len(DAMAGES)]
        path = root / "bad" / f"{number}.JPEG"
        path.write_bytes(DAMAGES[kind](data, chosen))
        kinds[str(path)] = kind
    return root, kinds


def test_recall_and_false_alarms(folders, figure):
    root, kinds = folders
    result = verify(root)
    assert sum(result.images.values()) == 2000
    found = {path for path, _ in result.bad}
    false = [path for path in found if "/good/" in path]
    missed = Counter(kinds[path] for path in kinds if path not in found)
    assert not false
    assert not missed
    figure(
        "images",
        f"1,000 seeded corruptions of {len(DAMAGES)} kinds, 1,000 good",
        f"recall {len(found)}/1000, false alarms {len(false)}/1000",
    )


def test_other_formats_are_read_and_told(tmp_path, figure):
    chosen = random.Random(0)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(100):
            make = MISNAMED[list(MISNAMED)[number % len(MISNAMED)]]
            (tmp_path / name / f"{number}.JPEG").write_bytes(make(b"", chosen))
    result = verify(tmp_path)
    assert (len(result.bad), len(result.misnamed)) == (0, 200)
    assert len(load_data(tmp_path)[0][0]) == 200
    figure("images", "200 files of 5 other formats named .JPEG", "200 read and told")


def test_flipped_bits_of_the_pixels(tmp_path, figure):
    """No decoder can detect all of these: the number found is only reported."""
    (tmp_path / "class").mkdir()
    chosen = random.Random(0)
    for number in range(1000):
        data = flip_in_scan(make_jpeg(number), chosen)
        (tmp_path / "class" / f"{number}.JPEG").write_bytes(data)
    problems = verify(tmp_path).bad
    assert len(problems) < 1000  # or all were detected, which could be promised
    result = f"{len(problems)}/1000 found: a JPEG has no checksum"
    figure("images", "1 flipped bit in the pixels of 1,000 (not promised)", result)


def test_loading_names_every_bad_file(folders):
    root, kinds = folders
    with pytest.raises(ValueError, match=r"of 2000 train images cannot be") as refusal:
        load_data(root)
    count, *lines = str(refusal.value).splitlines()
    assert int(count.split()[0]) == len(kinds) == 1000  # as many as `verify` names
    assert len(lines) == 20
    assert {line.strip().partition(": ")[0] for line in lines} <= set(kinds)


def test_any_bytes_give_an_image_or_a_value_error(figure):
    """Random edits of files in all formats."""
    chosen = random.Random(0)
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype("uint8")
    files = [
        encoded(pixels, form=form) for form in ("JPEG", "PNG", "BMP", "GIF", "WEBP")
    ]
    files.append(encoded(pixels, mode="P", form="PNG"))
    refused = 0
    for number in range(5000):
        data = bytearray(files[number % len(files)])
        for _ in range(chosen.choice((1, 4, 16))):
            data[chosen.randrange(min(len(data), 2000))] = chosen.randrange(256)
        try:
            image = decode_image(bytes(data))
        except ValueError:
            refused += 1
        else:
            assert image.shape == (64, 64, 3)
            assert image.dtype == np.uint8
    result = f"5,000 files: {refused} ValueErrors, no other error"
    figure("images", "random edits of 5 formats", result)


def bomb(width, height):
    """Returns a small PNG that declares this many pixels."""

    def chunk(kind, body):
        check = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + check

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(1 << 20))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows)


def test_a_decompression_bomb_takes_no_memory(tmp_path, peak_memory, figure):
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb(13_000, 6_500))
    code = (
        "try:\n    decode_image(data)\n"
        "except ValueError as error:\n    assert '13000 x 6500 pixels' in str(error)\n"
        "else:\n    raise SystemExit('accepted')\n"
    )
    grown = peak_memory(
        "from keras_tinyalex.datasets.images import decode_image\n"
        f"data = open({os.fspath(path)!r}, 'rb').read()\n"
        f"from PIL import Image\nImage.open({os.fspath(path)!r})",
        code,
    )
    assert grown < 4 << 20
    result = f"refused, {grown / 2**20:.1f} MB of memory"
    figure(
        "images", f"a PNG of {path.stat().st_size:,} bytes, 84 million pixels", result
    )


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
def test_real_pixels_of_other_modes(mode, figure):
    """A gray value is the same in every mode, within the rounding of JPEG."""
    gray = np.broadcast_to(np.arange(64, 192, 2)[:, None, None], (64, 64, 3))
    image = decode_image(encoded(gray.astype("uint8"), mode, quality=100))
    worst = int(np.abs(image.astype(int) - gray).max())
    assert worst <= 2
    figure("images", f"{mode} to RGB", f"pixels within {worst} of 255")


def test_false_alarms_on_the_real_images(real_zip, figure):
    result = verify(real_zip)
    count = sum(result.images.values())
    assert (result.bad, result.misnamed) == ([], [])
    figure("images", "false alarms on Tiny ImageNet", f"0 of {count:,} images")
