"""Makes the images `pictures-*` and `lrn-*` by running the code of their pages.

    python docs/figures.py tiny-imagenet-200.zip

The code of pictures.md runs twice: with the embedded sample for pictures that show
images, and with Tiny ImageNet for those of results, which hold none of its images.
Without an argument only what needs no Tiny ImageNet is made.
"""

import argparse
import contextlib
import io
import re
import tempfile
from pathlib import Path

from PIL import Image

DOCS = Path(__file__).parent
PAGES = ("pictures.md", "why-lrn.md")
OF_RESULTS = ("pictures-class-accuracy", "pictures-calibration")


def figures(page: str) -> dict:
    """The last `figure` before each image of the page, by the name of the image."""
    found, names = {}, {}
    pattern = r"^```python\n(.*?)^```|\]\(images/((?:pictures|lrn)-.*?)\.png\)"
    for code, image in re.findall(pattern, page, re.S | re.M):
        exec(code, names)
        if image:
            found[image] = names["figure"]
    return found


def write(path: Path, figure) -> None:
    """Saves, with 256 colours where all of them take more than 100 kB."""
    buffer = io.BytesIO()
    figure.savefig(buffer)
    if buffer.tell() > 100_000:
        picture = Image.open(buffer).convert("RGB")
        picture = picture.quantize(256, dither=Image.Dither.NONE)
        buffer = io.BytesIO()
        picture.save(buffer, "PNG", optimize=True)
    path.write_bytes(buffer.getvalue())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path, nargs="?", help="Tiny ImageNet")
    data = parser.parse_args().data
    data = data and str(data.resolve())
    pictures, lrn = ((DOCS / name).read_text("utf-8") for name in PAGES)
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
        found = figures(lrn) | figures(pictures)
        of_results = figures(pictures.replace('"sample"', repr(data))) if data else {}
    for name, figure in found.items():
        if name in OF_RESULTS and not (figure := of_results.get(name)):
            continue
        write(DOCS / "images" / f"{name}.png", figure)


if __name__ == "__main__":
    main()
