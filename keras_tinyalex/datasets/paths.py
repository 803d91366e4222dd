"""Paths of the folders in a `Tree`: "" is its root, others end in "/"."""

from __future__ import annotations

from collections.abc import Iterable

# Folders that a message lists.
MAX_FOLDERS = 3


def parent(folder: str) -> str:
    """Returns the folder above.

    Examples:
        >>> parent("a/b/"), parent("a/")
        ('a/', '')
    """
    above, separator, _ = folder[:-1].rpartition("/")
    return above + separator


def name_of(folder: str) -> str:
    """Returns the name of a folder.

    Examples:
        >>> name_of("a/b/")
        'b'
    """
    return folder[:-1].rpartition("/")[2]


def is_in(folder: str, above: str) -> bool:
    """Whether a folder is directly in another one."""
    return folder != above and parent(folder) == above


def is_alone(folder: str, folders: Iterable[str]) -> bool:
    """Whether none of the folders is in this one."""
    return not any(other.startswith(folder) for other in folders if other != folder)


def shallowest(folders: Iterable[str]) -> list[str]:
    """Returns the folders that are in none of the others.

    Examples:
        >>> shallowest(["a/b/", "a/", "c/d/"])
        ['a/', 'c/d/']
    """
    tops: list[str] = []
    for folder in sorted(folders):
        if not any(folder.startswith(top) for top in tops):
            tops.append(folder)
    return tops


def list_folders(folders: Iterable[str]) -> str:
    """Returns the first folders, for messages.

    Examples:
        >>> list_folders(["b/", "a/", "d/", "c/"])
        'a/, b/, c/, ...'
    """
    names = [folder or "the folder itself" for folder in sorted(folders)]
    return ", ".join([*names[:MAX_FOLDERS], *["..."] * (len(names) > MAX_FOLDERS)])
