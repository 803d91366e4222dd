"""Downloads from a local server that may stall, break off or lie."""

import json
import re
import threading
import urllib.parse

import pytest
from download_helpers import ARCHIVE, DIGEST, Server, finals, parts

from keras_tinyalex.datasets import download as download_module
from keras_tinyalex.datasets.download import download

pytestmark = pytest.mark.usefixtures("fast_and_direct")


def test_downloads_once_and_extracts(tmp_path):
    cache = tmp_path / "new" / "cache"
    with Server() as server:
        folder = download(cache, server.url, DIGEST)
        assert folder == cache / "tiny-imagenet-200"
        assert (folder / "wnids.txt").read_bytes() == b"n01443537\n"
        image = folder / "train/n01443537/images/a.JPEG"
        assert image.read_bytes() == b"a" * 5000
        assert (cache / "tiny-imagenet-200.zip").read_bytes() == ARCHIVE
        assert parts(cache) == []
        assert download(cache, server.url, DIGEST.upper()) == folder
        assert server.requests == [None]
        # A file is missing: extracted again from the archive, no request.
        image.unlink()
        download(cache, server.url, DIGEST)
        assert image.read_bytes() == b"a" * 5000
        assert server.requests == [None]
    assert {path.name for path in cache.iterdir()} == {
        "tiny-imagenet-200",
        "tiny-imagenet-200.zip",
        "tiny-imagenet-200.lock",
    }


def test_a_damaged_archive_is_downloaded_again(tmp_path):
    (tmp_path / "tiny-imagenet-200.zip").write_bytes(ARCHIVE[:-1])
    with Server() as server:
        download(tmp_path, server.url, DIGEST)
        assert server.requests == [None]
    assert (tmp_path / "tiny-imagenet-200.zip").read_bytes() == ARCHIVE


def test_keras_home_is_the_default_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    with Server() as server:
        folder = download(url=server.url, sha256=DIGEST)
    assert folder == tmp_path / "datasets" / "tiny-imagenet-200"


def test_a_cut_connection_is_resumed(tmp_path):
    with Server(plan=[1000, 500, "good"]) as server:
        download(tmp_path, server.url, DIGEST)
        assert server.requests == [None, "bytes=1000-", "bytes=1500-"]


def test_a_server_that_ignores_ranges_is_read_from_the_start(tmp_path):
    with Server(plan=[1000, "good"], ranges=False) as server:
        download(tmp_path, server.url, DIGEST)
        assert server.requests == [None, "bytes=1000-"]


def test_a_busy_server_is_asked_again(tmp_path):
    with Server(plan=[503, 503, "good"]) as server:
        download(tmp_path, server.url, DIGEST)
        assert len(server.requests) == 3


def test_a_part_longer_than_the_file_is_started_again(tmp_path):
    with Server() as server:
        part = tmp_path / f"tiny-imagenet-200.zip.{DIGEST[:12]}.part"
        part.write_bytes(b"x" * (len(ARCHIVE) + 1))
        download(tmp_path, server.url, DIGEST)
        assert server.requests == [f"bytes={len(ARCHIVE) + 1}-", None]


def test_a_short_body_is_refused_and_its_bytes_are_kept(tmp_path):
    with Server(plan=[100, 0]) as server:
        text = (
            f"Cannot download {re.escape(server.url)}: {len(ARCHIVE):,} bytes were "
            r"expected, but only 100 were received \(4 attempts\)"
            ".* 100 bytes are kept"
        )
        with pytest.raises(OSError, match=text):
            download(tmp_path, server.url, DIGEST)
        assert len(server.requests) == 4
    assert finals(tmp_path) == set()
    assert parts(tmp_path)[0].read_bytes() == ARCHIVE[:100]


@pytest.mark.parametrize(
    ("step", "text"),
    [
        ("html", "the response must be a zip file with status 200, .*type 'text/html'"),
        (404, "the server answered 404 Not Found instead of 200 OK"),
    ],
)
def test_a_wrong_response_is_refused_at_once(tmp_path, step, text):
    with Server(plan=[step]) as server:
        with pytest.raises(OSError, match=f"{re.escape(server.url)}: {text}"):
            download(tmp_path, server.url, DIGEST)
        assert len(server.requests) == 1
    assert finals(tmp_path) == set()
    assert parts(tmp_path) == []


def test_a_wrong_digest_is_refused_and_nothing_is_kept(tmp_path):
    with Server() as server:
        text = f"{re.escape(server.url)} .* must be {'0' * 64}, but is {DIGEST} "
        with pytest.raises(OSError, match=text):
            download(tmp_path, server.url, "0" * 64)
    assert finals(tmp_path) == set()
    assert parts(tmp_path) == []


