"""AlexNetMini as a KerasTuner hypermodel."""

from __future__ import annotations

import inspect
from typing import Any

import keras
import keras_tuner

from keras_tinyalex import recipes
from keras_tinyalex.aliases import PathLike, Tensor
from keras_tinyalex.arguments import (
    check_boolean,
    check_integer,
    check_number,
    named_arguments,
)
from keras_tinyalex.building import build_model, compile_model, initialize
from keras_tinyalex.datasets.batches import LabelledArrays
from keras_tinyalex.fitting import fit, make_batches
from keras_tinyalex.recipes import Recipe
from keras_tinyalex.tuning import spaces
from keras_tinyalex.tuning.fit_arguments import as_three, read_data, with_class_weight

# Training images of 20 classes of Tiny ImageNet without the held-out tenth.
DEFAULT_TRAIN_IMAGES = 9000


class HyperAlexNetMini(keras_tuner.HyperModel):  # type: ignore[misc]
    """An AlexNetMini hypermodel, like those of `keras_tuner.applications`.

    `build` makes and compiles a model, `fit` trains it; both follow the
    `Recipe` that the hyperparameters stand for, which `recipe` returns. The
    defaults of every space are the baseline recipe.

    Works with any KerasTuner tuner; `keras_tinyalex.tuning.search` adds
    resumption, results and more. Images are `(height, width, channels)`
    whatever `keras.config.image_data_format()` is.

    Args:
        input_shape: Shape of one image, `(64, 64, 3)` by default. Left out
            where `input_tensor` is given.
        num_classes: Positive integer, number of classes. Defaults to 20.
        input_tensor: Optional Keras tensor to use as the image input. Layers
            before it keep their weights in each model that is built. All
            trials share them: set `trainable = False`, or each trial trains
            them further.
        include_top: Whether the model has its dense layers and classifier.
            With `False`, `build` returns the body with global average pooling,
            not compiled, to use in a model of your own.
        augmentation_model: Optional `keras.Model` or
            `keras_tuner.HyperModel` that is applied to the images first. A
            model is shared by all trials, like the layers of `input_tensor`.
        space: `"architecture"`, `"optimizer"`, `"augmentation"` or `"all"`.
        recipe: Name, file or `Recipe` with the value of what the space does
            not have.
        seed: Seed of weights, dropout, order and augmentation.
        name: See `keras_tuner.HyperModel`.
        tunable: See `keras_tuner.HyperModel`.

    Raises:
        TypeError: If there is no such argument.
        ValueError: If an argument is out of its range.

    Examples:
        >>> hypermodel = HyperAlexNetMini(num_classes=5, space="architecture")
        >>> model = hypermodel.build(keras_tuner.HyperParameters())
        >>> model.output_shape
        (None, 5)
    """

    @named_arguments
    def __init__(
        self,
        input_shape: tuple[int | None, ...] | None = None,
        num_classes: int = 20,
        input_tensor: Tensor | None = None,
        include_top: bool = True,
        augmentation_model: keras.Model | keras_tuner.HyperModel | None = None,
        space: str = "all",
        recipe: PathLike | Recipe = "baseline",
        seed: int = 0,
        name: str | None = None,
        tunable: bool = True,
    ) -> None:
        check_boolean("include_top", include_top)
        check_integer("num_classes", num_classes)
        check_integer("seed", seed, minimum=0)
        kinds = (keras_tuner.HyperModel, keras.Model, type(None))
        if not isinstance(augmentation_model, kinds):
            raise ValueError(
                "`augmentation_model` must be a `keras.Model`, a "
                "`keras_tuner.HyperModel` or None. "
                f"Received: augmentation_model={augmentation_model!r}"
            )
        spaces.get(space)
        self.input_shape = input_shape
        self.num_classes = num_classes
        self.input_tensor = input_tensor
        self.include_top = include_top
        self.augmentation_model = augmentation_model
        self.space = space
        self.base = recipes.get(recipe)
        self.seed = seed
        self.train_images = DEFAULT_TRAIN_IMAGES
        # Batches that `fit` has read, beside what it read them from.
        self._read: list[tuple[Any, LabelledArrays]] = []
        super().__init__(name, tunable)

    def declare_hyperparameters(self, hp: keras_tuner.HyperParameters) -> None:
        """Declares the space with its conditional parts."""
        spaces.declare(hp, self.space)

    def recipe(self, hp: keras_tuner.HyperParameters) -> Recipe:
        """Returns the `Recipe` of hyperparameters."""
        spaces.declare(hp, self.space)
        active = {n: v for n, v in hp.values.items() if hp.is_active(n)}
        return spaces.to_recipe(active, self.base)

    def build(self, hp: keras_tuner.HyperParameters) -> keras.Model:
        """Returns the compiled model of hyperparameters.

        Args:
            hp: A `keras_tuner.HyperParameters`.
        """
        recipe = self.recipe(hp)
        arguments: dict[str, Any] = {"input_shape": self.input_shape}
        if self.input_tensor is not None or self.augmentation_model is not None:
            arguments["input_tensor"] = self._augmented_input(hp)
            arguments["input_shape"] = None
        if not self.include_top:
            arguments.update(include_top=False, pooling="avg")
            return build_model(recipe, self.seed, **arguments)
        model = build_model(
            recipe, self.seed, num_classes=self.num_classes, **arguments
        )
        self._compile(model, hp)
        return model

    def _augmented_input(self, hp: keras_tuner.HyperParameters) -> Tensor:
        x = self.input_tensor
        if x is None:
            x = keras.Input(self.input_shape or (64, 64, 3), name="image")
        augmentation_model = self.augmentation_model
        if isinstance(augmentation_model, keras_tuner.HyperModel):
            augmentation_model = augmentation_model.build(hp)
        return x if augmentation_model is None else augmentation_model(x)

    def _compile(self, model: keras.Model, hp: keras_tuner.HyperParameters) -> None:
        """Compiles a model. Override it for another loss or optimizer."""
        compile_model(model, self.recipe(hp), self.train_images)

    def fit(
        self,
        hp: keras_tuner.HyperParameters,
        model: keras.Model,
        x: Any = None,
        y: Any = None,
        validation_data: Any = None,
        epochs: int | None = None,
        *,
        batch_size: None = None,
        verbose: str | int = "auto",
        callbacks: Any = None,
        validation_split: float = 0.0,
        shuffle: bool = True,
        class_weight: dict[int, float] | None = None,
        sample_weight: Any = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        **kwargs: Any,
    ) -> keras.callbacks.History:
        """Trains a model with the batches of the hyperparameters' recipe.

        The arguments are those of `keras.Model.fit`. All images are kept in
        memory: a data set is read once, in the first trial, and batched anew by
        each recipe. Have random augmentation in the recipe or in
        `augmentation_model`, not in the data set.

        Args:
            hp: The `keras_tuner.HyperParameters` that built the model.
            model: The model.
            x: Images `(N, H, W, C)`, 0 to 255, or batches
                `(images, labels[, weights])`: a `tf.data.Dataset`, a
                `keras.utils.PyDataset`, a generator or another iterable.
            y: Labels of an array `x`: class numbers `(N,)` or `(N, 1)`, or
                one-hot `(N, num_classes)`.
            validation_data: `(x, y)`, `(x, y, sample_weight)` or batches to
                validate on.
            epochs: Epoch to stop after. Defaults to the recipe's epochs, which
                are the length of its schedule in any case.
            batch_size: Must be `None`: the recipe has it.
            verbose: See `keras.Model.fit`.
            callbacks: See `keras.Model.fit`.
            validation_split: Fraction of the images of each class, by seed 0,
                to hold out and validate on, in [0, 1).
            shuffle: Whether each epoch has its own order. Defaults to `True`.
            class_weight: Weights in the loss by class number.
            sample_weight: Weights in the loss `(N,)` of an array `x`.
            initial_epoch: Number of epochs that are done.
            steps_per_epoch: Number of batches to read of `x`; needed for a
                generator and an endless data set.
            validation_steps: The same for `validation_data`.
            **kwargs: `validation_freq`; see `keras.Model.fit`.

        Returns:
            The `keras.callbacks.History`.

        Raises:
            keras_tuner.errors.FatalError: A `ValueError` or `TypeError`, for
                an argument that does not fit. It ends the search: after other
                errors, KerasTuner continues with the next trial.
        """
        recipe = self.recipe(hp)
        images = (x, y, sample_weight), steps_per_epoch
        val_images = validation_data, validation_steps
        try:
            _check_options(batch_size, kwargs)
            train_data, val_data = self._splits(
                images, val_images, validation_split, model
            )
            if class_weight is not None:
                train_data = with_class_weight(train_data, class_weight)
        except ValueError as error:
            raise keras_tuner.errors.FatalValueError(str(error)) from error
        if recipe.schedule == "cosine" and len(train_data.labels) != self.train_images:
            # The schedule is as long as the training, known only now.
            self.train_images = len(train_data.labels)
            self._compile(model, hp)
        batches, val_batches = make_batches(
            recipe, train_data, val_data or train_data, self.seed
        )
        batches.epoch, batches.shuffle = initial_epoch, bool(shuffle)
        if not initial_epoch:
            initialize(model, recipe, train_data.images, self.seed)
        return fit(
            model,
            recipe,
            batches,
            val_batches if val_data else None,
            recipe.epochs if epochs is None else epochs,
            initial_epoch,
            verbose=verbose,
            callbacks=callbacks,
            **kwargs,
        )

    def _splits(
        self,
        images: tuple[Any, int | None],
        val_images: tuple[Any, int | None],
        validation_split: float,
        model: keras.Model,
    ) -> tuple[LabelledArrays, LabelledArrays | None]:
        """The images to train on, and those to validate on, if any."""
        check_number("validation_split", validation_split, minimum=0, below=1)
        train_data = self._arrays("x", *images, model)
        if val_images[0] is not None:
            return train_data, self._arrays("validation_data", *val_images, model)
        if not validation_split:
            return train_data, None
        return (
            train_data.part(False, validation_split, seed=0),
            train_data.part(True, validation_split, seed=0),
        )

    def _arrays(
        self,
        name: str,
        data: Any,
        steps: int | None,
        model: keras.Model,
    ) -> LabelledArrays:
        """The arrays of data, of which batches are read once: some end for good."""
        x, y, weights = as_three(name, data)
        for batches, arrays in self._read:
            if batches is x:
                return arrays
        arrays = read_data(name, (x, y, weights), steps, self.num_classes, model)
        if y is None:
            self._read.append((x, arrays))
        return arrays


def _check_options(batch_size: Any, options: dict[str, Any]) -> None:
    """Refuses what `keras.Model.fit` does not take, and what the recipe decides."""
    for name in options.keys() - inspect.signature(keras.Model.fit).parameters.keys():
        raise keras_tuner.errors.FatalTypeError(
            f"`{name}` must be an argument of `keras.Model.fit`. "
            f"Received: {name}={options[name]!r:.80}"
        )
    if batch_size is not None:
        raise ValueError(
            "`batch_size` must be left out: it is a hyperparameter, or the "
            "`batch_size` of `recipe`. "
            f"Received: batch_size={batch_size!r}"
        )
