"""Files on disk: atomic writes, one process at a time, Keras' home, space."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from filelock import FileLock

# A small file takes at least this many bytes of a disk.
DISK_BLOCK = 4096


def keras_home() -> Path:
    """Returns the folder of Keras' caches: `KERAS_HOME`, or `~/.keras`."""
    return Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser()


def size_on_disk(sizes: Iterable[int]) -> int:
    """Returns the bytes that files of these sizes take, in whole blocks.

    >>> size_on_disk([1, 4097])
    12288
    """
    return sum(-(-size // DISK_BLOCK) * DISK_BLOCK for size in sizes)


def sha256_of(path: Path) -> str:
    """Returns the SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def atomic_write(
    path: Path, sync: bool = False, concurrent: bool = False
) -> Iterator[BinaryIO]:
    """Opens a temporary file beside `path` and renames it to `path` at the end.

    At every moment `path` is the old file or the complete new one.

    Args:
        path: The file to write.
        sync: Whether to call `fsync` before the rename, so that a power cut
            cannot leave an empty file.
        concurrent: Whether several processes may write it at once, each to a
            temporary file of its own. A killed process leaves its file there.

    Yields:
        A binary file.

    Raises:
        OSError: If it cannot be written; the message names `path`.

    Examples:
        >>> with atomic_write(Path("example.txt")) as file:
        ...     _ = file.write(b"all of it")
        >>> Path("example.txt").read_text()
        'all of it'
    """
    own = f"-{uuid.uuid4().hex}" if concurrent else ""
    aside = path.with_name(f"{path.name}.part{own}")
    try:
        with aside.open("wb") as file:
            yield file
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)  # it may be what fills the disk
        if isinstance(error, OSError):
            reason = error.strerror or error
            text = f"Cannot write {path}: {reason}. Nothing there was changed"
            raise OSError(error.errno, text) from error
        raise


def write_json(
    path: Path, content: object, sync: bool = False, indent: int | None = 2
) -> None:
    """Writes a JSON file by `atomic_write`.

    With `indent=None` all is on one line, which is written three times as fast.

    Examples:
        >>> write_json(Path("example.json"), {"epochs": 35})
        >>> json.loads(Path("example.json").read_text())
        {'epochs': 35}
    """
    with atomic_write(path, sync) as file:
        file.write((json.dumps(content, indent=indent) + "\n").encode())


@contextlib.contextmanager
def single_writer(
    lock: Path, argument: str, folder: Path, who: str = "process"
) -> Iterator[None]:
    """Lets one process at a time write to a folder and refuses others.

    The lock file is removed at the end; one that a killed process left does
    not lock. In a folder without write permission nothing is locked.

    Args:
        lock: Path of the lock file; its folder exists.
        argument: The argument that names `folder`, for the message.
        folder: The folder that is written to.
        who: What the other process is, for the message.

    Yields:
        `None`, once this process is the writer.

    Raises:
        OSError: If another process writes to the folder.

    Examples:
        >>> with single_writer(Path("run.lock"), "output", Path("run")):
        ...     Path("run.lock").exists()
        True
    """
    from filelock import FileLock, Timeout

    held = FileLock(lock, timeout=0)
    try:
        held.acquire()
    except Timeout:
        raise OSError(
            f"`{argument}` is in use: another {who} writes to that folder. Wait "
            f"until it has ended, or pass another `{argument}`. "
            f"Received: {argument}={str(folder)!r}"
        ) from None
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
    with _released(held, lock):
        yield


@contextlib.contextmanager
def one_at_a_time(lock: Path) -> Iterator[None]:
    """Lets one process at a time go on, while others wait for it.

    The lock file is removed at the end. On a disk without locks nobody waits.

    Args:
        lock: Path of the lock file; its folder exists.

    Examples:
        >>> with one_at_a_time(Path("entry.lock")):
        ...     Path("entry.lock").exists()
        True
    """
    from filelock import FileLock

    held = FileLock(lock)
    with contextlib.suppress(OSError, NotImplementedError):
        held.acquire()
    with _released(held, lock):
        yield


@contextlib.contextmanager
def _released(held: FileLock, lock: Path) -> Iterator[None]:
    """Releases a lock at the end, if it is held, and removes its file."""
    try:
        yield
    finally:
        try:
            if held.is_locked:
                with contextlib.suppress(OSError):
                    lock.unlink()  # not once it is released: another's by then
        finally:
            held.release()
