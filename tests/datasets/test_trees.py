"""Zips that are damaged or unusual, and what tells one file from another."""

import os
import random
import zipfile

import pytest

from keras_tinyalex.datasets.reading import verify
from keras_tinyalex.datasets.tiny_imagenet import load_data, restructure
from keras_tinyalex.datasets.trees import FolderTree, ZipTree


def refused(call, *arguments, **options):
    """Returns the message of the documented errors, or `None`."""
    try:
        call(*arguments, **options)
    except (ValueError, OSError) as error:
        return str(error)
    return None


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_each_damaged_byte_is_named_or_without_effect(
    official_folder, tmp_path, method
):
    """50 damages: half in the images, half in the directory at the end."""
    archive = tmp_path / "good.zip"
    with zipfile.ZipFile(archive, "w", method) as target:
        for file in sorted(official_folder.rglob("*.*")):
            target.write(file, file.relative_to(tmp_path))
    good, damaged = archive.read_bytes(), tmp_path / "damaged.zip"
    expected = load_data(archive)
    chosen = random.Random(0)
    for number in range(50):
        data = bytearray(good)
        at = chosen.randrange(len(data) - 4000 if number % 2 else 0, len(data))
        data[at] ^= chosen.randrange(1, 256)
        damaged.write_bytes(data)
        target = tmp_path / f"sorted-{number}"
        message = refused(restructure, damaged, target, progress=False)
        if message is None:
            for part, same in zip(load_data(damaged), expected, strict=True):
                assert all((a == b).all() for a, b in zip(part, same, strict=True))
        else:
            assert "damaged.zip" in message
            assert not target.exists()
            assert refused(verify, damaged) or verify(damaged).bad


def test_a_damaged_deflated_member_is_named(official_folder, tmp_path):
    archive = tmp_path / "data.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as target:
        for file in sorted(official_folder.rglob("*.*")):
            target.write(file, file.relative_to(tmp_path))
        info = target.infolist()[0]
    data = bytearray(archive.read_bytes())
    at = info.header_offset + 30 + len(info.filename) + 2
    data[at : at + 8] = b"\xff" * 8
    archive.write_bytes(data)
    ((file, problem),) = verify(archive).bad
    assert file == f"{archive}!{info.filename}"
    assert problem.startswith(f"Cannot read {file}: Error -3 while decompressing")


def test_backslashes_of_windows_are_folders(official_folder, tmp_path):
    archive = tmp_path / "data.zip"
    with zipfile.ZipFile(archive, "w") as target:
        for file in sorted(official_folder.rglob("*.*")):
            info = zipfile.ZipInfo("x")
            info.filename = str(file.relative_to(tmp_path)).replace("/", "\\")
            target.writestr(info, file.read_bytes())
    (x, y), (x_val, _) = load_data(archive)
    (x_folder, y_folder), (x_val_folder, _) = load_data(official_folder)
    assert (x == x_folder).all()
    assert (y == y_folder).all()
    assert (x_val == x_val_folder).all()


@pytest.mark.parametrize(
    ("offset", "value", "problem"),
    [(8, 1, "is encrypted"), (10, 9, "is compressed by method 9, not by Deflate")],
)
def test_zips_that_python_cannot_unpack(official_zip, offset, value, problem):
    """An encrypted member, and one of Deflate64."""
    data = bytearray(official_zip.read_bytes())
    with zipfile.ZipFile(official_zip) as archive:
        at = archive.start_dir
        info = archive.infolist()[0]
        for info in archive.infolist():
            if info.filename.endswith(".JPEG"):
                break
            at += 46 + len(info.filename)
    data[at + offset] |= value
    official_zip.write_bytes(data)
    with pytest.raises(ValueError, match=f"Extract this one .*{problem}"):
        ZipTree(official_zip)


def test_a_lost_member_is_refused(official_zip):
    """A damaged length of a comment swallows the members after it."""
    data = bytearray(official_zip.read_bytes())
    with zipfile.ZipFile(official_zip) as archive:
        data[archive.start_dir + 33] = 0x7F
    official_zip.write_bytes(data)
    with pytest.raises(ValueError, match="it holds 1 members, but declares"):
        ZipTree(official_zip)


def test_a_file_changed_under_its_old_time_is_another(tmp_path):
    file = tmp_path / "1.bmp"
    file.write_bytes(b"dark")
    os.utime(file, (0, 0))
    before = FolderTree(tmp_path).fingerprint("1.bmp")
    other = tmp_path / "2.bmp"
    other.write_bytes(b"glow")
    os.utime(other, (0, 0))
    other.replace(file)  # as `rsync -t` does
    renamed = FolderTree(tmp_path).fingerprint("1.bmp")
    assert renamed != before
    while FolderTree(tmp_path).fingerprint("1.bmp") == renamed:
        file.write_bytes(b"grey")  # in the same inode, as `cp -p` does
        os.utime(file, (0, 0))
    size, time = file.stat().st_size, file.stat().st_mtime
    assert (size, time) == (4, 0)


def test_equal_names_in_two_folders_are_not_one_file(tmp_path):
    for name in ("dark", "bright"):
        (tmp_path / name).mkdir()
    assert FolderTree(tmp_path / "dark").identity != FolderTree(tmp_path).identity
