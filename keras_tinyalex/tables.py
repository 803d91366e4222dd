"""Tables as text: aligned columns, Markdown, CSV and LaTeX."""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from keras_tinyalex.files import atomic_write

Rows = Sequence[Sequence[str]]


def format_table(header: Sequence[str], rows: Rows, style: str = "table") -> str:
    """Returns a table as text, without a line break at its end.

    Columns of numbers are aligned to the right.

    Args:
        header: Names of the columns.
        rows: Cells of each row, as many as there are names.
        style: `"table"`, `"markdown"`, `"csv"` or `"latex"`, a `tabular` that
            needs no package.

    Examples:
        >>> print(format_table(["recipe", "n"], [["best", "3"], ["fast", "10"]]))
        recipe   n
        best     3
        fast    10
    """
    numeric = [all(map(_is_number, column)) for column in zip(*rows, strict=True)]
    lines = [list(map(_one_line, line)) for line in (header, *rows)]
    return STYLES[style](lines, numeric or [False] * len(header))


@contextlib.contextmanager
def csv_file(path: Path, columns: Sequence[str]) -> Iterator[csv.DictWriter[str]]:
    """Writes a CSV file by `atomic_write`, which spreadsheets open with all letters.

    Args:
        path: The file, which is replaced; its folder exists.
        columns: Names of the columns.

    Yields:
        A `csv.DictWriter` that has written the header.

    Raises:
        OSError: If it cannot be written; the message names `path`.

    Examples:
        >>> with csv_file(Path("names.csv"), ["wnid", "name"]) as table:
        ...     _ = table.writerow({"wnid": "n01443537", "name": "goldfish"})
        >>> Path("names.csv").read_text("utf-8-sig").split()
        ['wnid,name', 'n01443537,goldfish']
    """
    with atomic_write(path) as file:
        # Excel takes a file without this mark at its start for another encoding.
        text = io.TextIOWrapper(file, "utf-8-sig", "backslashreplace", newline="")
        table = csv.DictWriter(text, columns)
        table.writeheader()
        yield table
        text.flush()
        text.detach()


def _one_line(cell: str) -> str:
    # Names of files need not be UTF-8.
    return " ".join(cell.encode("utf-8", "backslashreplace").decode().split())


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return cell == "-"
    return True


def _aligned(lines: Rows, numeric: Sequence[bool]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in lines
    )


def _markdown(lines: Rows, numeric: Sequence[bool]) -> str:
    header, *rows = [[cell.replace("|", r"\|") for cell in line] for line in lines]
    rule = ["---:" if right else "---" for right in numeric]
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, rule, *rows))


def _csv(lines: Rows, numeric: Sequence[bool]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue().rstrip("\n")


def _latex(lines: Rows, numeric: Sequence[bool]) -> str:
    columns = "".join("r" if right else "l" for right in numeric)
    header, *rows = [
        " & ".join(cell.translate(_LATEX) for cell in line) + r" \\" for line in lines
    ]
    begin, end = rf"\begin{{tabular}}{{{columns}}}", r"\end{tabular}"
    return "\n".join([begin, r"\hline", header, r"\hline", *rows, r"\hline", end])


# What LaTeX does not print as it is.
_LATEX = str.maketrans(
    {
        **{character: f"\\{character}" for character in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
    }
)

STYLES: dict[str, Callable[[Rows, Sequence[bool]], str]] = {
    "table": _aligned,
    "markdown": _markdown,
    "csv": _csv,
    "latex": _latex,
}
