"""The embedded sample: 20 classes of drawn pictures, made from a seed."""

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

Array = NDArray[np.float64]

VERSION = 1
TRAIN_PER_CLASS = 100
VAL_PER_CLASS = 20
SIZE = 64

_MARKER = "sample.json"
_PATTERNS = ("striped", "checked", "dotted", "ringed")
_SHAPES = ("disc", "square", "triangle", "star", "cross")
# WordNet offsets have eight digits and stay below 16 million, so that no real
# synset has these ids.
CLASS_WORDS = {
    f"n{99000000 + index}": f"{_PATTERNS[index % 4]} {_SHAPES[index // 4]}"
    for index in range(20)
}


def make_sample(destination: str | os.PathLike[str], seed: int = 0) -> Path:
    """Writes the sample data set in the layout of Tiny ImageNet.

    Each of the 20 classes is a pattern on a shape, such as "striped disc",
    drawn at a random place, size, angle and light, in front of a random
    background: 100 training and 20 validation pictures a class, 64x64 RGB
    JPEG. They are computed, not photographed, and free of any licence. The
    set is hard for a linear classifier on the pixels and easy for
    `AlexNetMini`.

    The files are written to a temporary folder beside `destination`, which
    is then renamed: a run that is killed leaves nothing at `destination`. A
    complete set of the same version and seed is kept as it is; one with
    files missing is made again.

    Args:
        destination: Path of the folder to make. It must not exist, be empty,
            or hold a sample.
        seed: Integer >= 0. The same seed gives the same bytes (with the same
            versions of NumPy and Pillow). Defaults to `0`.

    Returns:
        `destination` as a `pathlib.Path`: a folder with `train/`, `val/`,
        `wnids.txt` and `words.txt`.

    Raises:
        ValueError: If `seed` is not an integer >= 0.
        FileExistsError: If `destination` holds something else.

    Examples:
        >>> from keras_tinyalex.datasets.sample import make_sample
        >>> folder = make_sample("my-sample")
        >>> len(list((folder / "train").iterdir()))
        20
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"`seed` must be an integer >= 0. Received: seed={seed!r}")
    final = Path(destination)
    if _is_complete(final, seed):
        return final
    damaged = _read_marker(final).get("seed") == seed
    empty = final.is_dir() and not any(final.iterdir())
    if final.exists() and not damaged and not empty:
        raise FileExistsError(
            "`destination` must be a new or empty folder, or a sample of version "
            f"{VERSION} and seed {seed}. Choose another path, or remove what is "
            f"there. Received: destination={str(destination)!r}"
        )
    final.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{final.name}-", dir=final.parent))
    try:
        _write_set(work / "new", seed)
        if damaged:
            os.replace(final, work / "old")
        elif empty:
            final.rmdir()
        os.replace(work / "new", final)
    except OSError:
        # Another process that made the same set at the same time was first.
        if not _is_complete(final, seed):
            raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return final


def sample_path(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Returns the sample's folder in the cache, making it on first use.

    Args:
        cache_dir: Path of the cache folder. Defaults to `None`: the
            environment variable `KERAS_HOME`, or `~/.keras` where it is not
            set. Where the folder cannot be written, the sample goes to
            `.keras` in the system's temporary folder, as Keras does.

    Returns:
        The `pathlib.Path` of `keras_tinyalex/sample-v1-seed0` in the cache, a
        folder in the layout of Tiny ImageNet (see `make_sample`).

    Examples:
        >>> from keras_tinyalex.datasets.sample import sample_path
        >>> sample_path().name
        'sample-v1-seed0'
    """
    cache = Path(cache_dir or os.environ.get("KERAS_HOME") or "~/.keras").expanduser()
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
    """Returns what the sample in `folder` says of itself, `{}` if none is."""
    try:
        marker = json.loads((folder / _MARKER).read_text())
    except (OSError, ValueError):
        return {}
    known = isinstance(marker, dict) and marker.get("version") == VERSION
    return marker if known else {}


def _is_complete(folder: Path, seed: int) -> bool:
    marker = _read_marker(folder)
    return marker.get("seed") == seed and marker.get("bytes") == _count_bytes(folder)


def _count_bytes(folder: Path) -> int:
    files = (path for path in folder.rglob("*") if path.name != _MARKER)
    return sum(path.stat().st_size for path in files if path.is_file())


def _write_set(root: Path, seed: int) -> None:
    order = np.random.default_rng([seed]).permutation(20)
    wnids = list(CLASS_WORDS)
    (root / "val" / "images").mkdir(parents=True)
    for label, wnid in enumerate(wnids):
        (root / "train" / wnid / "images").mkdir(parents=True)
        lines = []
        for index in range(TRAIN_PER_CLASS):
            name = f"{wnid}_{index}.JPEG"
            data, box = _encode_picture(seed, 0, label, index)
            (root / "train" / wnid / "images" / name).write_bytes(data)
            lines.append("\t".join([name, *map(str, box)]))
        _write_lines(root / "train" / wnid / f"{wnid}_boxes.txt", lines)
    # The official validation images are not grouped by class either.
    labels = np.repeat(np.arange(20), VAL_PER_CLASS)
    lines = []
    for index, label in enumerate(np.random.default_rng([seed, 1]).permutation(labels)):
        name = f"val_{index}.JPEG"
        data, box = _encode_picture(seed, 1, int(label), index)
        (root / "val" / "images" / name).write_bytes(data)
        lines.append("\t".join([name, wnids[label], *map(str, box)]))
    _write_lines(root / "val" / "val_annotations.txt", lines)
    _write_lines(root / "wnids.txt", [wnids[label] for label in order])
    _write_lines(root / "words.txt", ["\t".join(item) for item in CLASS_WORDS.items()])
    marker = {"version": VERSION, "seed": seed, "bytes": _count_bytes(root)}
    (root / _MARKER).write_text(json.dumps(marker) + "\n")


