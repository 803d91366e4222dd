"""1,000 damaged bytes in zips of real images: named, refused, or without effect."""

import io
import random
import zipfile
from collections import Counter

import pytest

from keras_tinyalex.datasets.reading import verify
from keras_tinyalex.datasets.tiny_imagenet import load_data, restructure

pytestmark = pytest.mark.faults
ROOT = "tiny-imagenet-200"


def make_zip(real_zip, method):
    """Returns a zip of 3 real classes, 6 train and 3 val images each."""
    file = io.BytesIO()
    with zipfile.ZipFile(real_zip) as real, zipfile.ZipFile(file, "w", method) as small:
        names = sorted(real.namelist())
        wnids = sorted({n.split("/")[2] for n in names if f"{ROOT}/train/n" in n})[:3]
        text = real.read(f"{ROOT}/val/val_annotations.txt").decode()
        lines = []
        for wnid in wnids:
            train = [n for n in names if f"/{wnid}/images/{wnid}" in n][:6]
            of_class = [line for line in text.splitlines() if f"\t{wnid}\t" in line][:3]
            val = [f"{ROOT}/val/images/{line.split()[0]}" for line in of_class]
            lines += of_class
            for name in train + val:
                small.writestr(name, real.read(name))
        small.writestr(f"{ROOT}/val/val_annotations.txt", "\n".join(lines))
        small.writestr(f"{ROOT}/words.txt", "".join(f"{w}\tname\n" for w in wnids))
    return file.getvalue()


def same_pixels(path, expected):
    parts = zip(load_data(path), expected, strict=True)
    return all((a == b).all() for x, y in parts for a, b in zip(x, y, strict=True))


def error_of(command, path, target):
    """Returns what is wrong with the zip at `path`, in the command's words."""
    try:
        if command == "prepare":
            restructure(path, target, progress=False)
            return None
        return next((file for file, _ in verify(path).bad), None)
    except (ValueError, OSError) as error:
        return str(error)


@pytest.mark.parametrize("command", ["verify", "prepare"])
def test_each_damaged_byte(real_zip, tmp_path, command, figure):
    """Half of the bytes anywhere, half in the directory at the end."""
    good = [make_zip(real_zip, m) for m in (zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED)]
    path = tmp_path / "data.zip"
    path.write_bytes(good[0])
    expected = load_data(path)
    chosen = random.Random(0)
    results = Counter()
    for number in range(1000):
        data = bytearray(good[number % 2])
        at = chosen.randrange(len(data) - 4000 if number % 4 < 2 else 0, len(data))
        data[at] ^= chosen.randrange(1, 256)
        path.write_bytes(data)
        target = tmp_path / f"sorted-{number}"
        error = error_of(command, path, target)
        if error is None:
            results["no effect on a pixel"] += 1
            assert same_pixels(path if command == "verify" else target, expected)
        else:
            assert "data.zip" in error
            assert not target.exists()
            results["refused" if "`source` must" in error else "file named"] += 1
    assert results["no effect on a pixel"] < 200
    figure("zips", f"1,000 damaged bytes, {command}", dict(results))
