"""The 200 classes of Tiny ImageNet, and the selection of classes."""

from __future__ import annotations

import difflib
import functools
import operator
import os
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import SupportsIndex, TypeAlias

from keras_tinyalex.datasets.sample import CLASS_WORDS

Classes: TypeAlias = SupportsIndex | str | os.PathLike[str] | Iterable[str] | None
"""The values that every argument `classes` takes; see `select_classes`."""

TINY_IMAGENET_WORDS: Mapping[str, str]
"""WordNet names of the 200 classes by wnid, in sorted wnid order."""


def __getattr__(name: str) -> Mapping[str, str]:
    # Reads the table on first use, not at import.
    if name == "TINY_IMAGENET_WORDS":
        return _read_table()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@functools.cache
def _read_table() -> Mapping[str, str]:
    from importlib import resources

    table = resources.files(__package__) / "tiny_imagenet_200.tsv"
    lines = table.read_text(encoding="utf-8").splitlines()
    return MappingProxyType(dict(line.split("\t") for line in lines))


def readable_name(class_name: str, words: Mapping[str, str] | None = None) -> str:
    """Returns the first readable name of a class.

    Args:
        class_name: A wnid, or the name of a class folder.
        words: Comma-separated readable names by class name. Classes without
            an entry are looked up in `TINY_IMAGENET_WORDS` and in the table
            of the embedded sample. Defaults to `None`: no entries.

    Returns:
        The name before the first comma, or `class_name` itself if the class
        has no readable name.

    Examples:
        >>> readable_name("n01443537")
        'goldfish'
        >>> readable_name("my class")
        'my class'
    """
    known = {**CLASS_WORDS, **_read_table(), **(words or {})}
    names = known.get(class_name) or class_name
    return names.split(",")[0].strip() or class_name


def select_classes(
    available: Iterable[str],
    classes: Classes = None,
    words: Mapping[str, str] | None = None,
) -> tuple[str, ...]:
    """Selects classes by count, wnid, name or file.

    Args:
        available: Class names (wnids or folder names) to select from.
        classes: What to select:

            * `None`, or `"all"` where no class has this name: all classes;
            * integer n, 1 <= n <= number of classes: the first n of the
              sorted class names;
            * list or other iterable of strings, each a class name or one of
              its comma-separated readable names (in any case);
            * path (string or `pathlib.Path`) of a text file with one such
              string per line. Blank lines are skipped, and so is everything
              after a `#` or a tab, so that you can pass `words.txt`;
            * string with an integer (`"20"`), or with class names and
              readable names separated by commas (`"goldfish,n01641577"`), as
              on the command line.

        words: Readable names by class name; see `readable_name`.

    Returns:
        The selected class names, sorted: label i is the i-th of them.

    Raises:
        ValueError: If a name is unknown, matches more than one class, or
            selects a class twice; if the count is out of range; if nothing
            is selected; or if `classes` is none of the above.

    Examples:
        >>> wnids = ["n01641577", "n01443537", "n01644900"]
        >>> select_classes(wnids, 2)
        ('n01443537', 'n01641577')
        >>> select_classes(wnids, ["tailed frog", "n01443537"])
        ('n01443537', 'n01644900')
    """
    names = tuple(sorted(set(available)))
    if classes is None:
        return names
    if isinstance(classes, bool) or not isinstance(
        classes, (SupportsIndex, str, os.PathLike, Iterable)
    ):
        raise ValueError(
            "`classes` must be None, 'all', an integer, a list of wnids or names, or "
            "the path of a file with one of these per line. "
            f"Received: classes={classes!r}"
        )
    index = _NameIndex(names, words, f"Received: classes={_shorten(classes)}")
    if classes == "all" and not index.candidates("all"):
        return names
    if isinstance(classes, str):
        classes = _parse_text(classes, index)
    if isinstance(classes, SupportsIndex):
        return _first(names, operator.index(classes))
    if isinstance(classes, os.PathLike):
        return index.find_all(_read_names(Path(classes).expanduser()))
    return index.find_all(classes)


