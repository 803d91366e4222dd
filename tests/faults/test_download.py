"""Downloads: 200 kills, servers that lie, 8 processes at once, a full disk."""

import hashlib
import http.server
import io
import os
import random
import re
import signal
import threading
import time
import zipfile

import pytest

from keras_tinyalex.datasets import download as module

pytestmark = pytest.mark.faults

download = module.download
FOLDER = "tiny-imagenet-200"
MEMBERS = 60


def make_archive(seed=0, size=50_000):
    """A zip of 60 files of noise, about 3 MB."""
    noise = random.Random(seed)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for number in range(MEMBERS):
            name = f"{FOLDER}/train/n0144353{number % 3}/images/{number}.JPEG"
            archive.writestr(name, noise.randbytes(size))
    return file.getvalue()


ARCHIVE = make_archive()
DIGEST = hashlib.sha256(ARCHIVE).hexdigest()


@pytest.fixture(autouse=True)
def fast_and_direct(monkeypatch):
    monkeypatch.setattr(module, "RETRY_PAUSE", 0.0)
    monkeypatch.setattr(module, "TIMEOUT", 0.5)
    monkeypatch.setattr(module, "CHUNK", 1 << 16)
    monkeypatch.setenv("no_proxy", "*")


class Server:
    """Serves the archive, unless `lie(handler, start)` answers and returns true."""

    def __init__(self, body=ARCHIVE, lie=None):
        self.body, self.lie = body, lie
        self.sent = []  # bytes of each response

    def __enter__(self):
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
                start = int(wanted[1]) if wanted else 0
                try:
                    if server.lie and server.lie(self, start):
                        return
                    server.answer(self, start)
                except (BrokenPipeError, ConnectionResetError):
                    pass  # the client was killed

            def log_message(self, *arguments):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/tiny.zip"
        return self

    def __exit__(self, *exception):
        self.http.shutdown()
        self.http.server_close()

    def answer(self, handler, start=0, status=None, kind="application/zip", **headers):
        body = self.body[start:]
        self.sent.append(len(body))
        handler.send_response(status or (206 if start else 200))
        fields = {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            **({"Content-Range": self.range(start)} if start else {}),
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        for name, value in fields.items():
            if value is not None:
                handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    def range(self, start):
        return f"bytes {start}-{len(self.body) - 1}/{len(self.body)}"


def tree_digest(folder):
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.JPEG")):
        digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    folder = tmp_path_factory.mktemp("expected")
    with zipfile.ZipFile(io.BytesIO(ARCHIVE)) as archive:
        archive.extractall(folder)
    return tree_digest(folder / FOLDER)


def kill_after(count):
    """Kills this process when `count` more bytes of the body have been received."""
    copy = module._copy

    class Cut:
        def __init__(self, response):
            self.response, self.left = response, count

        def read1(self, size):
            if self.left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)
            block = self.response.read1(min(size, self.left))
            self.left -= len(block)
            return block

    module._copy = lambda response, *rest: copy(Cut(response), *rest)


def test_kills_at_random_bytes(tmp_path, forked, expected, figure):
    chosen = random.Random(0)
    kills = bad = again = maximum = 0
    while kills < 200:
        cache = tmp_path / str(kills)
        with Server() as server:

            def run(count=None, cache=cache, url=server.url):
                if count is not None:
                    kill_after(count)
                download(cache, url, DIGEST)

            kept = 0
            while kills < 200 and kept < len(ARCHIVE) - 2:
                count = chosen.randrange(1, len(ARCHIVE) - kept)
                status = forked(lambda run=run, count=count: run(count))
                assert status == -signal.SIGKILL
                kills += 1
                names = {path.name for path in cache.iterdir()}
                bad += f"{FOLDER}.zip" in names or FOLDER in names
                (part,) = cache.glob("*.part")
                received, kept = kept + count, part.stat().st_size
                again += received - kept
                maximum = max(maximum, received - kept)
            assert forked(run) == 0
            # The last response started at the first missing byte.
            assert server.sent[-1] == len(ARCHIVE) - kept
        assert tree_digest(cache / FOLDER) == expected
    assert bad == 0
    assert maximum <= module.CHUNK
    figure(
        "download",
        "SIGKILL at a random byte",
        f"{kills} of {kills} kills survived, {bad} bad finals, 0 bytes lost, at most "
        f"{maximum:,} bytes per kill downloaded again",
    )


