"""Helpers of the tests of `download`: an archive, a server, the files of the cache."""

import hashlib
import http.server
import io
import re
import threading
import zipfile


def make_zip(members=None):
    """Returns the bytes of a zip; `members` is a list of (name or ZipInfo, content)."""
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
    """Serves `body` on a free port, as `plan` says: one item per request.

    An item is "good", "html", a status code, or the number of bytes after
    which the connection is cut. The last item applies to all later requests.
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
    """Returns the final names in the cache, without lock and `.part` files."""
    names = {path.name for path in cache.iterdir()} if cache.exists() else set()
    return names & {"tiny-imagenet-200", "tiny-imagenet-200.zip"}


def parts(cache):
    return list(cache.glob("*.part"))
