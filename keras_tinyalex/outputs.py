"""What a training writes at its end: tried before its first epoch."""

from __future__ import annotations

import contextlib
import errno
import io
import math
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import keras

from keras_tinyalex.applications.model_files import save_model
from keras_tinyalex.checkpoints import MAX_CHECKPOINTS
from keras_tinyalex.datasets.classes import readable_name

# Bytes for figures, logs and tables.
SMALL_FILES = 1 << 20


def try_outputs(
    folder: Path,
    model: keras.Model,
    class_names: Sequence[str],
    words: Mapping[str, str],
) -> None:
    """Tries the disk, files with the class names, and figures of them.

    Args:
        folder: The run folder.
        model: The compiled model, which is not changed.
        class_names: Class names in label order.
        words: Readable names by class name.

    Raises:
        OSError: If the folder cannot be written, or its disk is too full.
        ValueError: If a model file cannot hold the class names.
    """
    _require_space(folder, model)
    pixel = keras.Input((1,), name="pixel")
    probe = keras.Model(pixel, pixel, name="probe")
    path = folder / "probe.keras"
    try:
        save_model(probe, path, class_names)
        with optional("model.h5"):
            save_model(probe, path.with_suffix(".h5"), class_names)
    finally:
        path.unlink(missing_ok=True)
        path.with_suffix(".h5").unlink(missing_ok=True)
    with optional("plots"):
        from keras_tinyalex.visualization.summary import plot_letters

        names = [readable_name(name, words) for name in class_names]
        plot_letters(names).savefig(io.BytesIO())


def _require_space(folder: Path, model: keras.Model) -> None:
    state = [*model.variables, *model.optimizer.variables]
    size = sum(math.prod(v.shape) * (8 if "64" in v.dtype else 4) for v in state)
    # A new checkpoint is written before an old one is removed; then two model files.
    needed = (MAX_CHECKPOINTS + 1 + 2) * size + SMALL_FILES
    written = sum(file.stat().st_size for file in folder.glob("checkpoints/*.npz"))
    free = shutil.disk_usage(folder).free
    if free + written < needed:
        raise OSError(
            errno.ENOSPC,
            "`output` must have room for checkpoints and models, "
            f"{-(-(needed - written) // 10**6)} MB. Free disk space, or choose another "
            f"`output`. Received: output={str(folder)!r} with {free // 10**6} MB free",
        )


@contextlib.contextmanager
def optional(name: str, not_written: list[str] | None = None) -> Iterator[None]:
    """Reports what cannot be written, where the result must not be lost with it.

    Args:
        name: Name of the file or folder, for the report on standard error.
        not_written: Gets the name and the reason.

    Examples:
        >>> missed = []
        >>> with optional("model.h5", missed):
        ...     raise OSError("no space left on device")
        >>> missed
        ['model.h5: no space left on device']
    """
    try:
        yield
    except Exception as error:  # of matplotlib, its fonts, LaTeX, HDF5, the disk
        reason = " ".join(str(error).split()) or type(error).__name__
        print(f"{name} cannot be written, all else can: {reason}", file=sys.stderr)
        if not_written is not None:
            not_written.append(f"{name}: {reason}")
