"""The embedded sample: a dataset of 20 classes of images, drawn from a seed."""

from __future__ import annotations

import colorsys
import functools
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_tinyalex.aliases import PathLike
from keras_tinyalex.arguments import check_integer
from keras_tinyalex.datasets.known_files import SAMPLE_MARKER
from keras_tinyalex.files import keras_home, write_json

Array = NDArray[np.float64]

VERSION = 1
TRAIN_PER_CLASS = 100
VAL_PER_CLASS = 20
SIZE = 64

_PATTERNS = ("striped", "checked", "dotted", "ringed")
_SHAPES = ("disc", "square", "triangle", "star", "cross")
# WordNet offsets have eight digits and stay below 16 million, so that no real
# synset has these ids.
CLASS_WORDS = {
    f"n{99000000 + index}": f"{_PATTERNS[index % 4]} {_SHAPES[index // 4]}"
    for index in range(20)
}


def make_sample(destination: PathLike, seed: int = 0) -> Path:
    """Writes the sample dataset in the layout of Tiny ImageNet.

    Each of the 20 classes is a pattern on a shape, such as "striped disc",
    with random position, size, angle and light, on a random background. There
    are 100 training and 20 validation images per class, 64x64 RGB JPEG. They
    are computed, not photographed, and free of any license. The dataset is
    hard for a linear classifier on the pixels and easy for `AlexNetMini`.

    The files are written to a temporary folder beside `destination`, which is
    then renamed, so a process that is killed leaves nothing at
    `destination`. A complete sample of the same version and seed is returned
    unchanged; one with missing files is made again.

    Args:
        destination: Path of the folder to write. It must not exist, be
            empty, or hold a sample.
        seed: Non-negative integer. The same seed gives the same bytes (with
            the same versions of NumPy and Pillow). Defaults to `0`.

    Returns:
        `destination` as a `pathlib.Path`: a folder with `train/`, `val/`,
        `wnids.txt` and `words.txt`.

    Raises:
        ValueError: If `seed` is not a non-negative integer.
        FileExistsError: If `destination` holds something else.

    Examples:
        >>> from keras_tinyalex.datasets.sample import make_sample
        >>> folder = make_sample("my-sample")
        >>> len(list((folder / "train").iterdir()))
        20
    """
    seed = check_integer("seed", seed, minimum=0)
    final = Path(destination)
    if _is_complete(final, seed):
        return final
    damaged = _read_marker(final).get("seed") == seed
    empty = final.is_dir() and not any(final.iterdir())
    if final.exists() and not damaged and not empty:
        raise FileExistsError(
            "`destination` must be a new or empty folder, or a sample of version "
            f"{VERSION} and seed {seed}. Pass another path, or remove the folder. "
            f"Received: destination={str(destination)!r}"
        )
    final.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{final.name}-", dir=final.parent))
    try:
        _write_files(work / "new", seed)
        if damaged:
            os.replace(final, work / "old")
        elif empty:
            final.rmdir()
        os.replace(work / "new", final)
    except OSError:
        # Another process has made the same sample in the meantime.
        if not _is_complete(final, seed):
            raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return final


def sample_path(cache_dir: PathLike | None = None) -> Path:
    """Returns the sample's folder in the cache, and makes it on first use.

    Args:
        cache_dir: Path of the cache folder. Defaults to `None`: the
            environment variable `KERAS_HOME`, or `~/.keras` if it is not set.
            If the folder cannot be written, the sample is written to `.keras`
            in the system's temporary folder, as Keras does.

    Returns:
        The `pathlib.Path` of `keras_tinyalex/sample-v1-seed0` in the cache, a
        folder in the layout of Tiny ImageNet (see `make_sample`).

    Examples:
        >>> from keras_tinyalex.datasets.sample import sample_path
        >>> sample_path().name
        'sample-v1-seed0'
    """
    cache = Path(cache_dir).expanduser() if cache_dir else keras_home()
    inside = Path("keras_tinyalex", f"sample-v{VERSION}-seed0")
    folder = cache / inside
    if not _is_complete(folder, 0) and not _is_writable(folder.parent):
        folder = Path(tempfile.gettempdir(), ".keras") / inside
    return make_sample(folder)


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)


def _read_marker(folder: Path) -> dict[str, Any]:
    """Returns the marker of the sample in `folder`, or `{}` if there is none."""
    try:
        marker = json.loads((folder / SAMPLE_MARKER).read_text())
    except (OSError, ValueError):
        return {}
    known = isinstance(marker, dict) and marker.get("version") == VERSION
    return marker if known else {}


def _is_complete(folder: Path, seed: int) -> bool:
    marker = _read_marker(folder)
    return marker.get("seed") == seed and marker.get("bytes") == _count_bytes(folder)


