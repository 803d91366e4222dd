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
import stat
import struct
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from keras_tinyalex.progress import Progress

TINY_IMAGENET_URL = "https://cs231n.stanford.edu/tiny-imagenet-200.zip"
TINY_IMAGENET_SHA256 = (
    "6198c8ae015e2b3e007c7841da39ec069199b9aa3bfa943a462022fe5e43c821"
)

FOLDER = "tiny-imagenet-200"
# Written into the folder last; hidden, so that nothing takes it for data.
MARKER = ".keras_tinyalex.json"
ATTEMPTS = 4
TIMEOUT = 30.0  # seconds without a byte
RETRY_PAUSE = 1.0  # seconds, doubled after each attempt
CHUNK = 1 << 20
MAX_EXTRACTED = 4 << 30  # bytes; the official archive has 0.25 GB
MAX_RATIO = 100  # of extracted bytes to the archive's; images hardly shrink
DISK_BLOCK = 4096  # a small file takes at least this


class _ConnectionProblemError(Exception):
    """The connection failed in a way that another attempt may mend."""


def download(
    cache_dir: str | os.PathLike[str] | None = None,
    url: str = TINY_IMAGENET_URL,
    sha256: str | None = TINY_IMAGENET_SHA256,
) -> Path:
    """Downloads and extracts Tiny ImageNet (248 MB; 200 classes).

    The archive is written to a `.part` file, checked, and only then renamed;
    it is extracted to a temporary folder which is renamed too. So a killed
    run leaves nothing half done under the final names, and the next one
    takes up the `.part` file where it ended. Processes which call this at
    the same time wait for each other, and one of them does the work. A later
    call returns the folder and uses no network.

    Args:
        cache_dir: Folder for the archive `tiny-imagenet-200.zip` and the
            folder `tiny-imagenet-200/`. Defaults to `datasets` in
            `KERAS_HOME`, or in `~/.keras` where this variable is not set.
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
        OSError: If the download fails (after a few attempts), is not what
            was expected, or the disk is too full. The message names the URL.

    Examples:
        ```python
        folder = keras_tinyalex.datasets.tiny_imagenet.download()
        (x_train, y_train), (x_val, y_val) = (
            keras_tinyalex.datasets.tiny_imagenet.load_data(folder, classes=20)
        )
        ```
    """
    sha256 = _check_arguments(url, sha256)
    cache = _cache_folder(cache_dir)
    folder, staging = cache / FOLDER, cache / f"{FOLDER}.extracting"
    if _is_complete(folder, url, sha256) and not staging.exists():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    from filelock import FileLock

    with FileLock(cache / f"{FOLDER}.lock"), _full_disk_told(cache):
        # Another process may have done the work while this one waited.
        if not _is_complete(folder, url, sha256):
            archive = cache / f"{FOLDER}.zip"
            if sha256 is None or not archive.is_file() or _digest(archive) != sha256:
                _fetch(url, sha256, archive)
            _extract(archive, folder, staging, {"url": url, "sha256": sha256})
        shutil.rmtree(staging, ignore_errors=True)  # left by a killed run
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


def _cache_folder(cache_dir: str | os.PathLike[str] | None) -> Path:
    if cache_dir is not None:
        return Path(cache_dir).expanduser()
    home = os.environ.get("KERAS_HOME") or Path("~") / ".keras"
    return Path(home).expanduser() / "datasets"


def _is_complete(folder: Path, url: str, sha256: str | None) -> bool:
    """Whether `folder` is an earlier result for the same archive."""
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
            "the data, or remove it, or pass another `cache_dir`."
        )
    files = sum(len(names) for _, _, names in os.walk(folder)) - 1
    return bool(files >= marker["files"])


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---------------------------------------------------------------- fetching


