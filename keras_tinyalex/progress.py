"""Progress of long work: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Self, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

# Seconds between two plain lines.
LINE_INTERVAL = 5.0


class Progress:
    """Reports the progress of a loop: count, rate and time left.

    On a terminal it draws a bar. Elsewhere (a log, a pipe, a notebook) it
    prints a plain line every 5 seconds and one at the end. Everything goes to
    standard error, so that standard output stays free for results.

    Args:
        description: What the loop does, e.g. `"copying"`.
        total: Number of units in all.
        unit: Plural name of a unit. Defaults to `"files"`.
        enabled: Whether to report anything. Defaults to `True`.
        lines: Whether to print plain lines if there is no terminal. Defaults
            to `True`.
        stream: Text stream to write to. Defaults to `None`: standard error.

    Examples:
        >>> with Progress("copying", total=3, unit="files", enabled=False) as bar:
        ...     for _ in range(3):
        ...         bar.advance()
    """

    def __init__(
        self,
        description: str,
        total: int,
        unit: str = "files",
        enabled: bool = True,
        lines: bool = True,
        stream: TextIO | None = None,
    ) -> None:
        self.description = description
        self.total = total
        self.unit = unit
        self.enabled = enabled
        self.lines = enabled and lines
        self.done = 0
        self.note = ""
        self._stream = stream or sys.stderr
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._start = self._last_line = time.monotonic()
        if self.enabled and self._stream.isatty():
            self._bar, self._task = self._make_bar()
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self.lines and exception[0] is None:
            self._print_line()

    def advance(self, units: int = 1, note: str = "") -> None:
        """Counts `units` more as done.

        Args:
            units: Number of units. Defaults to `1`.
            note: Text to show after the counts from now on. Defaults to
                `""`: the last one.
        """
        self.done += units
        self.note = note or self.note
        if self._bar is not None and self._task is not None:
            self._bar.update(
                self._task, completed=self.done, rate=self._rate(), note=self.note
            )
        elif self.lines and time.monotonic() - self._last_line >= LINE_INTERVAL:
            self._print_line()

    def message(self, text: str) -> None:
        """Prints a line of text, above the bar if there is one."""
        if self._bar is not None:
            self._bar.console.print(text, highlight=False, markup=False)
        elif self.enabled:
            print(text, file=self._stream, flush=True)

    def _rate(self) -> str:
        elapsed = time.monotonic() - self._start
        return f"{self.done / elapsed:,.0f} {self.unit}/s" if elapsed else ""

    def _print_line(self) -> None:
        self._last_line = time.monotonic()
        text = f"{self.description}: {self.done:,}/{self.total:,} {self.unit}"
        text += f", {self._rate()}"
        if 0 < self.done < self.total:
            left = (self._last_line - self._start) / self.done
            text += f", {format_seconds(left * (self.total - self.done))} left"
        if self.note:
            text += f", {self.note}"
        print(text, file=self._stream, flush=True)

    def _make_bar(self) -> tuple[RichProgress, TaskID]:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            TextColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as RichProgress

        bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[note]}"),
            console=Console(file=self._stream),
        )
        task = bar.add_task(self.description, total=self.total, rate="", note="")
        return bar, task


def format_seconds(seconds: float) -> str:
    """Returns a time as `m:ss` or `h:mm:ss`.

    Args:
        seconds: Number of seconds, rounded to an integer.

    Examples:
        >>> format_seconds(75)
        '1:15'
        >>> format_seconds(3661)
        '1:01:01'
    """
    total = round(seconds)
    hours, minutes, rest = total // 3600, total // 60 % 60, total % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
