"""Images that can be told apart in a figure, and the check that its text fits."""

import itertools

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text


@pytest.fixture
def long_names():
    """Class names that must be wrapped or cut."""
    return [
        "European fire salamander, Salamandra salamandra",
        "a name of very many short words that goes on and on for ever",
        "W" * 60,
        "WWWWWWWW MMMMMMMM WWWWWWWW MMMMMMMM",
        r"no $\frac$ math",  # as math it would be an error
    ]


@pytest.fixture
def numbered_images():
    """The function that makes one image for each label, with the values 0, 1, 2, ..."""

    def numbered_images(labels, dtype="uint8"):
        values = np.arange(len(labels), dtype=dtype).reshape(-1, 1, 1, 1)
        return np.broadcast_to(values, (len(labels), 8, 8, 3))

    return numbered_images


@pytest.fixture
def image_number():
    """The function that returns which of `numbered_images` an axes shows."""

    def image_number(axes):
        pixels = axes.images[0].get_array()
        assert pixels.min() == pixels.max()
        return int(pixels.max())

    return image_number


@pytest.fixture
def assert_readable():
    """The function that checks that texts are inside the figure and do not overlap."""

    def assert_readable(figure):
        boxes = visible_texts(figure)
        assert boxes
        width, height = figure.get_size_inches() * figure.dpi
        for text, box in boxes:
            assert 0 <= box.x0 < box.x1 <= width, text
            assert 0 <= box.y0 < box.y1 <= height, text
        for (one, box), (other, other_box) in itertools.combinations(boxes, 2):
            assert not box.overlaps(other_box), (one, other)

    return assert_readable


def visible_texts(figure):
    """Draws the figure; returns each visible text with its box in dots."""
    FigureCanvasAgg(figure).draw()
    # Ticks beyond the ends of an axis keep their labels, but are not drawn.
    hidden = [
        label
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())
        for label in (tick.label1, tick.label2)
        if not min(axis.get_view_interval())
        <= tick.get_loc()
        <= max(axis.get_view_interval())
        or not label.get_visible()
    ]
    found = [
        text
        for text in figure.findobj(Text)
        if text.get_text().strip() and text not in hidden
    ]
    return [(text.get_text(), text.get_window_extent()) for text in found]