def _write_lines(path: Path, lines: list[str]) -> None:
    path.write_text("".join(line + "\n" for line in lines), newline="\n")


def _encode_picture(
    seed: int, split: int, label: int, index: int
) -> tuple[bytes, tuple[int, int, int, int]]:
    from PIL import Image

    # A generator for each picture: none depends on those drawn before it.
    rng = np.random.default_rng([seed, split, label, index])
    pixels, box = _draw(rng, label)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=92)
    return stream.getvalue(), box


def _draw(
    rng: np.random.Generator, label: int
) -> tuple[NDArray[np.uint8], tuple[int, int, int, int]]:
    """Returns a picture of class `label` and the box around its object."""
    image = _background(rng)
    # Place, size and angle; (u, v) are the object's own coordinates.
    radius = rng.uniform(22.0, 28.0)
    x, y = _X - rng.uniform(26, 38), _Y - rng.uniform(26, 38)
    angle = rng.uniform(0, 2 * np.pi)
    u = (np.cos(angle) * x + np.sin(angle) * y) / radius
    v = (np.cos(angle) * y - np.sin(angle) * x) / radius
    shape = _SHAPE_FUNCTIONS[_SHAPES[label // 4]]
    mask = np.clip(radius * shape(u, v) + 0.5, 0.0, 1.0)
    # A bright colour and its dark opposite, in either order: their mean says
    # little. Two classes of unlike pattern and shape share each pair.
    hue = 0.3 * label + rng.normal(0.0, 0.012)
    pair = [_color(rng, hue), _color(rng, hue + 0.5) * rng.uniform(0.4, 0.6)]
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
    # Light falls from one side, and the object throws a shadow to the other.
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
    """Returns a muted, cloudy ground with bars and blobs lying about on it."""
    clouds = 0.25 * _clouds(rng, 3) + 0.15 * _clouds(rng, 9) - 0.2
    ground = _muted(rng) + clouds
    for _ in range(rng.integers(2, 6)):
        angle, size = rng.uniform(0, np.pi), rng.uniform(3.0, 9.0)
        x, y = _X - rng.uniform(0, SIZE), _Y - rng.uniform(0, SIZE)
        along = np.cos(angle) * x + np.sin(angle) * y
        across = np.cos(angle) * y - np.sin(angle) * x
        stretch = rng.uniform(1.0, 5.0)
        blob = np.clip(size - np.hypot(along / stretch, across), 0.0, 1.0)
        ground = ground + 0.8 * blob * (_muted(rng) - ground)
    return ground


def _clouds(rng: np.random.Generator, cells: int) -> Array:
    """Returns smooth noise in [0, 1], `cells` patches across: `(64, 64)`."""
    matrix = _interpolation(cells)
    clouds: Array = matrix @ rng.random((cells, cells)) @ matrix.T
    return clouds


@functools.cache
def _interpolation(cells: int) -> Array:
    place = np.linspace(0, cells - 1, SIZE)[:, None]
    return np.clip(1.0 - np.abs(place - np.arange(cells)), 0.0, 1.0)


def _color(rng: np.random.Generator, hue: float) -> Array:
    return _rgb(hue, rng.uniform(0.75, 1.0), rng.uniform(0.75, 1.0))


def _muted(rng: np.random.Generator) -> Array:
    return _rgb(rng.random(), rng.uniform(0.05, 0.35), rng.uniform(0.25, 0.75))


def _rgb(hue: float, saturation: float, value: float) -> Array:
    # Channels first until the end: NumPy is slow with a last axis of three.
    color = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return np.array(color).reshape(3, 1, 1)


_Y, _X = np.mgrid[0:SIZE, 0:SIZE].astype(np.float64) + 0.5


def _polygon(u: Array, v: Array, corners: int, inner: float) -> Array:
    """Returns how far inside a regular star of inner radius `inner` points are."""
    sector = np.pi / corners
    angle = np.abs((np.arctan2(v, u) + sector) % (2 * sector) - sector)
    radius = np.hypot(u, v)
    # The edge runs from the outer corner (1, 0) to the inner one.
    ex, ey = inner * np.cos(sector) - 1.0, inner * np.sin(sector)
    x, y = radius * np.cos(angle), radius * np.sin(angle)
    distance: Array = (ex * y - ey * (x - 1.0)) / np.hypot(ex, ey)
    return distance


# Distance to the edge in radii, positive inside.
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
# Waves around zero, of phases along u, along v and along the radius.
_PATTERN_FUNCTIONS: dict[str, Callable[[Array, Array, Array], Array]] = {
    "striped": lambda a, b, r: np.sin(a),
    "checked": lambda a, b, r: 2 * np.sin(a / 1.5) * np.sin(b / 1.5),
    "dotted": lambda a, b, r: np.cos(a) + np.cos(b) - 0.7,
    "ringed": lambda a, b, r: np.sin(r),
}
