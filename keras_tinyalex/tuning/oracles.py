"""KerasTuner's oracles with durable state.

KerasTuner spreads its state over `oracle.json` and a `trial.json` for each trial, and
writes them in place: a kill can truncate one, or leave them inconsistent. Here the
whole state is one file, written atomically, with a copy beside it.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras_tuner
import numpy as np
from keras_tuner.engine.trial import Trial

from keras_tinyalex.arguments import check_choice, check_integer
from keras_tinyalex.files import write_json
from keras_tinyalex.tuning.results import OBJECTIVE

TUNERS = ("random", "hyperband", "bayesian")
STATE_FILE, SNAPSHOT_FILE = "oracle.json", "oracle.snapshot.json"
DEFAULT_TRIALS = 30
# So many failures in a row stop the search.
MAX_FAILURES = 3
# Hyperband: each round keeps a third and trains it three times as long.
FACTOR = 3


class DurableOracle(keras_tuner.Oracle):  # type: ignore[misc]
    """What the three oracles below have in common."""

    ongoing_trials: dict[str, Any]
    # Called without arguments after each trial that ended.
    on_end: Callable[[], None] = staticmethod(lambda: None)
    # The last error, once so many trials have failed in a row that no more start.
    failure: str | None = None
    _failed_in_a_row = 0

    def _random_values(self) -> dict[str, Any] | None:
        if self.trials:
            values: dict[str, Any] | None = super()._random_values()
            return values
        # The first trial is the baseline, which the others have to beat.
        defaults = keras_tuner.HyperParameters()
        defaults.merge(self.hyperparameters.space)
        return {
            name: value
            for name, value in defaults.values.items()
            if defaults.is_active(name)
        }

    @keras_tuner.synchronized  # type: ignore[untyped-decorator]
    def update_trial(
        self, trial_id: str, metrics: Mapping[str, float], step: int = 0
    ) -> Trial:
        if trial_id in self.end_order:
            return self.trials[trial_id]
        return super().update_trial(trial_id, metrics, step)

    @keras_tuner.synchronized  # type: ignore[untyped-decorator]
    def end_trial(self, trial: Trial) -> None:
        if trial.trial_id in self.end_order:
            return  # a worker that was taken for dead, after another did its trial
        if trial.trial_id in self._retry_queue:
            self._retry_queue.remove(trial.trial_id)
        # The worker's copy was sent in single precision.
        trial.hyperparameters = self.trials[trial.trial_id].hyperparameters
        super().end_trial(trial)
        self.on_end()
        failed = self.trials[trial.trial_id].status == "FAILED"
        self._failed_in_a_row = self._failed_in_a_row + 1 if failed else 0
        if self._failed_in_a_row == MAX_FAILURES:
            message = self.trials[trial.trial_id].message
            # KerasTuner does not send the message of a worker's error.
            self.failure = message or "see the output of its worker"

    @keras_tuner.synchronized  # type: ignore[untyped-decorator]
    def create_trial(self, tuner_id: str) -> Trial:
        if self.failure is None:
            return super().create_trial(tuner_id)
        self.tuner_ids.discard(tuner_id)
        return Trial(self.get_space(), "", "STOPPED")

    @keras_tuner.synchronized  # type: ignore[untyped-decorator]
    def requeue_trial(self, tuner_id: str) -> str | None:
        """Queues the trial of a dead worker again; returns its id."""
        self.tuner_ids.discard(tuner_id)
        trial = self.ongoing_trials.pop(tuner_id, None)
        if trial is None:
            return None
        self._retry_queue.append(trial.trial_id)
        self.save()
        return str(trial.trial_id)

    def resumable_trials(self) -> set[str]:
        """Returns the trials whose training a later trial may continue."""
        return set()

    def get_state(self) -> dict[str, Any]:
        state: dict[str, Any] = super().get_state()
        # KerasTuner saves before it removes an ended trial from this list.
        state["ongoing_trials"] = {
            tuner_id: trial_id
            for tuner_id, trial_id in state["ongoing_trials"].items()
            if trial_id not in self.end_order
        }
        state["trials"] = {name: t.get_state() for name, t in self.trials.items()}
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        self.trials = {n: Trial.from_state(t) for n, t in state["trials"].items()}
        super().set_state(state)
        # The process that ran them is gone.
        self._retry_queue.extend(t.trial_id for t in self.ongoing_trials.values())
        self.ongoing_trials = {}

    def save(self) -> None:
        state = self.get_state()
        for name in (STATE_FILE, SNAPSHOT_FILE):
            write_json(Path(self._project_dir, name), state, sync=True, indent=None)

    def reload(self) -> None:
        problems = []
        for name in (STATE_FILE, SNAPSHOT_FILE):
            path = Path(self._project_dir, name)
            try:
                state = json.loads(path.read_text(encoding="utf-8"))
                self.set_state(state)
                return
            except (OSError, ValueError, KeyError, TypeError) as error:
                problems.append(f"{path}: {error}")
        raise ValueError(
            "The state of the search and its copy are both damaged. Restore one of "
            f"them, or choose another `output`. {'; '.join(problems)}"
        )


class RandomOracle(DurableOracle, keras_tuner.oracles.RandomSearchOracle):  # type: ignore[misc]
    """Random search."""


class BayesianOracle(DurableOracle, keras_tuner.oracles.BayesianOptimizationOracle):  # type: ignore[misc]
    """Bayesian optimization, whose next trials do not depend on being resumed."""

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        # KerasTuner does not save its generator.
        self._random_state = np.random.RandomState([self.seed, len(self.trials)])
        values: dict[str, Any] = super().populate_space(trial_id)
        return values


class HyperbandOracle(DurableOracle, keras_tuner.oracles.HyperbandOracle):  # type: ignore[misc]
    """Hyperband."""

    def trials_per_iteration(self) -> int:
        """Returns the number of trials in all brackets together."""
        brackets = range(self._get_num_brackets())
        return sum(self._get_size(b, r) for b in brackets for r in range(b + 1))

    def resumable_trials(self) -> set[str]:
        """Returns the trials that a later round may still promote."""
        promotable = set()
        for bracket in self._brackets:
            rounds = bracket["rounds"]
            for number, infos in enumerate(rounds[:-1]):
                ended = [self.trials[i["id"]] for i in infos]
                ended = [t for t in ended if t.status == "COMPLETED"]
                ended.sort(key=lambda trial: trial.score, reverse=True)
                size = self._get_size(bracket["bracket_num"], number + 1)
                promoted = {i["past_id"] for i in rounds[number + 1]}
                promotable |= {t.trial_id for t in ended[:size]} - promoted
        return promotable


Oracle = RandomOracle | BayesianOracle | HyperbandOracle


def make_oracle(tuner: str, seed: int, max_trials: int | None, epochs: int) -> Oracle:
    """Returns the oracle of a search.

    Args:
        tuner: `"random"`, `"hyperband"` or `"bayesian"`.
        seed: Seed >= 0.
        max_trials: Number of trials; `None` for 30, or one iteration of
            Hyperband.
        epochs: Epochs of a full training.

    Raises:
        ImportError: If `"bayesian"` lacks scikit-learn.
        ValueError: If an argument is out of its range.
    """
    check_choice("tuner", tuner, TUNERS)
    if max_trials is not None:
        max_trials = check_integer("max_trials", max_trials)
    # KerasTuner takes 0 for "no seed", and close seeds give similar draws.
    drawn = np.random.SeedSequence(seed).generate_state(1)[0]
    options: dict[str, Any] = {
        "objective": keras_tuner.Objective(OBJECTIVE, "max"),
        "seed": 1 + int(drawn >> 1),
        # KerasTuner's own check raises while it holds a lock, which stays locked.
        "max_consecutive_failed_trials": sys.maxsize,
    }
    oracle: Oracle
    if tuner == "random":
        oracle = RandomOracle(max_trials=max_trials or DEFAULT_TRIALS, **options)
    elif tuner == "bayesian":
        require_scikit_learn("`tuner` 'bayesian'")
        max_trials = max_trials or DEFAULT_TRIALS
        # KerasTuner's default, three for each hyperparameter, is more than all trials.
        options["num_initial_points"] = max(3, max_trials // 3)
        oracle = BayesianOracle(max_trials=max_trials, **options)
    else:
        oracle = HyperbandOracle(max_epochs=epochs, factor=FACTOR, **options)
        iteration = oracle.trials_per_iteration()
        oracle.max_trials = max_trials or iteration
        oracle.hyperband_iterations = math.ceil(oracle.max_trials / iteration)
    oracle.verbose = 0
    return oracle


def require_scikit_learn(what: str) -> None:
    """Raises an ImportError with the command that installs scikit-learn."""
    try:
        import sklearn  # noqa: F401
    except ImportError:
        raise ImportError(
            f"{what} needs scikit-learn, which is not installed. Install it with: "
            'pip install "keras-tinyalex[tuner]"'
        ) from None