def _count_bytes(folder: Path) -> int:
    files = (path for path in folder.rglob("*") if path.name != SAMPLE_MARKER)
    return sum(path.stat().st_size for path in files if path.is_file())


def _write_files(root: Path, seed: int) -> None:
    order = np.random.default_rng([seed]).permutation(20)
    wnids = list(CLASS_WORDS)
    (root / "val" / "images").mkdir(parents=True)
    for label, wnid in enumerate(wnids):
        (root / "train" / wnid / "images").mkdir(parents=True)
        lines = []
        for index in range(TRAIN_PER_CLASS):
            name = f"{wnid}_{index}.JPEG"
            data, box = _encode_image(seed, 0, label, index)
            (root / "train" / wnid / "images" / name).write_bytes(data)
            lines.append("\t".join([name, *map(str, box)]))
        _write_lines(root / "train" / wnid / f"{wnid}_boxes.txt", lines)
    # The official validation images are not grouped by class either.
    labels = np.repeat(np.arange(20), VAL_PER_CLASS)
    lines = []
    for index, label in enumerate(np.random.default_rng([seed, 1]).permutation(labels)):
        name = f"val_{index}.JPEG"
        data, box = _encode_image(seed, 1, int(label), index)
        (root / "val" / "images" / name).write_bytes(data)
        lines.append("\t".join([name, wnids[label], *map(str, box)]))
    _write_lines(root / "val" / "val_annotations.txt", lines)
    _write_lines(root / "wnids.txt", [wnids[label] for label in order])
    _write_lines(root / "words.txt", ["\t".join(item) for item in CLASS_WORDS.items()])
    marker = {"version": VERSION, "seed": seed, "bytes": _count_bytes(root)}
    write_json(root / SAMPLE_MARKER, marker, indent=None)


def _write_lines(path: Path, lines: list[str]) -> None:
    path.write_text("".join(line + "\n" for line in lines), newline="\n")


def _encode_image(
    seed: int, split: int, label: int, index: int
) -> tuple[bytes, tuple[int, int, int, int]]:
    from PIL import Image

    # Each image has its own generator and does not depend on the earlier ones.
    rng = np.random.default_rng([seed, split, label, index])
    pixels, box = _draw(rng, label)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=92)
    return stream.getvalue(), box


def _draw(
    rng: np.random.Generator, label: int
) -> tuple[NDArray[np.uint8], tuple[int, int, int, int]]:
    """Returns an image of class `label` and the bounding box of its object."""
    image = _background(rng)
    # Position, size and angle; (u, v) are coordinates relative to the object.
    radius = rng.uniform(22.0, 28.0)
    x, y = _X - rng.uniform(26, 38), _Y - rng.uniform(26, 38)
    angle = rng.uniform(0, 2 * np.pi)
    u = (np.cos(angle) * x + np.sin(angle) * y) / radius
    v = (np.cos(angle) * y - np.sin(angle) * x) / radius
    shape = _SHAPE_FUNCTIONS[_SHAPES[label // 4]]
    mask = np.clip(radius * shape(u, v) + 0.5, 0.0, 1.0)
    # A bright color and its dark complement, in random order, so that the mean color
    # says little. Each pair is shared by two classes that differ in pattern and shape.
    hue = 0.3 * label + rng.normal(0.0, 0.012)
    pair = [
        _bright_color(rng, hue),
        _bright_color(rng, hue + 0.5) * rng.uniform(0.4, 0.6),
    ]
    if rng.random() < 0.5:
        pair.reverse()
    period = rng.uniform(8.0, 11.0) / radius
    wave = _PATTERN_FUNCTIONS[_PATTERNS[label % 4]](
        2 * np.pi * u / period + rng.uniform(0, 6),
        2 * np.pi * v / period + rng.uniform(0, 6),
        2 * np.pi * np.hypot(u, v) / period + rng.uniform(0, 6),
    )
    weight = np.clip(0.5 + 1.6 * wave, 0.0, 1.0)
    paint = weight * pair[0] + (1 - weight) * pair[1]
    # Light comes from one side, and the object casts a shadow to the other.
    light = rng.uniform(0, 2 * np.pi)
    slope = (np.cos(light) * x + np.sin(light) * y) / radius
    paint = paint * (1.0 + rng.uniform(0.05, 0.3) * slope)
    shift = (round(-3 * np.sin(light)), round(-3 * np.cos(light)))
    shadow = np.roll(mask, shift, axis=(0, 1))
    image = image * (1.0 - 0.45 * shadow)
    image = image + mask * (paint - image)
    image = image * rng.uniform(0.8, 1.1) * rng.uniform(0.95, 1.05, (3, 1, 1))
    image = image.transpose(1, 2, 0)
    image = image + rng.normal(0.0, rng.uniform(0.01, 0.035), image.shape)
    rows, columns = (np.flatnonzero(mask.max(axis)) for axis in (1, 0))
    box = (int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1]))
    return np.rint(np.clip(image, 0.0, 1.0) * 255).astype(np.uint8), box


