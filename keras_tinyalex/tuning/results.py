"""The results of a search: the table, the best recipe, the checkpoints to keep."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_tinyalex import recipes
from keras_tinyalex.aliases import PathLike
from keras_tinyalex.files import atomic_write
from keras_tinyalex.recipes import Recipe
from keras_tinyalex.tuning import spaces

if TYPE_CHECKING:
    from keras_tinyalex.tuning.oracles import Oracle

OBJECTIVE = "val_accuracy"
RESULTS_FILE, BEST_FILE = "results.csv", "best.json"
# Of a trial, in its folder.
RESULT_FILE = "result.json"
_FIRST = ("trial", "status", OBJECTIVE, "epochs", "seconds", "seed", "from_trial")


@dataclass(frozen=True)
class Search:
    """A search for hyperparameters.

    Attributes:
        path: Its folder.
        trials: A dict for each trial in the order of their start, as in
            `results.csv`: `trial` (its name), `status` (`"completed"`,
            `"diverged"`, `"failed"`, `"running"`, or `"lost"` if its
            `result.json` is), `val_accuracy` and the other metrics after the
            last epoch, `epochs`, `seconds`, `seed`, `from_trial` (the trial
            whose training it continued, or `None`) and the hyperparameters.
            What a trial does not have is left out.
        best: The recipe of the best trial, or `None` if none has completed.
    """

    path: Path
    trials: list[dict[str, Any]]
    best: Recipe | None

    @property
    def ranking(self) -> list[dict[str, Any]]:
        """The completed trials, the best first."""
        return ranking(self.trials)


def ranking(trials: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the completed trials, the best first; of equals the earlier."""
    completed = [trial for trial in trials if trial["status"] == "completed"]
    return sorted(completed, key=lambda trial: -trial[OBJECTIVE])


def trial_folder(folder: Path, trial_id: str) -> Path:
    """Returns where KerasTuner puts the files of a trial."""
    return folder / f"trial_{trial_id}"


def table(oracle: Oracle, folder: Path) -> list[dict[str, Any]]:
    """Returns a row for each trial, as `Search.trials`."""
    fields = {field.name for field in dataclasses.fields(Recipe)}
    rows = []
    for trial_id in oracle.start_order:
        trial = oracle.trials[trial_id]
        values = trial.hyperparameters.values
        result = read_result(trial_folder(folder, trial_id)) or {"status": "lost"}
        ended = trial.status in ("COMPLETED", "FAILED")
        row: dict[str, Any] = {"trial": trial_id}
        row["status"] = trial.status.lower() if ended else "running"
        row["from_trial"] = values.get("tuner/trial_id")
        if trial.status == "COMPLETED" and result["status"] == "lost":
            row["status"] = "lost"
        elif trial.status == "COMPLETED":
            inherited = values.get("tuner/initial_epoch") or 0
            row.update(result["metrics"], status=result["status"])
            row.update(epochs=result["epochs"], seed=result["seed"])
            row["seconds"] = round(sum(result["seconds"][inherited:]), 1)
        row.update(spaces.recipe_fields(values))
        rows.append({k: v for k, v in row.items() if v is not None or k in fields})
    return rows


def read_result(folder: Path) -> dict[str, Any] | None:
    """Returns what a trial's `result.json` holds, or `None` if it is not whole."""
    try:
        text = (folder / RESULT_FILE).read_text(encoding="utf-8")
        content: dict[str, Any] = json.loads(text)
        return content
    except (FileNotFoundError, ValueError):
        return None


def write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    """Writes the rows as CSV."""
    names = dict.fromkeys(_FIRST)
    for row in rows:
        names.update(dict.fromkeys(row))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, names, restval="")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: spaces.NONE if v is None else v for k, v in row.items()})
    with atomic_write(path) as file:
        file.write(text.getvalue().encode())


def read_table(path: Path) -> list[dict[str, Any]]:
    """Reads what `write_table` wrote."""
    with path.open(newline="", encoding="utf-8") as file:
        return [
            {name: _parsed(name, text) for name, text in row.items() if text != ""}
            for row in csv.DictReader(file)
        ]


def _parsed(name: str, text: str) -> Any:
    if name in ("trial", "from_trial", "status"):
        return text
    words = {spaces.NONE: None, "True": True, "False": False}
    if text in words:
        return words[text]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def best_recipe(folder: Path, rows: list[dict[str, Any]]) -> Recipe | None:
    """Returns the recipe of the best trial, named after the search."""
    for row in ranking(rows)[:1]:
        return trial_recipe(folder, row)
    return None


def trial_recipe(folder: Path, row: dict[str, Any]) -> Recipe:
    """Returns the recipe of a trial that completed."""
    result = read_result(trial_folder(folder, row["trial"]))
    assert result is not None, "completed trials have a result"
    recipe = Recipe(**result["recipe"])
    return dataclasses.replace(
        recipe,
        name=f"{folder.name}-{row['trial']}",
        description=(
            f"Trial {row['trial']} of a search: {OBJECTIVE} {row[OBJECTIVE]:.4f} on "
            f"the held-out tenth after {row['epochs']} of {recipe.epochs} epochs, "
            f"seed {row['seed']}."
        ),
    )


def prune(oracle: Oracle, folder: Path, keep: int) -> None:
    """Removes checkpoints that are not needed.

    Kept are those of the best `keep` trials, of running trials, and of trials that
    Hyperband may continue; of an ended trial only the newest.
    """
    ended = set(oracle.end_order)
    best = {trial.trial_id for trial in oracle.get_best_trials(keep)} & ended
    wanted = best | oracle.resumable_trials()
    for trial_id in ended:
        checkpoints = trial_folder(folder, trial_id) / "checkpoints"
        if trial_id not in wanted:
            shutil.rmtree(checkpoints, ignore_errors=True)
        for old in sorted(checkpoints.glob("epoch-*.npz"))[:-1]:
            old.unlink()


def read_search(path: PathLike) -> Search:
    """Reads the folder of a search, finished or not.

    Args:
        path: The folder.

    Returns:
        A `Search`.

    Raises:
        FileNotFoundError: If no trial has ended there yet.
    """
    folder = Path(path)
    rows = read_table(folder / RESULTS_FILE)
    best_file = folder / BEST_FILE
    best = recipes.load(best_file) if best_file.exists() else None
    return Search(folder, rows, best)
