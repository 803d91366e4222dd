"""Downloads, verifies and extracts the official Tiny ImageNet archive."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import json
import os
import shutil
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from http.client import HTTPResponse
from pathlib import Path
from typing import BinaryIO

from keras_tinyalex.aliases import PathLike
from keras_tinyalex.datasets.extract import FOLDER, MARKER, check_free_space, extract
from keras_tinyalex.files import keras_home, sha256_of
from keras_tinyalex.progress import Progress

TINY_IMAGENET_URL = "https://cs231n.stanford.edu/tiny-imagenet-200.zip"
TINY_IMAGENET_SHA256 = (
    "6198c8ae015e2b3e007c7841da39ec069199b9aa3bfa943a462022fe5e43c821"
)

ATTEMPTS = 4
TIMEOUT = 30.0  # seconds without a byte
RETRY_PAUSE = 1.0  # seconds, doubled after each attempt
CHUNK = 1 << 20  # bytes


class _TemporaryError(Exception):
    """A failed attempt that is worth another one."""


def download(
    cache_dir: PathLike | None = None,
    url: str = TINY_IMAGENET_URL,
    sha256: str | None = TINY_IMAGENET_SHA256,
) -> Path:
    """Downloads and extracts Tiny ImageNet (248 MB; 200 classes).

    You can call it in every run: if the data are there, it returns their
    folder and uses no network. A process that was killed leaves nothing
    incomplete under the final names, and the next one resumes the download.
    Processes that call it at the same time share one download.

    Args:
        cache_dir: Folder for the archive `tiny-imagenet-200.zip` and the
            folder `tiny-imagenet-200/`. Defaults to `None`: `datasets` in
            `KERAS_HOME`, or in `~/.keras` if this variable is not set.
        url: Address of the archive: `https`, or `http` if the file comes
            from this machine or `sha256` is given.
        sha256: SHA-256 of the archive as 64 hexadecimal digits, or `None` to
            trust the server. Defaults to that of the official archive.

    Returns:
        The path of the extracted folder `tiny-imagenet-200/`.

    Raises:
        ValueError: If an argument is wrong, or the archive is not safe to
            extract (paths that leave the folder, links, duplicate or
            overlapping members, a wrong count of them, more than 4 GiB or
            100 times the archive).
        OSError: If the download fails (after 4 attempts), the file is not
            the expected one, or the disk is too full. The message names the
            URL or the disk.

    Examples:
        ```python
        folder = keras_tinyalex.datasets.tiny_imagenet.download()
        (x_train, y_train), (x_val, y_val) = (
            keras_tinyalex.datasets.tiny_imagenet.load_data(folder, classes=20)
        )
        ```
    """
    sha256 = _check_arguments(url, sha256)
    cache = keras_home() / "datasets"
    if cache_dir is not None:
        cache = Path(cache_dir).expanduser()
    folder, staging = cache / FOLDER, cache / f"{FOLDER}.extracting"
    if _is_complete(folder, url, sha256) and not staging.exists():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    from filelock import FileLock

    with FileLock(cache / f"{FOLDER}.lock"), _full_disk_named(cache):
        # Another process may have done the work while this one waited.
        if not _is_complete(folder, url, sha256):
            archive = cache / f"{FOLDER}.zip"
            if sha256 is None or not archive.is_file() or sha256_of(archive) != sha256:
                _fetch(url, sha256, archive)
            extract(archive, folder, staging, {"url": url, "sha256": sha256})
        shutil.rmtree(staging, ignore_errors=True)  # left by a killed process
    return folder


def _check_arguments(url: str, sha256: str | None) -> str | None:
    if sha256 is not None:
        sha256 = str(sha256).lower()
        if len(sha256) != 64 or set(sha256) - set("0123456789abcdef"):
            raise ValueError(
                "`sha256` must be None or 64 hexadecimal digits. "
                f"Received: sha256={sha256!r}"
            )
    if not _is_allowed(url, verified=sha256 is not None):
        raise ValueError(
            "`url` must be an https address (http only from this machine or with "
            f"`sha256`). Received: url={url!r}"
        )
    return sha256


def _is_allowed(url: str, verified: bool) -> bool:
    parts = urllib.parse.urlsplit(url)
    loopback = parts.hostname in ("localhost", "127.0.0.1", "::1")
    if not parts.hostname:
        return False
    return parts.scheme == "https" or (
        parts.scheme == "http" and (loopback or verified)
    )


def _is_complete(folder: Path, url: str, sha256: str | None) -> bool:
    """Returns whether `folder` is a complete result for the same archive.

    Raises:
        ValueError: If it is something else.
    """
    try:
        marker = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        if not folder.exists():
            return False
        marker = {}
    except ValueError:
        marker = {}
    same = marker.get("sha256") == sha256 if sha256 else marker.get("url") == url
    if not marker or not same:
        origin = f"is from {marker['url']}" if marker else "was not made by `download`"
        raise ValueError(
            f"{folder} exists already but {origin}. Use that folder as the source of "
            "the data, remove it, or pass another `cache_dir`."
        )
    files = sum(len(names) for _, _, names in os.walk(folder)) - 1
    return bool(files >= marker["files"])


def _fetch(url: str, sha256: str | None, archive: Path) -> None:
    """Downloads `url` to a `.part` file, checks it and renames it to `archive`."""
    # The name depends on the expected content, and the lock makes this process
    # its only writer, so the bytes of a killed process can be used.
    key = sha256 or hashlib.sha256(url.encode()).hexdigest()
    part = archive.with_name(f"{archive.name}.{key[:12]}.part")
    if sha256 is None:
        # Without a digest nothing shows whether it is the start of the same file.
        part.unlink(missing_ok=True)
    for attempt in range(ATTEMPTS):
        try:
            _fetch_part(url, part, verified=sha256 is not None)
            break
        except _TemporaryError as error:
            if attempt == ATTEMPTS - 1:
                kept = _size(part) if sha256 else 0
                raise OSError(
                    f"Cannot download {url}: {error} ({ATTEMPTS} attempts). Check "
                    f"the connection and try again; {kept:,} bytes are kept in "
                    f"{part.parent} and will not be downloaded again."
                ) from error.__cause__
            time.sleep(RETRY_PAUSE * 2**attempt)
    received = sha256_of(part)
    if sha256 is not None and received != sha256:
        size = _size(part)
        part.unlink()
        raise OSError(
            f"The file at {url} is not the expected one: its SHA-256 must be "
            f"{sha256}, but is {received} ({size:,} bytes). The file was removed; try "
            "again, or download the archive by other means."
        )
    os.replace(part, archive)


def _fetch_part(url: str, part: Path, verified: bool) -> None:
    """Makes one attempt: appends the missing bytes to `part`, or starts it again.

    Raises:
        _TemporaryError: If another attempt may succeed.
        OSError: If it would fail, too.
    """
    start = _size(part) if verified else 0
    headers = {"Range": f"bytes={start}-"} if start else {}
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            start = _check_response(response, url, start, verified)
            length = response.headers.get("Content-Length", "")
            total = start + int(length) if length.isdecimal() else None
            check_free_space(part.parent, (total or start) - start, "the archive")
            with part.open("r+b" if start else "wb") as file:
                file.seek(start)
                file.truncate()
                _copy(response, file, start, total)
                file.flush()
                os.fsync(file.fileno())
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # the part is longer than the server's file
            part.unlink(missing_ok=True)
        if error.code in (408, 416, 429) or error.code >= 500:
            raise _TemporaryError(
                f"the server answered {error.code} {error.reason}"
            ) from error
        raise OSError(
            f"Cannot download {url}: the server answered {error.code} {error.reason} "
            "instead of 200 OK. Check the address."
        ) from error
    except (urllib.error.URLError, http.client.HTTPException) as error:
        raise _TemporaryError(
            str(getattr(error, "reason", None) or repr(error))
        ) from error
    except (TimeoutError, ConnectionError, ssl.SSLError) as error:
        raise _TemporaryError(str(error) or type(error).__name__) from error


def _check_response(
    response: HTTPResponse, url: str, start: int, verified: bool
) -> int:
    """Returns the byte of the file at which the response's body starts."""
    if not _is_allowed(response.url, verified):
        raise OSError(
            f"Cannot download {url}: it must lead to an https address, but leads to "
            f"{response.url}. Pass `sha256` to allow http."
        )
    kind = response.headers.get_content_type()
    if response.status not in (200, 206) or kind == "text/html":
        raise OSError(
            f"Cannot download {url}: the response must be a zip file with status 200, "
            f"but has status {response.status} and type {kind!r}. If your network has "
            "a login page, sign in first."
        )
    if response.status == 200:
        return 0  # the whole file, even if a range was requested
    content_range = response.headers.get("Content-Range", "")
    if not content_range.startswith(f"bytes {start}-"):
        raise OSError(
            f"Cannot download {url}: the response must have the bytes from {start}, "
            f"but has {content_range or 'an unknown range'}."
        )
    return start


def _copy(
    response: HTTPResponse, file: BinaryIO, start: int, total: int | None
) -> None:
    """Writes the response's body to `file`, which ends at byte `total`."""
    done = start
    million = 1_000_000
    with Progress("downloading", total=(total or 0) // million, unit="MB") as bar:
        bar.advance(done // million)
        while block := response.read1(CHUNK):
            file.write(block)
            bar.advance((done + len(block)) // million - done // million)
            done += len(block)
    if total is not None and done != total:
        file.flush()
        raise _TemporaryError(
            f"{total:,} bytes were expected, but only {done:,} were received"
        )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


@contextlib.contextmanager
def _full_disk_named(folder: Path) -> Iterator[None]:
    """Names the disk if it becomes full after `check_free_space` has passed."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise OSError(
            errno.ENOSPC,
            f"The disk of {folder} became full. Make room and try again (the "
            "downloaded bytes are kept), or pass another `cache_dir`",
        ) from error