def _background(rng: np.random.Generator) -> Array:
    """Returns a background: smooth noise in a muted color, with bars and blobs."""
    noise = 0.25 * _smooth_noise(rng, 3) + 0.15 * _smooth_noise(rng, 9) - 0.2
    image = _muted_color(rng) + noise
    for _ in range(rng.integers(2, 6)):
        angle, size = rng.uniform(0, np.pi), rng.uniform(3.0, 9.0)
        x, y = _X - rng.uniform(0, SIZE), _Y - rng.uniform(0, SIZE)
        along = np.cos(angle) * x + np.sin(angle) * y
        across = np.cos(angle) * y - np.sin(angle) * x
        stretch = rng.uniform(1.0, 5.0)
        blob = np.clip(size - np.hypot(along / stretch, across), 0.0, 1.0)
        image = image + 0.8 * blob * (_muted_color(rng) - image)
    return image


def _smooth_noise(rng: np.random.Generator, cells: int) -> Array:
    """Returns `cells` x `cells` random values in [0, 1], enlarged to `(64, 64)`."""
    matrix = _interpolation(cells)
    noise: Array = matrix @ rng.random((cells, cells)) @ matrix.T
    return noise


@functools.cache
def _interpolation(cells: int) -> Array:
    """Returns the matrix of linear interpolation from `cells` to 64 values."""
    position = np.linspace(0, cells - 1, SIZE)[:, None]
    return np.clip(1.0 - np.abs(position - np.arange(cells)), 0.0, 1.0)


def _bright_color(rng: np.random.Generator, hue: float) -> Array:
    return _rgb(hue, rng.uniform(0.75, 1.0), rng.uniform(0.75, 1.0))


def _muted_color(rng: np.random.Generator) -> Array:
    return _rgb(rng.random(), rng.uniform(0.05, 0.35), rng.uniform(0.25, 0.75))


def _rgb(hue: float, saturation: float, value: float) -> Array:
    # Channels first until the end: NumPy is slow if the last axis has length 3.
    color = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return np.array(color).reshape(3, 1, 1)


_Y, _X = np.mgrid[0:SIZE, 0:SIZE].astype(np.float64) + 0.5


def _polygon(u: Array, v: Array, corners: int, inner: float) -> Array:
    """Returns the distance of points to the edge of a regular star, positive inside.

    Args:
        u: Horizontal coordinates of the points, relative to the center.
        v: Vertical coordinates.
        corners: Number of outer corners, at radius 1.
        inner: Radius of the inner corners.
    """
    sector = np.pi / corners
    angle = np.abs((np.arctan2(v, u) + sector) % (2 * sector) - sector)
    radius = np.hypot(u, v)
    # The edge runs from the outer corner (1, 0) to the inner one.
    ex, ey = inner * np.cos(sector) - 1.0, inner * np.sin(sector)
    x, y = radius * np.cos(angle), radius * np.sin(angle)
    distance: Array = (ex * y - ey * (x - 1.0)) / np.hypot(ex, ey)
    return distance


# Distance to the edge as a fraction of the radius, positive inside.
_SHAPE_FUNCTIONS: dict[str, Callable[[Array, Array], Array]] = {
    "disc": lambda u, v: 0.9 - np.hypot(u, v),
    "square": lambda u, v: 0.8 - np.maximum(np.abs(u), np.abs(v)),
    "triangle": lambda u, v: _polygon(u, v, 3, 0.5),
    "star": lambda u, v: _polygon(u, v, 5, 0.45),
    "cross": lambda u, v: np.maximum(
        np.minimum(0.95 - np.abs(u), 0.35 - np.abs(v)),
        np.minimum(0.35 - np.abs(u), 0.95 - np.abs(v)),
    ),
}
# Waves around zero: functions of the phases along u, v and the radius.
_PATTERN_FUNCTIONS: dict[str, Callable[[Array, Array, Array], Array]] = {
    "striped": lambda a, b, r: np.sin(a),
    "checked": lambda a, b, r: 2 * np.sin(a / 1.5) * np.sin(b / 1.5),
    "dotted": lambda a, b, r: np.cos(a) + np.cos(b) - 0.7,
    "ringed": lambda a, b, r: np.sin(r),
}
