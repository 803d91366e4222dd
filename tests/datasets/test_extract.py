"""Extraction: archives that are not safe, and full disks."""

import hashlib
import io
import stat
import zipfile

import pytest
from download_helpers import DIGEST, Server, finals, make_zip

from keras_tinyalex.datasets import extract as extract_module
from keras_tinyalex.datasets.download import download

pytestmark = pytest.mark.usefixtures("fast_and_direct")


def test_a_full_disk_is_reported_before_anything_is_written(tmp_path, monkeypatch):
    class Usage:
        free = 1000

    monkeypatch.setattr(extract_module.shutil, "disk_usage", lambda path: Usage)
    with (
        Server() as server,
        pytest.raises(OSError, match=r"too full for the archive.* 0 MB are free"),
    ):
        download(tmp_path, server.url, DIGEST)
    assert list(tmp_path.glob("*.part")) == []
    # Space for the archive, but not for the blocks of its files: wnids.txt takes
    # one of 4,096 bytes and a.JPEG two.
    Usage.free = 3 * 4096 - 1
    with Server() as server:
        with pytest.raises(OSError, match="too full for the extracted images"):
            download(tmp_path, server.url, DIGEST)
        assert finals(tmp_path) == {"tiny-imagenet-200.zip"}
        Usage.free += 1
        download(tmp_path, server.url, DIGEST)
        assert len(server.requests) == 1


def info(name, mode=0o644, kind=stat.S_IFREG):
    member = zipfile.ZipInfo(name)
    member.external_attr = (kind | mode) << 16
    return member


GOOD = ("tiny-imagenet-200/a.txt", b"good")


@pytest.mark.parametrize(
    ("member", "text"),
    [
        (("tiny-imagenet-200/../../b", b""), "is not a plain relative path"),
        (("../b", b""), "is not a plain relative path"),
        (("/b", b""), "is not a plain relative path"),
        (("tiny-imagenet-200//b", b""), "is not a plain relative path"),
        (("tiny-imagenet-200/c:b", b""), "is not a plain relative path"),
        (("tiny-imagenet-200/..\\b", b""), "is not a plain relative path"),
        (("other/b", b""), "is not in the folder tiny-imagenet-200/"),
        ((info("tiny-imagenet-200/b", kind=stat.S_IFLNK), b"/etc"), "is a link"),
        ((info("tiny-imagenet-200/b", kind=stat.S_IFIFO), b""), "is a link or special"),
        (("tiny-imagenet-200/a.txt/b", b""), "is inside another file"),
        (("tiny-imagenet-200/a.txt/", b""), "appears twice"),
    ],
)
def test_an_archive_that_is_not_safe_is_not_extracted(tmp_path, member, text):
    body = make_zip([GOOD, member])
    cache = tmp_path / "deep" / "cache"
    with (
        Server(body) as server,
        pytest.raises(ValueError, match=f"is not safe to extract: .*{text}"),
    ):
        download(cache, server.url, hashlib.sha256(body).hexdigest())
    assert finals(cache) == {"tiny-imagenet-200.zip"}
    assert {path.name for path in tmp_path.rglob("*")} == {
        "deep",
        "cache",
        "tiny-imagenet-200.zip",
        "tiny-imagenet-200.lock",
    }


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_duplicate_members_are_refused(tmp_path):
    body = make_zip([GOOD, GOOD])
    with (
        Server(body) as server,
        pytest.raises(ValueError, match=r"a.txt' appears twice"),
    ):
        download(tmp_path, server.url, None)


def test_overlapping_members_are_refused(tmp_path):
    # Two directory entries that point to the same 5,000 bytes, as in a zip bomb.
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("tiny-imagenet-200/a", b"a" * 5000)
        archive.writestr("tiny-imagenet-200/b", b"b" * 5000)
        first, second = archive.infolist()
        second.header_offset = first.header_offset
    with (
        Server(file.getvalue()) as server,
        pytest.raises(ValueError, match="overlaps the next"),
    ):
        download(tmp_path, server.url, None)


def test_an_archive_that_is_too_large_is_refused(tmp_path, monkeypatch):
    # wnids.txt has 10 bytes, a.JPEG 5,000.
    monkeypatch.setattr(extract_module, "MAX_EXTRACTED", 5009)
    with Server() as server:
        with pytest.raises(ValueError, match="take 5,010 bytes, more than 5,009"):
            download(tmp_path, server.url, DIGEST)
        monkeypatch.setattr(extract_module, "MAX_EXTRACTED", 5010)
        download(tmp_path, server.url, DIGEST)
