"""KerasTuner's oracles, made to survive.

KerasTuner spreads its state over `oracle.json` and one `trial.json` a trial and
writes them in place, so a kill can truncate one or leave them at odds. Here the
whole state is one file, written aside and renamed, and a copy of it stays.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras_tuner
import numpy as np
from keras_tuner.engine.trial import Trial

OBJECTIVE = keras_tuner.Objective("val_accuracy", "max")
STATE_FILE, SNAPSHOT_FILE = "oracle.json", "oracle.snapshot.json"
DEFAULT_TRIALS = 30
# So many failures in a row are no bad luck.
MOST_FAILURES = 3
# Hyperband's: each round keeps a third and trains it three times as long.
FACTOR = 3


class _Surviving(keras_tuner.Oracle):  # type: ignore[misc]
    """What the three oracles below have in common."""

    ongoing_trials: dict[str, Any]
    # Called with no argument behind each trial that ended.
    on_end: Callable[[], None] = staticmethod(lambda: None)
    # Why no more trials are handed out, once too many have failed in a row.
    failure: str | None = None
    _failed_in_a_row = 0

    def _random_values(self) -> dict[str, Any] | None:
        if self.trials:
            values: dict[str, Any] | None = super()._random_values()
            return values
        # The first trial is the baseline: what the others have to beat.
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
    ) -> Any:
        if trial_id in self.end_order:
            return self.trials[trial_id]
        return super().update_trial(trial_id, metrics, step)

    @keras_tuner.synchronized  # type: ignore[untyped-decorator]
    def end_trial(self, trial: Any) -> None:
        if trial.trial_id in self.end_order:
            return  # a worker given up for dead reports what another one did
        if trial.trial_id in self._retry_queue:
            self._retry_queue.remove(trial.trial_id)
        # The worker's copy went through single precision.
        trial.hyperparameters = self.trials[trial.trial_id].hyperparameters
        super().end_trial(trial)
        self.on_end()
        failed = self.trials[trial.trial_id].status == "FAILED"
        self._failed_in_a_row = self._failed_in_a_row + 1 if failed else 0
        if self._failed_in_a_row == MOST_FAILURES:
            message = self.trials[trial.trial_id].message
            # The message of a worker's error does not travel.
            self.failure = message or "see the output of its worker"

    @keras_tuner.synchronized  # type: ignore[untyped-decorator]
    def create_trial(self, tuner_id: str) -> Any:
        if self.failure is None:
            return super().create_trial(tuner_id)
        self.tuner_ids.discard(tuner_id)
        return Trial(self.get_space(), "", "STOPPED")

    @keras_tuner.synchronized  # type: ignore[untyped-decorator]
    def give_up(self, tuner_id: str) -> str | None:
        """Takes the trial of a dead worker back; returns its id."""
        self.tuner_ids.discard(tuner_id)
        trial = self.ongoing_trials.pop(tuner_id, None)
        if trial is None:
            return None
        self._retry_queue.append(trial.trial_id)
        self.save()
        return str(trial.trial_id)

    def may_go_on(self) -> set[str]:
        """Returns the trials that a later one can still choose to go on with."""
        return set()

    def get_state(self) -> dict[str, Any]:
        state: dict[str, Any] = super().get_state()
        # KerasTuner saves before it takes a trial that ended off this list.
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
        # Whoever ran them is gone.
        self._retry_queue.extend(t.trial_id for t in self.ongoing_trials.values())
        self.ongoing_trials = {}

    def save(self) -> None:
        text = json.dumps(self.get_state())
        for name in (STATE_FILE, SNAPSHOT_FILE):
            path = Path(self._project_dir, name)
            aside = path.with_name(name + ".part")
            with aside.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, path)

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
            "The state of the search and its copy are both damaged; restore one of "
            f"them, or start again in another `output`. {'; '.join(problems)}"
        )


class RandomOracle(_Surviving, keras_tuner.oracles.RandomSearchOracle):  # type: ignore[misc]
    """Random search."""


class BayesianOracle(_Surviving, keras_tuner.oracles.BayesianOptimizationOracle):  # type: ignore[misc]
    """Bayesian optimization that goes on as if it had not been stopped."""

    def populate_space(self, trial_id: str) -> Any:
        # KerasTuner's generator is not a part of its state.
        self._random_state = np.random.RandomState([self.seed, len(self.trials)])
        return super().populate_space(trial_id)


class HyperbandOracle(_Surviving, keras_tuner.oracles.HyperbandOracle):  # type: ignore[misc]
    """Hyperband."""

    def trials_of_a_pass(self) -> int:
        """Returns how many trials all brackets have together."""
        brackets = range(self._get_num_brackets())
        return sum(self._get_size(b, r) for b in brackets for r in range(b + 1))

    def may_go_on(self) -> set[str]:
        """Returns the trials that a later round can still choose."""
        chosen = set()
        for bracket in self._brackets:
            rounds = bracket["rounds"]
            for number, infos in enumerate(rounds[:-1]):
                ended = [self.trials[i["id"]] for i in infos]
                ended = [t for t in ended if t.status == "COMPLETED"]
                ended.sort(key=lambda trial: trial.score, reverse=True)
                size = self._get_size(bracket["bracket_num"], number + 1)
                gone_on = {i["past_id"] for i in rounds[number + 1]}
                chosen |= {t.trial_id for t in ended[:size]} - gone_on
        return chosen


Oracle = RandomOracle | BayesianOracle | HyperbandOracle


def make_oracle(tuner: str, seed: int, max_trials: int | None, epochs: int) -> Oracle:
    """Returns the oracle of a search.

    Args:
        tuner: `"random"`, `"hyperband"` or `"bayesian"`.
        seed: Seed >= 0.
        max_trials: Number of trials; `None` for 30, or one pass of Hyperband.
        epochs: Epochs of a whole training.

    Raises:
        ImportError: If `"bayesian"` lacks scikit-learn.
        ValueError: If an argument is out of its range.
    """
    count = 1 if max_trials is None else max_trials
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise ValueError(
            "`max_trials` must be a positive integer or None. "
            f"Received: max_trials={max_trials!r}"
        )
    # KerasTuner takes 0 for "no seed", and neighbouring seeds draw alike.
    drawn = np.random.SeedSequence(seed).generate_state(1)[0]
    options: dict[str, Any] = {"objective": OBJECTIVE, "seed": 1 + int(drawn >> 1)}
    # KerasTuner's own check raises while it holds a lock that nobody gives back.
    options["max_consecutive_failed_trials"] = sys.maxsize
    oracle: Oracle
    if tuner == "random":
        oracle = RandomOracle(max_trials=max_trials or DEFAULT_TRIALS, **options)
    elif tuner == "bayesian":
        require_scikit_learn("`tuner` 'bayesian'")
        max_trials = max_trials or DEFAULT_TRIALS
        # KerasTuner would draw three for each hyperparameter: more than all trials.
        options["num_initial_points"] = max(3, max_trials // 3)
        oracle = BayesianOracle(max_trials=max_trials, **options)
    elif tuner == "hyperband":
        oracle = HyperbandOracle(max_epochs=epochs, factor=FACTOR, **options)
        one_pass = oracle.trials_of_a_pass()
        oracle.max_trials = max_trials or one_pass
        oracle.hyperband_iterations = math.ceil(oracle.max_trials / one_pass)
    else:
        raise ValueError(
            "`tuner` must be 'random', 'hyperband' or 'bayesian'. "
            f"Received: tuner={tuner!r}"
        )
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
