"""The folder of a run or a search: whose it is, who may write, how it is read."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import reprlib
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from keras_tinyalex import machine
from keras_tinyalex.aliases import PathLike
from keras_tinyalex.comparing import (
    CONFIG_FILE,
    ENVIRONMENT_FILE,
    HISTORY_FILE,
    SEARCH_FILE,
    read_history,
)
from keras_tinyalex.comparing import METRICS_FILE as METRICS_FILE
from keras_tinyalex.comparing import Study as Study
from keras_tinyalex.comparing import compare as compare
from keras_tinyalex.datasets.cache import blocks
from keras_tinyalex.files import single_writer, write_json
from keras_tinyalex.recipes import Recipe

if TYPE_CHECKING:
    import keras

    from keras_tinyalex.datasets.batches import LabelledArrays

# While a process writes to the folder.
LOCK_FILE = ".lock"


class Kind(NamedTuple):
    """What a folder is for: `RUN` or `SEARCH`.

    Attributes:
        name: For messages.
        config_file: The file that says so, and what the folder was made from.
        cure: What to do where the folder is another's, for messages.
    """

    name: str
    config_file: str
    cure: str


RUN = Kind(
    "run",
    CONFIG_FILE,
    "choose another `output`, or start again with resume=False (--no-resume)",
)
SEARCH = Kind("search", SEARCH_FILE, "choose another `output`")


@dataclass(frozen=True)
class Run:
    """A finished training.

    Attributes:
        path: The run folder.
        model: The trained `keras.Model`.
        class_names: Class names (wnids) in label order.
        history: Values by epoch, as lists under their names.
        metrics: Results, as in `metrics.json`.
        already_finished: Whether it was trained before: `train` has only read
            its folder.
    """

    path: Path
    model: keras.Model
    class_names: tuple[str, ...]
    history: dict[str, list[float]]
    metrics: dict[str, Any]
    already_finished: bool = False


def read(path: PathLike) -> Run:
    """Reads the folder of a finished run.

    Args:
        path: The run folder.

    Returns:
        A `Run`.

    Raises:
        FileNotFoundError: If there is no run, or it is not finished.

    Examples:
        >>> import tempfile, keras_tinyalex
        >>> folder = tempfile.mkdtemp()
        >>> run = keras_tinyalex.train(
        ...     classes=2, epochs=1, output=folder, progress=False)
        >>> read(folder).metrics == run.metrics
        True
    """
    folder = Path(path)
    if not (folder / METRICS_FILE).exists():
        raise FileNotFoundError(
            f"`path` must be the folder of a finished run, with {METRICS_FILE} in it. "
            f"Received: path={str(folder)!r}"
        )
    from keras_tinyalex.applications.model_files import load_model

    model, class_names = load_model(folder / "model.keras")
    history = read_history(folder / HISTORY_FILE)
    metrics = json.loads((folder / METRICS_FILE).read_text(encoding="utf-8"))
    return Run(folder, model, class_names or (), history, metrics, True)


def default_folder(name: str, data: object, seed: int) -> Path:
    """Returns the folder of a run or search for which no `output` was given.

    Examples:
        >>> default_folder("best", "data/pets.zip", 0).as_posix()
        'runs/best-pets-seed0'
    """
    source = Path(str(data)).expanduser().resolve().name.removesuffix(".zip")
    return Path("runs", f"{name}-{source}-seed{seed}")


def claim(folder: Path, kind: Kind) -> None:
    """Makes the folder, or refuses one that holds other files.

    Args:
        folder: A new or empty folder, or one of this kind.
        kind: `RUN` or `SEARCH`.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"`output` must be a folder. Received: output={str(folder)!r}")
    if not (folder / kind.config_file).exists() and folder.exists():
        # A process that was killed while it began may have left these.
        begun = {LOCK_FILE, ENVIRONMENT_FILE}
        begun |= {f"{name}.part" for name in (ENVIRONMENT_FILE, kind.config_file)}
        if {path.name for path in folder.iterdir()} - begun:
            raise ValueError(
                f"`output` must be a new or empty folder, or the folder of a "
                f"{kind.name}; this one holds other files. "
                f"Received: output={str(folder)!r}"
            )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            error.errno,
            f"`output` must be a folder that can be made ({error.strerror}). Choose "
            f"another. Received: output={str(folder)!r}",
        ) from None


def lock(folder: Path) -> AbstractContextManager[None]:
    """Makes this process the only writer of a folder, see `files.single_writer`."""
    return single_writer(folder / LOCK_FILE, "output", folder)


def clear(folder: Path) -> None:
    """Removes what a locked run folder holds, so that the run starts again."""
    # The mark of a complete run goes first, and last the mark of whose folder it is.
    order = {METRICS_FILE: 0, RUN.config_file: 2}
    for path in sorted(folder.iterdir(), key=lambda path: order.get(path.name, 1)):
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK_FILE:
            path.unlink()


