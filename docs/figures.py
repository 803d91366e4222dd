"""Creates the figures `pictures-*`, `robustness-*` and `lrn-*` by running their pages.

    python docs/figures.py tiny-imagenet-200.zip

The code of pictures.md runs twice: with the embedded sample for the figures that show
images, and with Tiny ImageNet for the figures of results, which show none. Without an
argument, the figures of results are skipped.
"""

import argparse
import contextlib
import io
import re
import tempfile
from pathlib import Path

from PIL import Image

DOCS = Path(__file__).parent
PAGES = ("pictures.md", "robustness.md", "why-lrn.md")
OF_RESULTS = ("pictures-class-accuracy", "pictures-calibration")


def figures(page: str) -> dict:
    """Returns the last `figure` before each image of the page, by the image's name."""
    found, names = {}, {}
    pattern = (
        r"^```python\n(.*?)^```|\]\(images/((?:pictures|robustness|lrn)-.*?)\.png\)"
    )
    for code, image in re.findall(pattern, page, re.S | re.M):
        exec(code, names)
        if image:
            found[image] = names["figure"]
    return found


def write(path: Path, figure) -> None:
    """Writes a PNG, reduced to 256 colors if it would take more than 100 kB."""
    buffer = io.BytesIO()
    figure.savefig(buffer)
    if buffer.tell() > 100_000:
        image = Image.open(buffer).convert("RGB")
        image = image.quantize(256, dither=Image.Dither.NONE)
        buffer = io.BytesIO()
        image.save(buffer, "PNG", optimize=True)
    path.write_bytes(buffer.getvalue())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path, nargs="?", help="Tiny ImageNet's zip")
    parser.add_argument("--output", type=Path, default=DOCS / "images")
    options = parser.parse_args()
    data = options.data and str(options.data.resolve())
    pictures, robustness, lrn = ((DOCS / name).read_text("utf-8") for name in PAGES)
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
        found = figures(lrn) | figures(robustness) | figures(pictures)
        of_results = figures(pictures.replace('"sample"', repr(data))) if data else {}
    for name, figure in found.items():
        if name in OF_RESULTS and not (figure := of_results.get(name)):
            continue
        write(options.output / f"{name}.png", figure)


if __name__ == "__main__":
    main()