def _first(names: tuple[str, ...], count: int) -> tuple[str, ...]:
    if not 1 <= count <= len(names):
        raise ValueError(
            f"`classes` must be an integer from 1 to {len(names)}, the number of "
            f"classes in the data, or None for all. Received: classes={count}"
        )
    return names[:count]


def _parse_text(text: str, index: _NameIndex) -> int | Path | list[str]:
    """Returns what a string from a command line or a config stands for."""
    text = text.strip()
    try:
        return int(text)
    except ValueError:
        pass
    if index.candidates(text):
        return [text]
    return _as_path(text) or _split(text)


def list_names(text: str) -> list[str]:
    """Returns the names that a string lists, in its order.

    Args:
        text: Names separated by commas, or the path of a text file; see
            `select_classes`.

    Raises:
        ValueError: If the file cannot be read.

    Examples:
        >>> list_names("my cat, dog")
        ['my cat', 'dog']
    """
    path = _as_path(text.strip())
    return _split(text) if path is None else _read_names(path)


def _as_path(text: str) -> Path | None:
    # `os.path` does not raise on a list of classes that is too long for a path.
    path = Path(os.path.expanduser(text))  # noqa: PTH111
    exists = os.path.exists(path)  # noqa: PTH110
    # A missing file is reported as such, not as an unknown class.
    named = exists or path.suffix in (".txt", ".tsv") or os.sep in text
    return path if text and named else None


def _split(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


def _read_names(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise ValueError(
            "`classes` must be a readable text file with one wnid or name per line: "
            f"{reason}. Received: classes={str(path)!r}"
        ) from error
    items = (line.partition("#")[0].partition("\t")[0].strip() for line in lines)
    return [item for item in items if item]


class _NameIndex:
    """Finds classes by class name or by any of their readable names."""

    def __init__(
        self, names: tuple[str, ...], words: Mapping[str, str] | None, received: str
    ) -> None:
        self.names = frozenset(names)
        self.received = received
        self.by_word: dict[str, list[str]] = {}
        table = _read_table()
        for name in names:
            text = (words or {}).get(name) or table.get(name, "")
            for word in {_fold(w) for w in (name, text, *text.split(","))} - {""}:
                self.by_word.setdefault(word, []).append(name)

    def candidates(self, item: str) -> list[str]:
        item = compose(item)
        return [item] if item in self.names else self.by_word.get(_fold(item), [])

    def find_all(self, items: Iterable[str]) -> tuple[str, ...]:
        chosen: dict[str, str] = {}
        for item in items:
            name = self._find(item)
            if name in chosen:
                raise ValueError(
                    f"`classes` must name each class once, but {chosen[name]!r} and "
                    f"{item!r} both select {name!r}. {self.received}"
                )
            chosen[name] = item
        if not chosen:
            raise ValueError(f"`classes` must name at least one class. {self.received}")
        return tuple(sorted(chosen))

    def _find(self, item: object) -> str:
        if not isinstance(item, str):
            raise ValueError(
                "`classes` must list strings, wnids or names, not "
                f"{item!r}. {self.received}"
            )
        found = self.candidates(item.strip())
        if len(found) == 1:
            return found[0]
        if found:
            raise ValueError(
                f"`classes` names {item!r}, which matches more than one class: "
                f"{', '.join(found)}. Use one of these instead. {self.received}"
            )
        raise ValueError(
            f"`classes` names {item!r}, which is not one of the {len(self.names)} "
            f"classes of the data.{self._hint(item)} {self.received}"
        )

    def _hint(self, item: str) -> str:
        known = {name.casefold(): name for name in self.names}
        known |= {word: word for word in self.by_word}
        close = difflib.get_close_matches(_fold(item), known, n=1)
        if not close:
            return " Pass a wnid or a name of one of them."
        match = known[close[0]]
        classes = [name for name in self.by_word.get(match, []) if name != match]
        return f" Did you mean {match!r}{f' ({classes[0]})' if classes else ''}?"


def compose(name: str) -> str:
    """Returns a name with composed accents, which systems write in two ways."""
    return unicodedata.normalize("NFC", name)


def _fold(word: str) -> str:
    return " ".join(compose(word).split()).casefold()


def _shorten(value: object, limit: int = 200) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}..."
