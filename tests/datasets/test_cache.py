"""The cache of decoded images: filled once, and again when a file changes."""

import errno
import mmap
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from keras_tinyalex import runs
from keras_tinyalex.datasets import cache, reading
from keras_tinyalex.datasets.batches import Batches, LabelledArrays
from keras_tinyalex.datasets.cache import cache_folder
from keras_tinyalex.datasets.layout import open_source


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "home"))


@pytest.fixture
def count_decoded(monkeypatch):
    counts = []
    decode = reading._decode_chunks

    def counted(source, split, found, *rest):
        counts.append(len(found))
        return decode(source, split, found, *rest)

    monkeypatch.setattr(reading, "_decode_chunks", counted)
    return counts


def read(path, **arguments):
    source = open_source(path)
    names = source.class_names
    return reading.read_split(source, "train", names, cache=True, **arguments)


@pytest.mark.parametrize("kind", ["official_folder", "official_zip"])
def test_second_read_decodes_nothing(kind, request, count_decoded):
    path = request.getfixturevalue(kind)
    first, second = read(path), read(path)
    assert count_decoded == [24]
    assert isinstance(second.images, np.memmap)
    source = open_source(path)
    plain = reading.read_split(source, "train", source.class_names)
    for data in (first, second):
        assert (data.images == plain.images).all()
        assert data.file_names == plain.file_names


def test_held_out_images_are_mapped_and_not_copied(official_folder):
    source = open_source(official_folder)
    names = source.class_names
    whole = reading.read_split(source, "train", names)
    parts = reading.read_parts(source, names, validation_split=0.25, cache=True)
    for part, held_out in zip(parts, (False, True), strict=True):
        assert isinstance(part.images, np.memmap)
        expected = whole.part(held_out, 0.25, seed=0)
        assert (part.images == expected.images).all()
        assert (part.labels == expected.labels).all()
        assert part.file_names == expected.file_names


def test_few_decoded_images_wait_for_a_slow_disk():
    decoded = []
    with ThreadPoolExecutor(2) as pool:
        chunks = reading.map_in_order(
            pool, lambda chunk: decoded.append(chunk) or chunk, range(1000)
        )
        assert next(chunks) == 0
        assert len(decoded) <= reading.MAX_WAITING + 1
        assert list(chunks) == list(range(1, 1000))
    assert len(decoded) == 1000


def test_a_zip_is_identified_by_its_content_not_its_path(
    official_zip, tmp_path, count_decoded
):
    read(official_zip)
    read(official_zip.rename(tmp_path / "elsewhere.zip"))
    assert count_decoded == [24]


def test_changed_image_other_classes_and_size_are_decoded(
    official_folder, count_decoded
):
    before = read(official_folder)
    changed = sorted(official_folder.glob("train/*/images/*"))[0]
    Image.fromarray(np.full((64, 64, 3), 77, np.uint8)).save(changed, "JPEG")
    after = read(official_folder)
    read(official_folder, image_size=(32, 32))
    assert count_decoded == [24, 24, 24]
    differ = (before.images != after.images).any(axis=(1, 2, 3))
    assert np.flatnonzero(differ).tolist() == [0]


def test_folders_that_look_alike_do_not_share_pixels(tmp_path, count_decoded):
    """Equal names, sizes and times; one image is dark, the other bright."""
    means = []
    for value in (0, 255):
        for name in ("a", "b"):
            path = tmp_path / str(value) / name / "1.bmp"
            path.parent.mkdir(parents=True)
            Image.new("RGB", (8, 8), (value,) * 3).save(path)
            os.utime(path, (0, 0))
        means.append(read(tmp_path / str(value)).images.mean())
    assert means == [0, 255]


def test_an_image_changed_under_its_old_time_is_decoded(official_folder):
    """As `cp -p` and `rsync -t` do."""
    read(official_folder)
    changed = sorted(official_folder.glob("train/*/images/*"))[0]
    status = changed.stat()
    copy = official_folder / "copy.JPEG"
    Image.new("RGB", (64, 64), (77, 77, 77)).save(copy, "JPEG")
    copy.write_bytes(copy.read_bytes().ljust(status.st_size, b"\0"))
    os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))
    copy.replace(changed)
    assert changed.stat().st_size == status.st_size
    assert (read(official_folder).images[0] == 77).all()


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY", None])
def test_damaged_entry_is_made_again(official_folder, count_decoded, damage):
    expected = np.array(read(official_folder).images)
    (entry,) = cache_folder().iterdir()
    entry.write_bytes(entry.read_bytes()[:-1000] if damage is None else damage)
    assert (read(official_folder).images == expected).all()
    assert (read(official_folder).images == expected).all()
    assert count_decoded == [24, 24]


