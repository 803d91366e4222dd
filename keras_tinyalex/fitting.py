"""The resumable fit of a recipe, which runs and trials of a search share."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import keras

from keras_tinyalex import augmentation
from keras_tinyalex.aliases import PathLike
from keras_tinyalex.building import build, half_resolution_model
from keras_tinyalex.callbacks import History, ProgressReport, TensorBoardScalars
from keras_tinyalex.checkpoints import BestWeights, Checkpoint, copy_state
from keras_tinyalex.comparing import HISTORY_FILE
from keras_tinyalex.datasets.batches import Batches, LabelledArrays
from keras_tinyalex.devices import copy_to
from keras_tinyalex.machine import channels_last, keep_freed_memory
from keras_tinyalex.progress import Progress
from keras_tinyalex.recipes import Recipe


class ResumableFit:
    """Trains a recipe into a folder, and resumes from its newest checkpoint.

    Args:
        recipe: A `Recipe` whose dtype is decided; see `runs.resolve_dtype`.
        train_data: To train on.
        val_data: To validate on after each epoch.
        seed: Seed >= 0 of weights, dropout, order and augmentation.
        folder: For `history.csv` and `checkpoints/`.
        weights: Where training starts, as in `AlexNetMini`, or `None`.
        keep: The epoch whose weights the model has in the end: `"last"`
            (default) or `"best"`; see `BestWeights`.
        distribution: Over the devices to train on, from `devices.distribution`.
            Defaults to `None`: one device.

    Attributes:
        model: The compiled model, on one device. After `run` it is trained.
        history: The `History`, with the epochs up to it.
        val_batches: Batches of `val_data`.
        initial_epoch: Number of epochs that are done.
        devices: Number of devices that train.
        kept_epoch: The epoch whose weights the model has after `run`, or
            `None`: the last.
    """

    @channels_last()
    def __init__(
        self,
        recipe: Recipe,
        train_data: LabelledArrays,
        val_data: LabelledArrays,
        seed: int,
        folder: Path,
        weights: PathLike | None = None,
        keep: str = "last",
        distribution: keras.distribution.DataParallel | None = None,
    ) -> None:
        self.recipe = recipe
        self.model = build(recipe, train_data, seed, weights)
        self._distribution = distribution
        self.devices = distribution.num_model_replicas if distribution else 1
        # What trains: a copy on all devices, or the model itself.
        self._network = self.model
        if distribution:
            images = len(train_data.labels)
            self._network = copy_to(distribution, self.model, recipe, images)
        self.batches, self.val_batches = make_batches(
            recipe, train_data, val_data, seed
        )
        self.history = History(
            folder / HISTORY_FILE, self.batches, recipe.half_size_epochs
        )
        checkpoints = folder / "checkpoints"
        self._checkpoint = Checkpoint(checkpoints, self.batches, self.history)
        self._best = BestWeights(checkpoints, self.history) if keep == "best" else None
        self.kept_epoch: int | None = None
        self.initial_epoch = self._checkpoint.restore(self._network)

    def run(
        self,
        epochs: int,
        tensorboard: Path,
        progress: bool = True,
        description: str = "training",
        epoch_lines: bool = True,
        callbacks: Sequence[keras.callbacks.Callback] = (),
    ) -> None:
        """Trains up to an epoch; a checkpoint is written after each.

        Args:
            epochs: Epoch to stop after.
            tensorboard: Folder of the TensorBoard logs.
            progress: Whether to report progress on standard error.
            description: Name of the progress bar.
            epoch_lines: Whether to print a line for each epoch, rather than one
                every few seconds.
            callbacks: The user's, called before ours, so that what they log or
                change is in the history and the checkpoint of the epoch.

        Raises:
            FloatingPointError: If the loss or a weight is no longer finite.
            OSError: If a checkpoint cannot be written.
        """
        images = len(self.batches.data.labels) * (epochs - self.initial_epoch)
        lines = not epoch_lines
        users = UserCallbacks(callbacks, self.initial_epoch, epochs)
        with Progress(description, images, "images", progress, lines) as bar:
            report = ProgressReport(
                bar, epochs, self.batches, self.history, epoch_lines
            )
            with self._distribution.scope() if self._distribution else nullcontext():
                fit(
                    self._network,
                    self.recipe,
                    self.batches,
                    self.val_batches,
                    epochs,
                    initial_epoch=self.initial_epoch,
                    verbose=0,
                    callbacks=[
                        *([users] if callbacks else []),
                        self.history,
                        *([self._best] if self._best else []),
                        self._checkpoint,
                        TensorBoardScalars(tensorboard, self.history),
                        report,
                    ],
                )
        if self._best:
            self.kept_epoch = self._best.restore(self._network)
        if self._network is not self.model:
            copy_state(self._network, self.model)


def make_batches(
    recipe: Recipe, train_data: LabelledArrays, val_data: LabelledArrays, seed: int
) -> tuple[Batches, Batches]:
    """Returns the batches of a recipe to train on, and those to validate on."""
    recipe.check_teacher(train_data.targets)
    if recipe.balanced_classes:
        train_data = train_data.balanced()
    batches = Batches(
        train_data,
        recipe.batch_size,
        seed,
        augmentation=recipe.augmentation,
        one_hot=recipe.soft_labels,
        mixing=augmentation.MIXINGS.get(recipe.mixing or ""),
        mixing_probability=recipe.mixing_probability,
        mixed_epochs=recipe.epochs - recipe.unmixed_epochs,
    )
    return batches, Batches(val_data, 128, shuffle=False, one_hot=recipe.soft_labels)


@channels_last()
def fit(
    model: keras.Model,
    recipe: Recipe,
    batches: Batches,
    val_batches: Batches | None,
    epochs: int,
    initial_epoch: int = 0,
    **options: Any,
) -> keras.callbacks.History:
    """Trains a compiled model in the phases of a recipe.

    Args:
        model: A compiled `AlexNetMini`.
        recipe: The `Recipe` that it was built and compiled by.
        batches: The batches to train on.
        val_batches: The batches to validate on, or `None`.
        epochs: Epoch to stop after.
        initial_epoch: Number of epochs that are done.
        **options: Other arguments of `keras.Model.fit`.

    Returns:
        The `keras.callbacks.History` of the last phase.
    """
    keep_freed_memory()
    half = min(recipe.half_size_epochs, epochs)
    phases = [(model, epochs)] if half < epochs else []
    if initial_epoch < half or not phases:  # at least one, even with nothing to do
        phases.insert(0, (half_resolution_model(model, recipe), half))
    with _restored_backend_seeds():
        for network, end in phases:
            history = network.fit(
                batches.feed(),
                validation_data=val_batches.feed() if val_batches else None,
                epochs=end,
                initial_epoch=initial_epoch,
                # `Batches` has its order from the seed; Keras would shuffle it again.
                shuffle=False,
                **options,
            )
            initial_epoch = end
            if network.stop_training:  # by a callback
                break
    return history


def _restored_backend_seeds() -> AbstractContextManager[Any]:
    """Restores torch's global generator, which `Checkpoint` seeds."""
    if keras.backend.backend() != "torch":
        return nullcontext()
    import torch

    restored: AbstractContextManager[Any] = torch.random.fork_rng()
    return restored