def _fetch(url: str, sha256: str | None, archive: Path) -> None:
    """Downloads `url` to `archive`, which exists complete or not at all."""
    # The name is bound to the expected content, and the lock makes this
    # process its only writer, so bytes of a killed run can be taken up.
    key = sha256 or hashlib.sha256(url.encode()).hexdigest()
    part = archive.with_name(f"{archive.name}.{key[:12]}.part")
    if sha256 is None:
        part.unlink(missing_ok=True)  # nothing could tell an old part from a new one
    for attempt in range(ATTEMPTS):
        try:
            _fetch_part(url, part, verified=sha256 is not None)
            break
        except _ConnectionProblemError as problem:
            if attempt == ATTEMPTS - 1:
                kept = _size(part) if sha256 else 0
                raise OSError(
                    f"Cannot download {url}: {problem} ({ATTEMPTS} attempts). Check "
                    f"the connection and try again; {kept:,} bytes are kept in "
                    f"{part.parent} and will not be fetched again."
                ) from problem.__cause__
            time.sleep(RETRY_PAUSE * 2**attempt)
    received = _digest(part)
    if sha256 is not None and received != sha256:
        size = _size(part)
        part.unlink()
        raise OSError(
            f"The file at {url} is not the expected one: its SHA-256 must be "
            f"{sha256}, but {size:,} bytes with SHA-256 {received} came. Nothing was "
            "kept; try again, or download the archive by other means."
        )
    os.replace(part, archive)


def _fetch_part(url: str, part: Path, verified: bool) -> None:
    """One attempt: appends what is missing to `part`, or starts it again."""
    start = _size(part) if verified else 0
    headers = {"Range": f"bytes={start}-"} if start else {}
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            start = _check_response(response, url, start, verified)
            length = response.headers.get("Content-Length", "")
            total = start + int(length) if length.isdecimal() else None
            _require_space(part.parent, (total or start) - start, "the archive")
            with part.open("r+b" if start else "wb") as file:
                file.seek(start)
                file.truncate()
                _copy(response, file, start, total)
                file.flush()
                os.fsync(file.fileno())
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # the part is no beginning of the server's file
            part.unlink(missing_ok=True)
        if error.code in (408, 416, 429) or error.code >= 500:
            raise _ConnectionProblemError(
                f"the server answered {error.code} {error.reason}"
            ) from error
        raise OSError(
            f"Cannot download {url}: the server answered {error.code} {error.reason} "
            "instead of 200 OK. Check the address."
        ) from error
    except (urllib.error.URLError, http.client.HTTPException) as error:
        raise _ConnectionProblemError(
            str(getattr(error, "reason", None) or repr(error))
        ) from error
    except (TimeoutError, ConnectionError, ssl.SSLError) as error:
        raise _ConnectionProblemError(str(error) or type(error).__name__) from error


def _check_response(response: Any, url: str, start: int, verified: bool) -> int:
    """Returns the byte at which the response's body starts."""
    if not _is_allowed(response.url, verified):
        raise OSError(
            f"Cannot download {url}: https was expected, but it leads to "
            f"{response.url}. Pass `sha256` to allow http."
        )
    kind = response.headers.get_content_type()
    if response.status not in (200, 206) or kind == "text/html":
        raise OSError(
            f"Cannot download {url}: a zip file with status 200 was expected, but "
            f"status {response.status} with content of type {kind!r} came. If you "
            "are behind a login page, sign in first."
        )
    if response.status == 200:
        return 0  # the whole file, whatever was asked for
    content_range = response.headers.get("Content-Range", "")
    if not content_range.startswith(f"bytes {start}-"):
        raise OSError(
            f"Cannot download {url}: the bytes from {start} on were expected, but "
            f"{content_range or 'an unknown range'} came."
        )
    return start


def _copy(response: Any, file: Any, start: int, total: int | None) -> None:
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
        raise _ConnectionProblemError(
            f"{total:,} bytes were expected, but only {done:,} came"
        )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _require_space(folder: Path, needed: int, what: str) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            f"The disk of {folder} is too full for {what}: {needed / 1e6:,.0f} MB are "
            f"needed, {free / 1e6:,.0f} MB are free. Make room, or pass another "
            "`cache_dir`."
        )


