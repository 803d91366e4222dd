"""Extracts the Tiny ImageNet archive, after checking that it is safe to extract."""

from __future__ import annotations

import os
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from keras_tinyalex.datasets.trees import find_lost_members
from keras_tinyalex.files import size_on_disk, write_json
from keras_tinyalex.progress import Progress

FOLDER = "tiny-imagenet-200"
# Written into the folder last. Hidden, so that it is not taken for data.
MARKER = ".keras_tinyalex.json"
MAX_EXTRACTED = 4 << 30  # bytes; the official archive has 0.25 GB
MAX_RATIO = 100  # of extracted to archived bytes; images hardly compress


def extract(
    archive: Path, folder: Path, staging: Path, origin: Mapping[str, str | None]
) -> None:
    """Extracts the archive's one folder to `folder`, completely or not at all.

    Args:
        archive: Path of the zip file.
        folder: Path of the extracted folder. An earlier one is replaced.
        staging: Path of the folder for the temporary files, on the same file
            system.
        origin: `url` and `sha256` of the archive, written to the folder's
            marker file together with the number of extracted `files`.

    Raises:
        ValueError: If the archive is not safe to extract.
        OSError: If it is not a complete zip file (which is then removed), or
            the disk is too full.
    """
    shutil.rmtree(staging, ignore_errors=True)  # left by a killed process
    try:
        with zipfile.ZipFile(archive) as zip_file:
            members = zip_file.infolist()
            _check_members(members, zip_file.start_dir, archive)
            needed = size_on_disk(member.file_size for member in members)
            check_free_space(folder.parent, needed, "the extracted images")
            files = _write_members(zip_file, members, staging)
        write_json(staging / FOLDER / MARKER, {**origin, "files": files}, indent=None)
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


def check_free_space(folder: Path, needed: int, what: str) -> None:
    """Refuses to write `needed` bytes to a disk that has fewer.

    Args:
        folder: Existing folder on the disk.
        needed: Number of bytes.
        what: What they are, for the message.

    Raises:
        OSError: If the disk is too full.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            f"The disk of {folder} is too full for {what}: {needed / 1e6:,.0f} MB are "
            f"needed, {free / 1e6:,.0f} MB are free. Make room, or pass another "
            "`cache_dir`."
        )


def _write_members(
    zip_file: zipfile.ZipFile, members: Sequence[zipfile.ZipInfo], staging: Path
) -> int:
    """Writes the members below `staging` and returns the number of files."""
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
    problem = problem or find_lost_members(members, archive)
    if problem:
        raise ValueError(
            f"The archive {archive} is not safe to extract: {problem}. Nothing was "
            "extracted; get the archive from its official address."
        )


def _find_problems(members: Sequence[zipfile.ZipInfo], end: int) -> Iterator[str]:
    """Yields what is unsafe about the members; `end` is where their data ends."""
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
            yield f"its member {name!r} is inside another file"
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