class UserCallbacks(keras.callbacks.CallbackList):  # type: ignore[misc]
    """Callbacks of a user, for whom all phases of a recipe are one training.

    `fit` is called for each phase; `on_train_begin` and `on_train_end` are passed
    on once.

    Args:
        callbacks: The callbacks.
        initial_epoch: Number of epochs that are done.
        epochs: Number of all epochs.
    """

    def __init__(
        self,
        callbacks: Sequence[keras.callbacks.Callback],
        initial_epoch: int,
        epochs: int,
    ) -> None:
        super().__init__(list(callbacks))
        self.epochs = epochs
        self.begun = False
        self.complete = initial_epoch >= epochs

    def set_params(self, params: dict[str, Any]) -> None:
        super().set_params({**params, "epochs": self.epochs} if params else params)

    def on_train_begin(self, logs: Any = None) -> None:
        if not self.begun:
            super().on_train_begin(logs)
        self.begun = True

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        # Not a copy of the logs: callbacks may add to them.
        for callback in self.callbacks:
            callback.on_epoch_end(epoch, logs)
        self.complete = epoch + 1 >= self.epochs

    def on_train_end(self, logs: Any = None) -> None:
        if self.complete or self.model.stop_training:
            super().on_train_end(logs)


def check_callbacks(callbacks: Any) -> None:
    """Refuses what is not a sequence of Keras callbacks.

    Examples:
        >>> check_callbacks([keras.callbacks.EarlyStopping()])
        >>> check_callbacks(["early stopping"])
        Traceback (most recent call last):
        ValueError: `callbacks` must be a list of `keras.callbacks.Callback` objects. \
Received: callbacks=['early stopping']
    """
    kind = keras.callbacks.Callback
    if not isinstance(callbacks, list | tuple) or not all(
        isinstance(callback, kind) for callback in callbacks
    ):
        raise ValueError(
            "`callbacks` must be a list of `keras.callbacks.Callback` objects. "
            f"Received: callbacks={callbacks!r:.200}"
        )
