"""What all figures share: resolution, colors, titles, and names that fit."""

from __future__ import annotations

import bisect
import contextlib
import functools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150

# Of two series, the primary one is what the figure is about.
PRIMARY_COLOR, SECONDARY_COLOR = "#0b63b0", "#8b95a1"
# They differ in lightness, too, for color-blind readers.
CORRECT_COLOR, INCORRECT_COLOR = "#00694e", "#d1380f"
TEXT_COLOR, FAINT_TEXT_COLOR = "#1c2733", "#c3cbd5"
FRAME_COLOR, GRID_COLOR = "#c8ced6", "#e4e8ed"


P = ParamSpec("P")


def in_own_style(plot: Callable[P, Figure]) -> Callable[P, Figure]:
    """Lets a function draw its figure in `own_style`."""

    @functools.wraps(plot)
    def draw(*args: P.args, **kwargs: P.kwargs) -> Figure:
        import matplotlib

        usetex = matplotlib.rcParams["text.usetex"]
        with own_style():
            figure = plot(*args, **kwargs)
            if usetex:
                # Or the ticks would be made, for LaTeX, when the figure is drawn.
                for axes in figure.axes:
                    for axis in (axes.xaxis, axes.yaxis):
                        axis.get_major_ticks()
        return figure

    return draw


@contextlib.contextmanager
def own_style() -> Iterator[None]:
    """Sets matplotlib's defaults for a while, except the fonts.

    Users' settings could break a figure: `text.usetex` needs LaTeX, and
    `image.origin` turns images upside down. Fonts may be there for the letters of
    class names.
    """
    import matplotlib
    import matplotlib.style

    settings: Any = matplotlib.rcParams
    families = ("font.family", "font.sans-serif", "font.serif", "font.monospace")
    fonts = {name: settings[name] for name in families}
    with matplotlib.style.context("default"):
        settings.update(fonts)
        yield


def set_panel_title(axes: Axes, title: str) -> None:
    """Titles one of several axes in a figure, and leaves its frame open."""
    axes.set_title(title, loc="left", size=11, weight="bold")
    open_frame(axes)


def open_frame(axes: Axes) -> None:
    """Hides the top and the right side of the frame."""
    axes.spines[["top", "right"]].set_visible(False)


def short_names(class_names: Sequence[str]) -> list[str]:
    """Returns the first synonym of each name, or all if it is not unique.

    Examples:
        >>> short_names(["crane", "crane, machine", "sea slug, nudibranch"])
        ['crane', 'crane, machine', 'sea slug']
    """
    # The name of a folder need not be UTF-8, but fonts have no other letters.
    names = [
        str(name).encode("utf-8", "backslashreplace").decode() for name in class_names
    ]
    first = [name.split(",")[0].strip() for name in names]
    counts = Counter(first)
    return [
        short if counts[short] == 1 else name
        for short, name in zip(first, names, strict=True)
    ]


def fit_text(text: str, width: float, size: float, lines: int = 1) -> str:
    """Wraps text into lines of a width, and cuts the end if it does not fit.

    Args:
        text: Words separated by spaces.
        width: Width of a line in points.
        size: Font size in points.
        lines: Largest number of lines.

    Examples:
        >>> fit_text("European fire salamander", width=80, size=8, lines=2)
        'European fire\\nsalamander'
        >>> fit_text("European fire salamander", width=80, size=8)
        'European fire sal…'
    """
    if text_width(text, size) <= width:
        return text
    words = text.split(" ")
    if lines > 1:
        for end in range(len(words) - 1, 0, -1):
            line = " ".join(words[:end])
            if text_width(line, size) <= width:
                rest = " ".join(words[end:])
                return f"{line}\n{fit_text(rest, width, size, lines - 1)}"

    def cut(end: int) -> str:
        return text[:end].rstrip() + "…"

    ends = range(2, len(text) + 1)
    fitting = bisect.bisect(ends, width, key=lambda end: text_width(cut(end), size))
    return cut(1 + fitting)


def text_width(text: str, size: float) -> float:
    """Returns the width of text in points, without a display."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(size=size)
    width, _, _ = text_to_path.get_text_width_height_descent(text, font, ismath=False)
    return float(width)
