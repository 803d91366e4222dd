"""Downloads from a local server that may stall, cut short or lie."""

import hashlib
import http.server
import io
import json
import re
import stat
import threading
import urllib.parse
import zipfile

import pytest

from keras_tinyalex.datasets import download as download_module

download = download_module.download


@pytest.fixture(autouse=True)
def fast_and_direct(monkeypatch):
    monkeypatch.setattr(download_module, "RETRY_PAUSE", 0.0)
    monkeypatch.setenv("no_proxy", "*")


def make_zip(members=None):
    """Bytes of a zip; members: list of (name or ZipInfo, content)."""
    members = members or [
        ("tiny-imagenet-200/", b""),
        ("tiny-imagenet-200/wnids.txt", b"n01443537\n"),
        ("tiny-imagenet-200/train/n01443537/images/a.JPEG", b"a" * 5000),
    ]
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members:
            archive.writestr(name, content)
    return file.getvalue()


ARCHIVE = make_zip()
DIGEST = hashlib.sha256(ARCHIVE).hexdigest()


class Server:
    """Serves `body` on a free port, `plan` telling how: one item a request.

    An item is "good", "html", a status code, or the number of bytes after
    which the connection is cut; the last item holds for later requests.
    """

    def __init__(self, body=ARCHIVE, plan=("good",), ranges=True):
        self.body, self.plan, self.ranges = body, list(plan), ranges
        self.requests = []

    def __enter__(self):
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                server.requests.append(self.headers.get("Range"))
                step = server.plan.pop(0) if len(server.plan) > 1 else server.plan[0]
                server.answer(self, step)

            def log_message(self, *arguments):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/tiny.zip"
        return self

    def __exit__(self, *exception):
        self.http.shutdown()
        self.http.server_close()

    def answer(self, handler, step):
        start, wanted = 0, handler.headers.get("Range")
        if isinstance(step, int) and step in (404, 416, 503):
            handler.send_error(step)
            return
        if wanted and self.ranges:
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
        if start >= len(self.body):
            handler.send_error(416)
            return
        body = self.body[start:]
        handler.send_response(206 if start else 200)
        if start:
            last = len(self.body) - 1
            header = f"bytes {start}-{last}/{len(self.body)}"
            handler.send_header("Content-Range", header)
        kind = "text/html; charset=utf-8" if step == "html" else "application/zip"
        handler.send_header("Content-Type", kind)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body[:step] if isinstance(step, int) else body)


def finals(cache):
    """The published names in the cache: neither lock nor `.part` files."""
    names = {path.name for path in cache.iterdir()} if cache.exists() else set()
    return names & {"tiny-imagenet-200", "tiny-imagenet-200.zip"}


def parts(cache):
    return list(cache.glob("*.part"))


def test_downloads_extracts_and_does_not_ask_twice(tmp_path):
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


def test_a_damaged_archive_is_fetched_again(tmp_path):
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


def test_a_body_that_stays_short_is_refused_and_its_bytes_kept(tmp_path):
    with Server(plan=[100, 0]) as server:
        text = (
            f"Cannot download {re.escape(server.url)}: {len(ARCHIVE):,} bytes were "
            r"expected, but only 100 came \(4 attempts\).* 100 bytes are kept"
        )
        with pytest.raises(OSError, match=text):
            download(tmp_path, server.url, DIGEST)
        assert len(server.requests) == 4
    assert finals(tmp_path) == set()
    assert parts(tmp_path)[0].read_bytes() == ARCHIVE[:100]


@pytest.mark.parametrize(
    ("step", "text"),
    [
        ("html", "a zip file with status 200 was expected, .*type 'text/html' came"),
        (404, "the server answered 404 Not Found instead of 200 OK"),
    ],
)
def test_a_wrong_answer_is_refused_at_once(tmp_path, step, text):
    with Server(plan=[step]) as server:
        with pytest.raises(OSError, match=f"{re.escape(server.url)}: {text}"):
            download(tmp_path, server.url, DIGEST)
        assert len(server.requests) == 1
    assert finals(tmp_path) == set()
    assert parts(tmp_path) == []


def test_a_wrong_hash_is_refused_and_nothing_kept(tmp_path):
    with Server() as server:
        text = f"{re.escape(server.url)} .* must be {'0' * 64}, but .* {DIGEST} came"
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


def test_killed_in_the_middle_leaves_no_final_name(tmp_path, monkeypatch):
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

            def kill(*arguments):
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
        # Nothing could tell whether the two halves fit: no Range.
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


def test_another_folder_of_that_name_is_left_alone(tmp_path):
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


def test_a_full_disk_is_told_before_anything_is_written(tmp_path, monkeypatch):
    class Usage:
        free = 1000

    monkeypatch.setattr(download_module.shutil, "disk_usage", lambda path: Usage)
    with (
        Server() as server,
        pytest.raises(OSError, match=r"too full for the archive.* 0 MB are free"),
    ):
        download(tmp_path, server.url, DIGEST)
    assert list(tmp_path.glob("*.part")) == []
    # Room for the archive, but not for the blocks of its files:
    # wnids.txt takes one of 4,096 bytes and a.JPEG two.
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
        (("tiny-imagenet-200/a.txt/b", b""), "lies inside another file"),
        (("tiny-imagenet-200/a.txt/", b""), "appears twice"),
    ],
)
def test_an_archive_that_is_not_safe_is_refused_whole(tmp_path, member, text):
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
    # Two entries of the directory that lead to the same 5,000 bytes, as in a
    # zip bomb.
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
    monkeypatch.setattr(download_module, "MAX_EXTRACTED", 5009)
    with Server() as server:
        with pytest.raises(ValueError, match="take 5,010 bytes, more than 5,009"):
            download(tmp_path, server.url, DIGEST)
        monkeypatch.setattr(download_module, "MAX_EXTRACTED", 5010)
        download(tmp_path, server.url, DIGEST)


def test_the_official_archive_is_the_default():
    assert urllib.parse.urlsplit(download_module.TINY_IMAGENET_URL).scheme == "https"
    assert len(download_module.TINY_IMAGENET_SHA256) == 64