def test_a_stalled_server_ends_in_a_timeout(tmp_path, monkeypatch):
    monkeypatch.setattr(download_module, "TIMEOUT", 0.1)
    monkeypatch.setattr(download_module, "ATTEMPTS", 1)
    release = threading.Event()
    with Server() as server:
        server.answer = lambda handler, step: release.wait(10)
        with pytest.raises(OSError, match=r"timed out \(1 attempts\)"):
            download(tmp_path, server.url, DIGEST)
        release.set()
    assert finals(tmp_path) == set()


def test_a_killed_process_leaves_no_final_name(tmp_path, monkeypatch):
    class KillError(BaseException):
        pass

    def write_some(response, file, start, total):
        file.write(response.read1(1000))
        file.flush()
        raise KillError

    with Server() as server:
        with monkeypatch.context() as patch:
            patch.setattr(download_module, "_copy", write_some)
            with pytest.raises(KillError):
                download(tmp_path, server.url, DIGEST)
        assert finals(tmp_path) == set()
        kept = parts(tmp_path)[0].stat().st_size
        assert 0 < kept <= 1000
        download(tmp_path, server.url, DIGEST)
        assert server.requests == [None, f"bytes={kept}-"]

        # Killed while the images are extracted.
        (tmp_path / "tiny-imagenet-200/wnids.txt").unlink()
        with monkeypatch.context() as patch:

            def kill(*arguments, **options):
                raise KillError

            patch.setattr(download_module.json, "dumps", kill)
            patch.setattr(download_module.shutil, "rmtree", lambda *a, **k: None)
            with pytest.raises(KillError):
                download(tmp_path, server.url, DIGEST)
        assert (tmp_path / "tiny-imagenet-200.extracting").exists()
        folder = download(tmp_path, server.url, DIGEST)
        assert (folder / "wnids.txt").exists()
        assert not (tmp_path / "tiny-imagenet-200.extracting").exists()
        assert len(server.requests) == 2


def test_callers_at_the_same_time_share_one_download(tmp_path):
    with Server() as server:
        threads = [
            threading.Thread(target=download, args=(tmp_path, server.url, DIGEST))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert server.requests == [None]
    assert finals(tmp_path) == {"tiny-imagenet-200", "tiny-imagenet-200.zip"}


def test_without_a_digest_the_server_is_trusted(tmp_path):
    with Server(plan=[1000, "good"]) as server:
        download(tmp_path, server.url, None)
        # No Range: nothing would show whether the two parts fit together.
        assert server.requests == [None, None]
        download(tmp_path, server.url, None)
        assert len(server.requests) == 2
    with (
        Server(body=b"not a zip file at all") as server,
        pytest.raises(OSError, match=r"not a complete zip file"),
    ):
        download(tmp_path / "other", server.url, None)
    assert finals(tmp_path / "other") == set()


@pytest.mark.parametrize(
    "url",
    ["ftp://host/a.zip", "file:///etc/passwd", "https://", "http://example.com/a", ""],
)
def test_a_url_that_is_not_safe_is_refused(tmp_path, url):
    text = f"`url` must be an https address .* Received: url={re.escape(repr(url))}"
    with pytest.raises(ValueError, match=text):
        download(tmp_path, url, None)


@pytest.mark.parametrize("sha256", ["", "abc", "g" * 64, "0" * 63])
def test_a_wrong_digest_argument_is_refused(tmp_path, sha256):
    with pytest.raises(ValueError, match=f"64 hexadecimal digits.*{sha256!r}"):
        download(tmp_path, sha256=sha256)


def test_another_folder_of_that_name_is_not_touched(tmp_path):
    folder = tmp_path / "tiny-imagenet-200"
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    with Server() as server:
        with pytest.raises(ValueError, match="exists already but was not made by"):
            download(tmp_path, server.url, DIGEST)
        marker = {"url": "https://else", "sha256": "1" * 64, "files": 1}
        (folder / ".keras_tinyalex.json").write_text(json.dumps(marker))
        with pytest.raises(ValueError, match="exists already but is from https://else"):
            download(tmp_path, server.url, DIGEST)
        assert server.requests == []
    assert (folder / "mine.txt").read_text() == "mine"


def test_the_official_archive_is_the_default():
    assert urllib.parse.urlsplit(download_module.TINY_IMAGENET_URL).scheme == "https"
    assert len(download_module.TINY_IMAGENET_SHA256) == 64