@contextlib.contextmanager
def _full_disk_told(folder: Path) -> Iterator[None]:
    """Says which disk, where it becomes full in spite of `_require_space`."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise OSError(
            errno.ENOSPC,
            f"The disk of {folder} became full. Make room and try again: what was "
            "downloaded is kept. Or pass another `cache_dir`",
        ) from error


# -------------------------------------------------------------- extraction


def _extract(
    archive: Path, folder: Path, staging: Path, origin: dict[str, str | None]
) -> None:
    """Extracts the archive's one folder to `folder`, whole or not at all."""
    shutil.rmtree(staging, ignore_errors=True)  # left by a killed run
    try:
        with zipfile.ZipFile(archive) as zip_file:
            members = zip_file.infolist()
            _check_members(members, zip_file.start_dir, archive)
            blocks = sum(-(-member.file_size // DISK_BLOCK) for member in members)
            _require_space(folder.parent, blocks * DISK_BLOCK, "the extracted images")
            files = _write_members(zip_file, members, staging)
        marker = json.dumps({**origin, "files": files})
        (staging / FOLDER / MARKER).write_text(marker, encoding="utf-8")
        if folder.exists():  # an earlier result with files missing
            os.replace(folder, staging / "damaged")
        os.replace(staging / FOLDER, folder)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        archive.unlink()
        raise OSError(
            f"The file at {origin['url']} is not a complete zip file: {error}. It was "
            "removed; try again."
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _write_members(
    zip_file: zipfile.ZipFile, members: Sequence[zipfile.ZipInfo], staging: Path
) -> int:
    folders = {member.filename.rpartition("/")[0] for member in members}
    for name in sorted(folders):
        (staging / name).mkdir(parents=True, exist_ok=True)
    files = [member for member in members if not member.is_dir()]
    with Progress("extracting", total=len(files), unit="files") as bar:
        for member in files:
            # `open` stops at the declared size and checks the CRC.
            with (
                zip_file.open(member) as content,
                open(f"{staging}/{member.filename}", "xb") as file,  # noqa: PTH123, fast
            ):
                shutil.copyfileobj(content, file)
            bar.advance()
    return len(files)


def _check_members(members: Sequence[zipfile.ZipInfo], end: int, archive: Path) -> None:
    """Refuses the whole archive if any member could do harm."""
    problem = next(_find_problems(members, end), None)
    declared = _declared_members(archive)
    # The number may be stored modulo 65,536, as older programs do.
    if not problem and (len(members) - declared) % (1 << 16):
        problem = f"it holds {len(members):,} members, but declares {declared:,}"
    if problem:
        raise ValueError(
            f"The archive {archive} is not safe to extract: {problem}. Nothing was "
            "extracted; get the archive from its official address."
        )


def _declared_members(archive: Path) -> int:
    """The number of members in the archive's end record; zipfile ignores it."""
    with archive.open("rb") as file:
        file.seek(max(0, _size(archive) - (1 << 16) - 22))
        tail = file.read()
    count: int = struct.unpack_from("<H", tail, tail.rfind(b"PK\5\6") + 10)[0]
    zip64 = tail.rfind(b"PK\6\6")
    if count == 0xFFFF and zip64 >= 0:
        (count,) = struct.unpack_from("<Q", tail, zip64 + 32)
    return count


def _find_problems(members: Sequence[zipfile.ZipInfo], end: int) -> Iterator[str]:
    seen: set[str] = set()
    files = {member.filename for member in members if not member.is_dir()}
    for member in members:
        name = member.filename
        parts = name.rstrip("/").split("/")
        kind = stat.S_IFMT(member.external_attr >> 16)
        if any(part in ("", ".", "..") for part in parts) or set(name) & set("\\:\0"):
            yield f"the path of its member {name!r} is not a plain relative path"
        if parts[0] != FOLDER or name == FOLDER:
            yield f"its member {name!r} is not in the folder {FOLDER}/"
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            yield f"its member {name!r} is a link or special file"
        if member.flag_bits & 1:
            yield f"its member {name!r} is encrypted"
        if name.rstrip("/") in seen:
            yield f"its member {name!r} appears twice"
        parents = ("/".join(parts[:depth]) for depth in range(1, len(parts)))
        if not files.isdisjoint(parents):
            yield f"its member {name!r} lies inside another file"
        seen.add(name.rstrip("/"))
    if not files:
        yield "it has no files"
    size = sum(member.file_size for member in members)
    if size > MAX_EXTRACTED:
        yield f"it would take {size:,} bytes, more than {MAX_EXTRACTED:,}"
    if size > MAX_RATIO * end:
        yield f"it would take {size:,} bytes, {size / end:,.0f} times as many as it has"
    ordered = sorted(members, key=lambda member: member.header_offset)
    following = [member.header_offset for member in ordered[1:]] + [end]
    for member, limit in zip(ordered, following, strict=True):
        header = 30 + len(member.orig_filename.encode())  # at least
        if member.header_offset + header + member.compress_size > limit:
            yield f"its member {member.filename!r} overlaps the next"
