"""Makes the images of pictures.md named `pictures-*` by running its code.

    python docs/figures.py tiny-imagenet-200.zip

The code runs twice: with the embedded sample for pictures that show images, and
with Tiny ImageNet for those of results, which hold none of its images.
"""

import argparse
import contextlib
import io
import re
import tempfile
from pathlib import Path

from PIL import Image

DOCS = Path(__file__).parent
OF_RESULTS = ("class-accuracy", "calibration")


def figures(page: str) -> dict:
    """The last `figure` before each image of the page, by the name of the image."""
    found, names = {}, {}
    pattern = r"^```python\n(.*?)^```|\]\(images/pictures-(.*?)\.png\)"
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
    parser.add_argument("data", type=Path, help="folder or zip of Tiny ImageNet")
    data = str(parser.parse_args().data.resolve())
    page = (DOCS / "pictures.md").read_text("utf-8")
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
        of_images = figures(page)
        of_results = figures(page.replace('"sample"', repr(data)))
    for name in OF_RESULTS:
        of_images[name] = of_results[name]
    for name, figure in of_images.items():
        write(DOCS / "images" / f"pictures-{name}.png", figure)


if __name__ == "__main__":
    main()