def begin(
    folder: Path, kind: Kind, config: Mapping[str, Any], dtype: str = "float32"
) -> None:
    """Writes the config and the environment, or checks that the config is the same.

    A run that ended before its first epoch, as one does whose weights do not fit, has
    nothing to lose: another may begin in its folder.

    Args:
        folder: A claimed and locked folder.
        kind: `RUN` or `SEARCH`.
        config: From `with_fingerprint`.
        dtype: The recipe's. `"auto"` is decided here, once for the folder: whoever
            resumes it, or works on it on another machine, trains in the same dtype.
    """
    begun = (folder / kind.config_file).exists()
    if begun and (kind is not RUN or _has_results(folder)):
        require_same(folder, kind, config)
        return
    environment = machine.environment()
    if dtype == "auto":
        environment["dtype"], environment["dtype_reason"] = machine.fastest_dtype()
    write_json(folder / ENVIRONMENT_FILE, environment)
    write_json(folder / kind.config_file, config)


def _has_results(folder: Path) -> bool:
    """Whether a run folder has an epoch, or what comes after."""
    files = (METRICS_FILE, HISTORY_FILE, "model.keras", "model.h5")
    checkpoints = (folder / "checkpoints").glob("*.npz")
    return any((folder / name).exists() for name in files) or any(checkpoints)


def require_same(folder: Path, kind: Kind, config: Mapping[str, Any]) -> None:
    """Refuses a folder that was begun with another config."""
    file = folder / kind.config_file
    try:
        old = json.loads(file.read_text(encoding="utf-8"))
        fingerprint = old["fingerprint"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is damaged ({error}); {kind.cure}.") from None
    if fingerprint != config["fingerprint"]:
        changed = [k for k in {**old, **config} if old.get(k) != config.get(k)]
        changed.remove("fingerprint")
        if "data" in changed and not any(k.endswith("_sha256") for k in changed):
            changed.remove("data")  # the same images in another place
        there, asked = ({k: c.get(k) for k in changed} for c in (old, config))
        raise ValueError(
            f"`output` holds another {kind.name} ({fingerprint}) than the one asked "
            f"for ({config['fingerprint']}): {', '.join(changed)} differ "
            f"({'; '.join(_differences(there, asked))}); {kind.cure}. "
            f"Received: output={str(folder)!r}"
        )


def _differences(
    old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = ""
) -> Iterator[str]:
    """Yields each value that differs, as it is in the folder and as asked for."""
    for field in {**old, **new}:
        there, asked = old.get(field), new.get(field)
        if there == asked:
            continue
        if isinstance(there, dict) and isinstance(asked, dict):
            yield from _differences(there, asked, f"{prefix}{field}.")
            continue
        if isinstance(there, list) and isinstance(asked, list):
            # Of a long list only what the other has not.
            there, asked = (
                [value for value in there if value not in asked],
                [value for value in asked if value not in there],
            )
            if not there and not asked:
                there, asked = "one order", "another"
        shown = f"{reprlib.repr(there)} in the folder, {reprlib.repr(asked)} asked for"
        yield f"{prefix}{field}: {shown}"


def with_fingerprint(data: object, decisive: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the content of a config file.

    Args:
        data: The source of images, for people to read.
        decisive: All that decides the result; the fingerprint is a digest of it.
    """
    text = json.dumps(decisive, sort_keys=True)
    fingerprint = hashlib.sha256(text.encode()).hexdigest()[:16]
    return {"data": str(data), **decisive, "fingerprint": fingerprint}


def data_digest(data: LabelledArrays) -> str:
    """Returns the SHA-256 of images and labels."""
    sha256 = hashlib.sha256()
    for block in blocks(data.images):
        sha256.update(block.data)
    sha256.update(data.labels.data)
    return sha256.hexdigest()


def resolve_dtype(recipe: Recipe, folder: Path, progress: bool = False) -> Recipe:
    """Returns the recipe with the dtype that `begin` chose in place of `"auto"`.

    Args:
        recipe: A `Recipe`.
        folder: Folder of the run or search.
        progress: Whether to report the dtype on standard error.
    """
    if recipe.dtype != "auto":
        return recipe
    file = folder / ENVIRONMENT_FILE
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        dtype, reason = content["dtype"], content["dtype_reason"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{file} must hold the dtype of this run or search, but cannot be "
            f"read ({error!r}). Restore it, or choose another `output`."
        ) from None
    if progress:
        print(f"dtype {dtype}: {reason}", file=sys.stderr)
    return dataclasses.replace(recipe, dtype=dtype)
