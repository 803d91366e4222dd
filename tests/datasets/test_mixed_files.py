"""A folder of mixed files: each is counted once, and read as Pillow reads it."""

import io
import json
import re
import sys

import numpy as np
import pytest
from image_helpers import STORED
from PIL import Image, ImageOps, features

from keras_tinyalex.cli import main
from keras_tinyalex.datasets import source as sources
from keras_tinyalex.datasets.images import IMAGE_SUFFIXES, decode_image
from keras_tinyalex.datasets.reading import read_image_files, verify
from keras_tinyalex.datasets.tiny_imagenet import load_data

MODES = {
    "JPEG": ("RGB", "L", "CMYK"),
    "PNG": ("RGB", "RGBA", "L", "LA", "P", "1", "I;16"),
    "BMP": ("RGB", "L", "P", "1"),
    "GIF": ("L", "P"),
    "WEBP": ("RGB", "RGBA"),
    "AVIF": ("RGB", "RGBA", "L"),
    "HEIF": ("RGB", "RGBA", "L"),
}
WITH_EXIF = {"JPEG", "PNG", "WEBP", "AVIF", "HEIF"}
ANIMATED = {"GIF", "PNG", "WEBP"}
SIZES = ((64, 64), (40, 30), (30, 40), (100, 64))
FAST = {
    "AVIF": {"speed": 10},
    "HEIF": {"enc_params": {"preset": "ultrafast"}},
    "WEBP": {"method": 0},
}
SUFFIX_OF = {kind: suffix for suffix, kind in IMAGE_SUFFIXES.items()}


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch):
    monkeypatch.setattr(sources, "_said", set())


@pytest.fixture(scope="module")
def formats():
    """The formats that this machine writes, with Pillow's plugin for HEIC."""
    formats = set(MODES) - {"AVIF", "HEIF"}
    if "avif" in features.get_supported():
        formats.add("AVIF")
    try:
        import pillow_heif
    except ImportError:
        return formats
    pillow_heif.register_heif_opener()
    return formats | {"HEIF"}


def picture(seed, size, mode):
    """Smooth random pixels, whose alpha is of all values."""
    generator = np.random.default_rng(seed)
    if mode == "I;16":
        values = generator.integers(0, 1 << 16, size[::-1])
        return Image.fromarray(values.astype(np.uint16))
    small = generator.integers(0, 256, (5, 7, 4)).astype(np.uint8)
    image = Image.fromarray(small, "RGBA").resize(size)
    if mode in ("RGBA", "LA"):
        return image.convert(mode)
    return image.convert("RGB").convert(mode)


