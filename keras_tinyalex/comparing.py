"""Finished runs: found below folders, and compared over their seeds. Needs no Keras."""

from __future__ import annotations

import csv
import json
import math
import os
import reprlib
import statistics
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from keras_tinyalex.aliases import PathLike
from keras_tinyalex.metrics import summarize

CONFIG_FILE = "config.json"
ENVIRONMENT_FILE = "environment.json"
HISTORY_FILE = "history.csv"
METRICS_FILE = "metrics.json"
SEARCH_FILE = "search.json"


@dataclass(frozen=True)
class FinishedRun:
    """What a run folder says of a finished run.

    Attributes:
        path: The run folder.
        recipe: Name of the recipe.
        data: Name of the source of images.
        seed: Its seed.
        settings: All else that decides the result, by name: the fields of the
            recipe, class names, digests of the data, backend.
        accuracy: `val_accuracy` of the finished model.
        seconds: `seconds_total`.
        history: Values by epoch, as lists under their names.
    """

    path: Path
    recipe: str
    data: str
    seed: int
    settings: dict[str, Any]
    accuracy: float
    seconds: float
    history: dict[str, list[float]]


@dataclass(frozen=True)
class Study:
    """Finished runs that differ only in their seeds: a row of a comparison.

    Attributes:
        recipe: Name of the recipe.
        data: Name of the source of images.
        epochs: Epochs of the recipe.
        classes: Number of classes.
        settings: What else tells it from other rows of this recipe and data,
            as text; empty where nothing does.
        seeds: Seeds of the runs, in order.
        n: Number of runs.
        mean: Mean `val_accuracy` of the finished models.
        standard_deviation: That of the sample, with `n - 1`; `None` for one run.
        interval: `(low, high)`, the 95% interval of the mean by Student's t;
            `None` for one run.
        seconds: Mean of `seconds_total`.
        runs: Each `FinishedRun`, in the order of the seeds.
    """

    recipe: str
    data: str
    epochs: int
    classes: int
    settings: str
    seeds: tuple[int, ...]
    n: int
    mean: float
    standard_deviation: float | None
    interval: tuple[float, float] | None
    seconds: float
    runs: tuple[FinishedRun, ...]

    def as_dict(self) -> dict[str, Any]:
        """Returns the attributes, with folders in place of the runs."""
        return {**vars(self), "runs": [str(run.path) for run in self.runs]}


def compare(paths: PathLike | Sequence[PathLike] = "runs") -> list[Study]:
    """Compares finished runs: one row for each recipe, data set and setting.

    A row takes together the runs that differ only in their seeds. Runs of other
    epochs, classes, images, recipe fields, Keras backends or dtypes are other
    rows.

    Args:
        paths: One folder or several; run folders are found in them and below.
            Defaults to `"runs"`.

    Returns:
        A list of `Study`, by data and then from the highest mean accuracy to
        the lowest. A `UserWarning` lists the folders that are left out, each
        with the reason: unfinished, damaged, or a copy of another run.

    Raises:
        FileNotFoundError: If one of the paths is not a folder.

    Examples:
        >>> import tempfile, keras_tinyalex
        >>> folder = tempfile.mkdtemp()
        >>> run = keras_tinyalex.train(
        ...     classes=2, epochs=1, output=f"{folder}/run", progress=False)
        >>> [(row.recipe, row.data, row.seeds, row.n) for row in compare(folder)]
        [('baseline', 'sample', (0,), 1)]
    """
    found = find_runs([paths] if isinstance(paths, str | os.PathLike) else paths)
    if found.left_out:
        reasons = [f"{path}: {reason}" for path, reason in found.left_out.items()]
        text = f"{len(reasons)} left out of the comparison: {'; '.join(reasons)}"
        warnings.warn(text, stacklevel=2)
    return group(found.runs)


class Found(NamedTuple):
    """Runs below folders.

    Attributes:
        runs: The finished ones.
        left_out: The reason by the path of each other folder.
    """

    runs: list[FinishedRun]
    left_out: dict[Path, str]


def find_runs(paths: Sequence[PathLike]) -> Found:
    """Finds the runs in folders and below, each once; see `compare`."""
    left_out: dict[Path, str] = {}
    runs: dict[str, FinishedRun] = {}
    for folder in _run_folders(paths, left_out):
        try:
            run = read_finished(folder)
        except (OSError, ValueError) as error:
            left_out[folder] = str(error)
            continue
        first = runs.setdefault(f"{run.seed} {_identity(run)}", run)
        if first is not run:
            left_out[folder] = f"the same recipe, data and seed as {first.path}"
    return Found(list(runs.values()), left_out)


def _run_folders(
    paths: Sequence[PathLike], left_out: dict[Path, str]
) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        left_out[Path(error.filename)] = f"cannot be read ({error.strerror})"

    seen = set()
    for path in paths:
        if not Path(path).is_dir():
            raise FileNotFoundError(
                "`paths` must be folders with runs of `train` in them or below. "
                f"Received: paths={str(path)!r}"
            )
        empty = True
        for folder, subfolders, files in os.walk(
            path, onerror=refuse, followlinks=True
        ):
            subfolders.sort()
            marks = {CONFIG_FILE, ENVIRONMENT_FILE, METRICS_FILE} & set(files)
            is_run = bool(marks) and SEARCH_FILE not in files
            if known := (real := os.path.realpath(folder)) in seen:
                subfolders.clear()  # a link, or given twice
            elif is_run:
                yield Path(folder)
            empty = empty and not (known or is_run)
            seen.add(real)
        if empty:
            left_out.setdefault(Path(path), "no run in it or below it")


