"""The accuracy on each set, kept in a CSV file."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from keras_tinyalex.aliases import PathLike
from keras_tinyalex.files import atomic_write
from keras_tinyalex.robustness.result import Key, Row
from keras_tinyalex.tables import format_table

COLUMNS = ("corruption", "severity", "accuracy", "n", "fingerprint")


class Table:
    """Accuracies by set, written to a file after each one.

    Args:
        path: The file, which need not exist, or `None` for none.
        fingerprint: What tells a model and its images from others.

    Raises:
        ValueError: If the file is another one, or of another fingerprint.
        OSError: If the file cannot be written.
    """

    def __init__(self, path: PathLike | None, fingerprint: str) -> None:
        self.path = None if path is None else Path(path).expanduser()
        self.fingerprint = fingerprint
        self.rows: dict[Key, Row] = {}
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.exists():
                self._read(self.path)
            self._write()  # tried before the work

    def add(self, key: Key, accuracy: float, n: int) -> None:
        """Adds a set, and writes the file."""
        self.rows[key] = (accuracy, n)
        self._write()

    def _read(self, path: Path) -> None:
        text = path.read_text("utf-8", errors="replace")
        try:
            header, *lines = csv.reader(io.StringIO(text))
            if tuple(header) != COLUMNS:
                raise ValueError(f"its columns are {', '.join(header)[:80]}")
            for name, severity, accuracy, n, fingerprint in lines:
                if fingerprint != self.fingerprint:
                    raise ValueError(
                        f"its fingerprint is {fingerprint}, not {self.fingerprint}"
                    )
                self.rows[name, int(severity)] = float(accuracy), int(n)
        except (ValueError, csv.Error) as error:
            raise ValueError(
                "`csv` must be a new file, or one of the same weights, images and "
                f"arguments, but {error}. Remove it, or pass another `csv`. "
                f"Received: csv={str(path)!r}"
            ) from None

    def _write(self) -> None:
        if self.path is None:
            return
        lines = [
            (name, str(severity), repr(accuracy), str(n), self.fingerprint)
            for (name, severity), (accuracy, n) in self.rows.items()
        ]
        with atomic_write(self.path) as file:
            file.write(f"{format_table(COLUMNS, lines, 'csv')}\n".encode())