@pytest.mark.parametrize("torn", [False, True])
def test_kills_at_every_change(tmp_path, kill_at_every_change, expected, figure, torn):
    with Server() as server:

        def check(cache, finished):
            folder, archive = cache / FOLDER, cache / f"{FOLDER}.zip"
            if folder.exists():
                assert tree_digest(folder) == expected
            if archive.exists():
                assert hashlib.sha256(archive.read_bytes()).hexdigest() == DIGEST
            if finished:
                assert {path.name for path in cache.iterdir()} == {
                    FOLDER,
                    f"{FOLDER}.zip",
                    f"{FOLDER}.lock",
                }

        kills = kill_at_every_change(
            tmp_path,
            lambda cache: None,
            lambda cache: download(cache, server.url, DIGEST),
            check,
            torn=torn,
        )
    assert kills > MEMBERS
    figure(
        "extract",
        f"SIGKILL at every change of a file{', half written' * torn}",
        f"{kills} of {kills} kills survived, 0 half trees",
    )


def lies():
    """Returns all ways in which the server lies, by name."""
    html = b"<html>please sign in</html>"

    def page(server, handler, start):
        server.body = html
        server.answer(handler, kind="text/html")

    def page_as_zip(server, handler, start):
        server.body = html
        server.answer(handler)

    def other_archive(server, handler, start):
        server.body = make_archive(seed=1)
        server.answer(handler, start)

    def one_bit(server, handler, start):
        body = bytearray(ARCHIVE)
        body[len(body) // 2] ^= 1
        server.body = bytes(body)
        server.answer(handler, start)

    def cut(server, handler, start):
        server.answer(handler, start, Content_Length=str(len(ARCHIVE) - start + 999))

    def stalled(server, handler, start):
        time.sleep(1.0)
        return True

    def stalled_body(server, handler, start):
        server.body = ARCHIVE[: start + 1000]
        server.answer(handler, start, Content_Length=str(len(ARCHIVE) - start))
        server.body = ARCHIVE
        time.sleep(1.0)

    def too_long(server, handler, start):
        server.body = ARCHIVE + b"and more"
        server.answer(handler, start)

    def wrong_range(server, handler, start):
        server.answer(handler, 0, status=206, Content_Range="bytes 7-9/10")

    def no_range(server, handler, start):
        server.answer(handler, 0, status=206)

    def status(code):
        return lambda server, handler, start: handler.send_error(code)

    def redirect(target):
        def answer(server, handler, start):
            handler.send_response(302)
            handler.send_header("Location", target)
            handler.end_headers()

        return answer

    def not_http(server, handler, start):
        handler.wfile.write(b"SSH-2.0-OpenSSH\r\n")

    def length_is_not_a_number(server, handler, start):
        server.body = ARCHIVE[:-100]
        server.answer(handler, Content_Length="many")
        handler.close_connection = True

    return {
        "an HTML page with status 200": page,
        "an HTML page called a zip": page_as_zip,
        "another archive": other_archive,
        "one flipped bit": one_bit,
        "a body cut short": cut,
        "no answer": stalled,
        "a body that stalls": stalled_body,
        "a body too long": too_long,
        "a range not asked for": wrong_range,
        "206 without a range": no_range,
        "404": status(404),
        "416": status(416),
        "500": status(500),
        "a redirect to a local file": redirect("file:///etc/hostname"),
        "a redirect to itself": redirect("/tiny.zip"),
        "not HTTP": not_http,
        "a length that is not a number": length_is_not_a_number,
    }


def test_servers_that_lie(tmp_path, expected, figure):
    for name, lie in lies().items():
        cache = tmp_path / name.replace(" ", "-")

        def answer(handler, start, lie=lie):
            lie(server, handler, start)
            return True

        with Server(lie=answer) as server:
            with pytest.raises(OSError, match=re.escape(server.url)):
                download(cache, server.url, DIGEST)
            left = {path.suffix for path in cache.iterdir()}
            assert left <= {".lock", ".part"}, (name, left)
            # The cache is not poisoned: an honest server then serves the right data.
            server.lie, server.body = None, ARCHIVE
            download(cache, server.url, DIGEST)
        assert tree_digest(cache / FOLDER) == expected, name
    count = len(lies())
    figure(
        "download", "lying servers", f"{count} of {count} refused, 0 poisoned caches"
    )


def test_ignored_range_starts_again(tmp_path, forked, expected, figure):
    ignored = []

    def ignore(handler, start):
        ignored.append(start)
        server.answer(handler, 0)
        return True

    with Server(lie=ignore) as server:

        def killed():
            kill_after(1_000_000)
            download(tmp_path, server.url, DIGEST)

        assert forked(killed) == -signal.SIGKILL
        download(tmp_path, server.url, DIGEST)
    assert ignored[1] > 0
    assert tree_digest(tmp_path / FOLDER) == expected
    figure(
        "download", "Range ignored by the server", "started again from byte 0, right"
    )


def test_eight_processes_at_once(tmp_path, forked, expected, figure):
    with Server() as server:
        threads = [
            threading.Thread(
                target=lambda: statuses.append(
                    forked(lambda: download(tmp_path, server.url, DIGEST))
                )
            )
            for _ in range(8)
        ]
        statuses = []
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert statuses == [0] * 8
        assert server.sent == [len(ARCHIVE)]
    assert tree_digest(tmp_path / FOLDER) == expected
    figure("download", "8 processes at once", "8 of 8 succeed, 1 download, 1 tree")


def test_a_full_disk(disk, expected, figure):
    # 3.0 MB of archive and 3.2 MB of blocks: neither fits, then both.
    cache = disk(8_000)
    filler = cache / "filler"
    with Server() as server:
        for kilobytes, refusal in ((6_000, "the archive"), (4_000, "the extracted")):
            filler.write_bytes(b"x" * kilobytes * 1024)
            with pytest.raises(OSError, match=f"too full for {refusal}"):
                download(cache, server.url, DIGEST)
            assert not (cache / FOLDER).exists()
        filler.unlink()
        download(cache, server.url, DIGEST)
        assert server.sent == [len(ARCHIVE)] * 2  # the first was not read
    assert tree_digest(cache / FOLDER) == expected
    figure("extract", "disk full", "2 of 2 refused before a write; then resumed")


def test_a_disk_that_becomes_full(disk, expected, figure):
    """Without a Content-Length, the size is not known in advance."""

    def without_length(handler, start):
        handler.close_connection = True
        server.answer(handler, start, Content_Length=None)
        return True

    cache = disk(8_000)
    filler = cache / "filler"
    with Server(lie=without_length) as server:
        filler.write_bytes(b"x" * 6_000 * 1024)
        with pytest.raises(OSError, match=r"disk of .* became full. Make room"):
            download(cache, server.url, DIGEST)
        (part,) = cache.glob("*.part")
        kept = part.stat().st_size
        assert kept > 1_000_000
        filler.unlink()
        download(cache, server.url, DIGEST)
        assert server.sent[-1] == len(ARCHIVE) - kept
    assert tree_digest(cache / FOLDER) == expected
    figure(
        "download",
        "disk full in the middle",
        f"{kept:,} bytes kept, then resumed",
    )