def encode(image, kind, orientation=None, frames=()):
    options = dict(FAST.get(kind, {}))
    if orientation is not None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        options["exif"] = exif.tobytes()
    if frames:
        options |= {"save_all": True, "append_images": list(frames)}
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def as_pillow_reads_it(data, size=(64, 64)):
    """Pillow's pixels: upright, over white, 8 bits, resized to (64, 64)."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    image = image.convert("RGB")
    if size:
        image = image.resize(size, Image.Resampling.BILINEAR)
    return np.asarray(image)


def write_mixed(folder, formats, number):
    """Writes `number` files; returns what each is: read, misnamed, bad, left out."""
    kinds = {}
    suffixes = [s for s, kind in IMAGE_SUFFIXES.items() if kind in formats]
    for index in range(number):
        suffix = suffixes[index % len(suffixes)]
        kind = IMAGE_SUFFIXES[suffix]
        modes = MODES[kind]
        image = picture(index, SIZES[index % 4], modes[index % len(modes)])
        case = (index // len(suffixes)) % 14
        orientation = 1 + case % 8 if kind in WITH_EXIF and case < 10 else None
        frames = [image.transpose(Image.Transpose.ROTATE_180)] if case == 9 else []
        data = encode(image, kind, orientation, frames if kind in ANIMATED else ())
        state = "read"
        if case == 10:
            data, state = data[: len(data) // 2], "bad"
        elif case == 11:
            data, state = b"no image\n" * (index % 3), "bad"
        elif case == 12:
            other = sorted(formats - {kind})[index % (len(formats) - 1)]
            suffix, state = SUFFIX_OF[other], "misnamed"
        elif case == 13:
            suffix, state = (".tif", ".mov", "", ".txt", ".zip")[index % 5], "left out"
        path = folder / ("cat", "dog")[index % 2] / f"{index}{suffix.upper()}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        kinds[str(path)] = state
    return kinds


def test_each_of_1000_files_is_counted_once(tmp_path, formats, capsys):
    kinds = write_mixed(tmp_path, formats, 1000)
    expected = {s: {f for f in kinds if kinds[f] == s} for s in set(kinds.values())}
    assert main(["verify", str(tmp_path), "--json"]) == 1
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {one["file"] for one in found["bad"]} == expected["bad"]
    assert len(found["bad"]) == len(expected["bad"])
    assert {one["file"] for one in found["misnamed"]} == expected["misnamed"]
    (left_out,) = found["left_out"]
    assert left_out["count"] == len(expected["left out"])
    assert found["images"] + left_out["count"] == 1000
    good = sorted(expected["read"] | expected["misnamed"])
    assert found["images"] == len(good) + len(expected["bad"])
    for path, pixels in zip(good, read_image_files(good, (64, 64)), strict=True):
        with open(path, "rb") as file:  # noqa: PTH123
            expected_pixels = as_pillow_reads_it(file.read())
        assert np.array_equal(pixels, expected_pixels), path


@pytest.mark.parametrize("kind", sorted(WITH_EXIF))
@pytest.mark.parametrize("orientation", STORED)
def test_turned_once(formats, kind, orientation):
    """Two colors, upright: red above blue. HEIC turns by a box of its own."""
    if kind not in formats:
        pytest.skip(f"no {kind} here")
    upright = Image.new("RGB", (48, 32), (250, 5, 5))
    upright.paste((5, 5, 250), (0, 16, 48, 32))
    upright.paste((5, 250, 5), (0, 0, 16, 16))
    method = STORED[orientation]
    stored = upright if method is None else upright.transpose(method)
    data = encode(stored, kind, orientation)
    pixels = decode_image(data, None)
    assert pixels.shape == (32, 48, 3)
    assert np.abs(pixels[8::16, 8::16].astype(int) - upright_grid(upright)).max() <= 24
    assert np.array_equal(pixels, as_pillow_reads_it(data, None))


def upright_grid(image):
    return np.asarray(image)[8::16, 8::16].astype(int)


def test_misnamed_pictures_of_phones(tmp_path, formats):
    """A JPEG named .heic needs no package; AVIF named .jpg is read."""
    (tmp_path / "cat").mkdir()
    (tmp_path / "dog").mkdir()
    image = picture(0, (30, 20), "RGB")
    expected = [("cat/1.heic", "JPEG")]
    (tmp_path / "cat" / "1.heic").write_bytes(encode(image, "JPEG"))
    image.save(tmp_path / "dog" / "1.jpg")
    if "AVIF" in formats:
        (tmp_path / "cat" / "2.jpg").write_bytes(encode(image, "AVIF"))
        expected.append(("cat/2.jpg", "AVIF"))
    found = verify(tmp_path)
    assert found.bad == []
    assert found.misnamed == [(f"{tmp_path}/{name}", kind) for name, kind in expected]


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
AVIF = b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf"


@pytest.mark.parametrize(
    ("data", "module", "cure"),
    [
        (HEIC, "pillow_heif", r'HEIC .*: pip install "keras-tinyalex\[heif\]"'),
        (AVIF, "PIL.AvifImagePlugin", r"AVIF .*: pip install -U pillow"),
    ],
)
def test_a_missing_package_is_one_line(tmp_path, monkeypatch, data, module, cure):
    monkeypatch.setitem(sys.modules, module, None)
    if module.startswith("PIL."):
        monkeypatch.delattr("PIL.AvifImagePlugin", raising=False)
    with pytest.raises(ImportError, match=cure):
        decode_image(data)
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in (1, 2):
            (tmp_path / name / f"{number}.heic").write_bytes(data)
    with pytest.raises(ImportError, match=cure):
        load_data(tmp_path)
    assert len(verify(tmp_path).bad) == 4  # with the other problems of the source
    (error,) = read_image_files([str(tmp_path / "cat" / "1.heic")], (8, 8))
    assert str(error).startswith(f"{tmp_path}/cat/1.heic: ")


@pytest.mark.parametrize("brand", [b"isom", b"qt  ", b"mp42"])
def test_a_video_is_no_image(brand):
    data = b"\0\0\0\x14ftyp" + brand + b"\0\0\0\0isom" + bytes(99)
    with pytest.raises(ValueError, match=r"not a JPEG, PNG, .*HEIC image"):
        decode_image(data)


@pytest.mark.parametrize("kind", ["AVIF", "HEIF"])
def test_damaged_and_large_ones_are_refused(tmp_path, formats, kind):
    if kind not in formats:
        pytest.skip(f"no {kind} here")
    data = encode(picture(1, (64, 48), "RGB"), kind)
    for length in range(20, len(data), 37):
        with pytest.raises(ValueError, match=r"damaged image|not a JPEG"):
            decode_image(data[:length])
    # The box of the size says 20000 x 20000.
    size = b"ispe\0\0\0\0" + (20_000).to_bytes(4, "big") * 2
    wide = re.sub(rb"ispe.{12}", size, data, flags=re.DOTALL)
    (tmp_path / "wide").write_bytes(wide)
    (found,) = read_image_files([str(tmp_path / "wide")], (8, 8))
    # libheif before 1.20 takes the true size, which the pixels have.
    assert np.shape(found) == (8, 8, 3) or re.search(
        r": it has .* the limit is 67 million|: damaged image", str(found)
    )