def read_finished(folder: Path) -> FinishedRun:
    """Reads the run folder of a finished run.

    Raises:
        ValueError: If it is not finished, or a file of it is missing or damaged.
        OSError: If a file cannot be read.
    """
    config = _read_json(folder / CONFIG_FILE)
    recipe = _field(config, "recipe", dict, CONFIG_FILE)
    epochs = _field(recipe, "epochs", int, CONFIG_FILE)
    if not (folder / METRICS_FILE).exists():
        raise ValueError(f"not finished, {_epochs_done(folder)} of {epochs} epochs")
    metrics = _read_json(folder / METRICS_FILE)
    environment = _read_json(folder / ENVIRONMENT_FILE)
    settings = {**recipe, **config, "backend": environment.get("backend")}
    if recipe.get("dtype") == "auto":
        settings["dtype"] = environment.get("dtype")
    for name in ("name", "description", "recipe", "data", "seed", "fingerprint"):
        settings.pop(name, None)
    _field(settings, "class_names", list, CONFIG_FILE)
    data = _field(config, "data", str, CONFIG_FILE)
    return FinishedRun(
        folder,
        _field(recipe, "name", str, CONFIG_FILE),
        Path(data).name.removesuffix(".zip") or data,
        _field(config, "seed", int, CONFIG_FILE),
        {name: value for name, value in settings.items() if value is not None},
        _field(metrics, "val_accuracy", float, METRICS_FILE),
        _field(metrics, "seconds_total", float, METRICS_FILE),
        read_history(folder / HISTORY_FILE),
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path.name} is missing") from None
    except ValueError as error:
        raise ValueError(f"{path.name} is damaged ({error})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} is damaged (not an object)")
    return content


def _field(content: dict[str, Any], name: str, kind: type, file: str) -> Any:
    value: Any = content.get(name)
    finite = not isinstance(value, float) or math.isfinite(value)
    if not isinstance(value, kind) or not finite:
        raise ValueError(f"{file} is not that of a run ({name}={value!r:.80})")
    return value


def _epochs_done(folder: Path) -> int:
    try:
        return len(read_history(folder / HISTORY_FILE)["epoch"])
    except (OSError, ValueError, KeyError):
        return 0


def read_history(path: Path) -> dict[str, list[float]]:
    """Reads `history.csv`: the values by epoch, as lists under their names."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            names, *rows = csv.reader(file)
        columns = zip(*([float(text) for text in row] for row in rows), strict=True)
        return dict(zip(names, map(list, columns), strict=True))
    except FileNotFoundError:
        raise ValueError(f"{path.name} is missing") from None
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path.name} is damaged ({error})") from None


def _identity(run: FinishedRun) -> str:
    """All that decides the result of a run, except the seed, and its recipe's name."""
    return json.dumps([run.recipe, run.settings], sort_keys=True)


def group(runs: Sequence[FinishedRun]) -> list[Study]:
    """Groups runs that differ only in their seeds; see `compare`."""
    groups: dict[str, list[FinishedRun]] = {}
    for run in runs:
        groups.setdefault(_identity(run), []).append(run)
    alike: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for first, *_ in groups.values():
        alike.setdefault((first.recipe, first.data), []).append(first.settings)
    studies = []
    for members in groups.values():
        first = members[0]
        members.sort(key=lambda run: run.seed)
        summary = summarize([run.accuracy for run in members])
        study = Study(
            first.recipe,
            first.data,
            first.settings["epochs"],
            len(first.settings["class_names"]),
            _differences(first.settings, alike[first.recipe, first.data]),
            tuple(run.seed for run in members),
            len(members),
            *summary,
            statistics.fmean(run.seconds for run in members),
            tuple(members),
        )
        studies.append(study)
    return sorted(studies, key=lambda study: (study.data, -study.mean))


def _differences(settings: dict[str, Any], others: list[dict[str, Any]]) -> str:
    """Names the settings that are not the same in all of the others."""
    names = dict.fromkeys(name for other in others for name in other)
    names = {n: None for n in names if any(o.get(n) != settings.get(n) for o in others)}
    names.pop("epochs", None)  # a column of its own
    if "class_names" in names:
        # They have other images, and in most cases another number.
        names = {n: None for n in names if n not in ("train_sha256", "val_sha256")}
        if len({len(other["class_names"]) for other in others}) == len(others):
            del names["class_names"]
    return ", ".join(f"{name} {_short(name, settings.get(name))}" for name in names)


def _short(name: str, value: Any) -> str:
    if name.endswith("_sha256"):
        return f"{value:.8}"
    return value if isinstance(value, str) else reprlib.repr(value)


def cells(studies: Sequence[Study]) -> tuple[list[str], list[list[str]]]:
    """Returns the header and the rows of a table, as text; `-` is what is not known."""
    rows = []
    for study in studies:
        low_high = study.interval and "{:.4f} to {:.4f}".format(*study.interval)
        deviation = study.standard_deviation
        row = {
            "recipe": study.recipe,
            "data": study.data,
            "epochs": f"{study.epochs}",
            "classes": f"{study.classes}",
            "settings": study.settings or "-",
            "seeds": " ".join(map(str, study.seeds)),
            "n": f"{study.n}",
            "mean": f"{study.mean:.4f}",
            "standard deviation": "-" if deviation is None else f"{deviation:.4f}",
            "95% interval": low_high or "-",
            "seconds": f"{study.seconds:.1f}",
        }
        if not any(other.settings for other in studies):
            del row["settings"]
        rows.append(row)
    return list(rows[0]) if rows else [], [list(row.values()) for row in rows]
