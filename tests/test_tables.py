"""Tables as text."""

import csv
import io

import pytest

from keras_tinyalex.tables import format_table

HEADER = ["recipe", "n", "deviation %"]
ROWS = [["best_long", "3", "0.01"], ["a|b", "10", "-"]]

EXPECTED = {
    "table": """\
recipe      n  deviation %
best_long   3         0.01
a|b        10            -""",
    "markdown": r"""| recipe | n | deviation % |
| --- | ---: | ---: |
| best_long | 3 | 0.01 |
| a\|b | 10 | - |""",
    "csv": """\
recipe,n,deviation %
best_long,3,0.01
a|b,10,-""",
    "latex": r"""\begin{tabular}{lrr}
\hline
recipe & n & deviation \% \\
\hline
best\_long & 3 & 0.01 \\
a|b & 10 & - \\
\hline
\end{tabular}""",
}


@pytest.mark.parametrize("style", EXPECTED)
def test_format(style):
    assert format_table(HEADER, ROWS, style) == EXPECTED[style]


def test_cells_with_special_characters():
    cells = ['say "a, b"', "two\nlines", "\udce9", r"$\x^~{"]
    text = format_table(["a", "b", "c", "d"], [cells], "csv")
    shown = ['say "a, b"', "two lines", r"\udce9", r"$\x^~{"]
    assert list(csv.reader(io.StringIO(text)))[1] == shown
    text.encode()  # as the terminal does
    latex = format_table(["a"], [[cells[3]]], "latex").splitlines()[4]
    assert latex == (r"\$\textbackslash{}x\textasciicircum{}\textasciitilde{}\{ \\")
