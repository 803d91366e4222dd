"""Files that appear whole or not at all, and folders with one writer."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def written_whole(
    path: Path, sync: bool = False, several: bool = False
) -> Iterator[BinaryIO]:
    """Opens a file beside `path` that takes its place once it is written.

    Whatever happens meanwhile, `path` is the old file or the complete new one.

    Args:
        path: The file to write.
        sync: Whether the content must be on the disk before it gets its
            name, so that a power cut cannot leave an empty file.
        several: Whether several processes may write it at once, each to a file
            of its own beside it. What a killed one leaves stays there.

    Yields:
        A binary file.

    Raises:
        OSError: If it cannot be written; the message names `path`.

    Examples:
        >>> with written_whole(Path("example.txt")) as file:
        ...     _ = file.write(b"all of it")
        >>> Path("example.txt").read_text()
        'all of it'
    """
    own = f"-{uuid.uuid4().hex}" if several else ""
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
    """Writes a JSON file whole or not at all; see `written_whole`.

    Without `indent` all is on one line, and written three times as fast.

    Examples:
        >>> write_json(Path("example.json"), {"epochs": 35})
        >>> json.loads(Path("example.json").read_text())
        {'epochs': 35}
    """
    with written_whole(path, sync) as file:
        file.write((json.dumps(content, indent=indent) + "\n").encode())


@contextlib.contextmanager
def one_writer(
    lock: Path, argument: str, folder: Path, who: str = "process"
) -> Iterator[None]:
    """Lets one process at a time write to a folder; another is refused.

    The lock is a file that goes when the writer has ended. The file of a
    killed process does not lock. Where the lock cannot be made for want of
    permission, nothing else can be written either, and nothing is locked.

    Args:
        lock: Path of the lock file; its folder exists.
        argument: The argument that names `folder`, for the message.
        folder: What is written to.
        who: What the other one is, for the message.

    Yields:
        `None`, once this process is the writer.

    Raises:
        OSError: If another process writes there.

    Examples:
        >>> with one_writer(Path("run.lock"), "output", Path("run")):
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
    try:
        yield
    finally:
        try:
            if held.is_locked:
                with contextlib.suppress(OSError):
                    lock.unlink()  # not once it is released: another's by then
        finally:
            held.release()