def test_a_cache_that_cannot_be_written_is_skipped(official_folder, tmp_path):
    (tmp_path / "home").write_text("a file where the folder should be")
    assert read(official_folder).images.shape == (24, 64, 64, 3)


def test_failed_decoding_leaves_no_entry(official_folder):
    bad = sorted(official_folder.glob("train/*/images/*"))[0]
    bad.write_bytes(b"text")
    with pytest.raises(ValueError, match="1 of 24 train images cannot be decoded"):
        read(official_folder)
    assert not any(cache_folder().iterdir())


def test_a_full_disk_is_tolerated(official_folder, monkeypatch):
    """All images are read, and none is cached."""
    expected = np.array(read(official_folder).images)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np.lib.format, "write_array_header_1_0", full)
    (entry,) = cache_folder().iterdir()
    entry.unlink()
    assert (read(official_folder).images == expected).all()
    assert not any(cache_folder().iterdir())


def test_files_of_a_killed_process_are_removed_after_an_hour(official_folder):
    cache_folder().mkdir(parents=True)
    old, new = (cache_folder() / f"entry.npy.part-{name}" for name in ("old", "new"))
    for path, age in ((old, 3700), (new, 60)):
        path.touch()
        os.utime(path, (time.time() - age,) * 2)
    read(official_folder)
    assert new.exists()
    assert not old.exists()


STATUS = Path("/proc/self/status")


def mapped_megabytes():
    lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
    return int(lines["RssFile"].split()[0]) / 1024


@pytest.mark.skipif(not STATUS.exists(), reason="/proc is of Linux")
def test_reading_mapped_images_takes_the_memory_of_a_part(tmp_path, monkeypatch):
    """48 MB of images, of which 2 MB or a batch at a time are in memory."""
    monkeypatch.setattr(cache, "BLOCK_BYTES", 1 << 21)
    images = np.random.default_rng(0).integers(0, 256, (4096, 64, 64, 3), np.uint8)
    labels, names = np.arange(4096) % 2, tuple(map(str, range(4096)))
    np.save(tmp_path / "images.npy", images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    data = LabelledArrays(mapped, labels, ("a", "b"), names)
    before = mapped_megabytes()
    digest = runs.data_digest(data)
    for index in range(len(order := Batches(data, 64, seed=0))):
        order[index]
    assert mapped_megabytes() - before < 4
    assert digest == runs.data_digest(LabelledArrays(images, labels, ("a", "b"), names))
    assert mapped.sum() == images.sum()
    assert mapped_megabytes() - before > 40


@pytest.mark.skipif(not hasattr(mmap, "MADV_WILLNEED"), reason="no such advice")
def test_images_are_read_ahead_from_the_pages_that_hold_them(tmp_path):
    advice = []

    class Recorder(mmap.mmap):
        def madvise(self, *arguments):
            advice.append(arguments)

    path = tmp_path / "images.npy"
    np.save(path, np.zeros((5, 64, 64, 3), np.uint8))  # after a header of 128 bytes
    with path.open("rb") as file:
        memory = Recorder(file.fileno(), 0, access=mmap.ACCESS_READ)
    images = np.ndarray((5, 64, 64, 3), np.uint8, memory, offset=128)
    cache.read_ahead(images, np.array([4, 0]))
    # Image 4 is at 128 + 4 * 12,288 = 49,280 = 12 pages of 4,096 and 128 bytes.
    page = mmap.PAGESIZE
    assert advice == [
        (mmap.MADV_WILLNEED, offset // page * page, offset % page + 12_288)
        for offset in (49_280, 128)
    ]
    cache.read_ahead(np.zeros((5, 64, 64, 3), np.uint8), np.array([4]))
    assert len(advice) == 2


def test_processes_that_start_together_decode_once(official_folder):
    """The second one waits for the entry, as the processes of one training do."""
    code = (
        "import sys, time\n"
        "from keras_tinyalex.datasets import cache\n"
        "from keras_tinyalex.datasets.layout import open_source\n"
        "import numpy as np\n"
        "source = open_source(sys.argv[1])\n"
        "def decode():\n"
        "    print('decoding', flush=True)\n"
        "    time.sleep(2)\n"
        "    yield np.ones((24, 2, 2, 3), np.uint8)\n"
        "images = source.images['train']\n"
        "print(cache.load_or_decode(source, images, (2, 2, 3), decode).sum())\n"
    )
    command = [sys.executable, "-c", code, str(official_folder)]
    started = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    outputs = [process.communicate(timeout=120)[0].split() for process in started]
    assert sorted(outputs) == [["288"], ["decoding", "288"]]
    assert not list(cache.cache_folder().glob("*.lock"))
