"""AlexNetMini as a KerasTuner hypermodel."""

from __future__ import annotations

from typing import Any

import keras
import keras_tuner
import numpy as np
import numpy.typing as npt

from keras_tinyalex import recipes
from keras_tinyalex.aliases import PathLike, Tensor
from keras_tinyalex.building import build_model, compile_model, initialize
from keras_tinyalex.datasets.batches import LabelledArrays
from keras_tinyalex.fitting import fit, make_batches
from keras_tinyalex.recipes import Recipe
from keras_tinyalex.tuning import spaces

# Training images of 20 classes of Tiny ImageNet without the held-out tenth.
DEFAULT_TRAIN_IMAGES = 9000


class HyperAlexNetMini(keras_tuner.HyperModel):  # type: ignore[misc]
    """An AlexNetMini hypermodel, like those of `keras_tuner.applications`.

    `build` makes and compiles a model, `fit` trains it; both follow the
    `Recipe` that the hyperparameters stand for, which `recipe` returns. The
    defaults of every space are the baseline recipe.

    Works with any KerasTuner tuner; `keras_tinyalex.tuning.search` adds
    resumption, results and more.

    Args:
        input_shape: Shape of one image, `(64, 64, 3)` by default. Left out
            where `input_tensor` is given.
        num_classes: Positive integer, number of classes. Defaults to 20.
        input_tensor: Optional Keras tensor to use as the image input.
        include_top: Whether the model has its dense layers and classifier.
            With `False`, `build` returns the body with global average pooling,
            not compiled, to use in a model of your own.
        augmentation_model: Optional `keras.Model` or
            `keras_tuner.HyperModel` that is applied to the images first.
        space: `"architecture"`, `"optimizer"`, `"augmentation"` or `"all"`.
        recipe: Name, file or `Recipe` with the value of what the space does
            not have.
        seed: Seed of weights, dropout, order and augmentation.
        **kwargs: `name` and `tunable`; see `keras_tuner.HyperModel`.

    Raises:
        ValueError: If an argument is out of its range.

    Examples:
        >>> hypermodel = HyperAlexNetMini(num_classes=5, space="architecture")
        >>> model = hypermodel.build(keras_tuner.HyperParameters())
        >>> model.output_shape
        (None, 5)
    """

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
        **kwargs: Any,
    ) -> None:
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
        super().__init__(**kwargs)

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
        x: npt.ArrayLike,
        y: npt.ArrayLike,
        validation_data: tuple[npt.ArrayLike, npt.ArrayLike],
        epochs: int | None = None,
        **kwargs: Any,
    ) -> keras.callbacks.History:
        """Trains a model with the batches of the hyperparameters' recipe.

        Args:
            hp: The `keras_tuner.HyperParameters` that built the model.
            model: The model.
            x: uint8 images `(N, H, W, 3)`, 0 to 255.
            y: Integer labels `(N,)`.
            validation_data: Images and labels to validate on, as `x` and `y`.
            epochs: Epoch to stop after. Defaults to the recipe's epochs, which
                are the length of its schedule in any case.
            **kwargs: Other arguments of `keras.Model.fit`, such as
                `callbacks`, `initial_epoch` and `verbose`.

        Returns:
            The `keras.callbacks.History`.
        """
        recipe = self.recipe(hp)
        train_data = _labelled(x, y, self.num_classes)
        val_data = _labelled(*validation_data, self.num_classes)
        if recipe.schedule == "cosine" and len(train_data.labels) != self.train_images:
            # The schedule is as long as the training, known only now.
            self.train_images = len(train_data.labels)
            self._compile(model, hp)
        batches, val_batches = make_batches(recipe, train_data, val_data, self.seed)
        batches.epoch = kwargs.get("initial_epoch", 0)
        if not batches.epoch:
            initialize(model, recipe, train_data.images, self.seed)
        epochs = recipe.epochs if epochs is None else epochs
        return fit(model, recipe, batches, val_batches, epochs, **kwargs)


def _labelled(x: npt.ArrayLike, y: npt.ArrayLike, num_classes: int) -> LabelledArrays:
    images, labels = np.asarray(x), np.asarray(y)
    if images.ndim != 4 or labels.shape != images.shape[:1]:
        raise ValueError(
            "`x` and `y` must be images (N, H, W, 3) and integer labels "
            f"(N,). Received: x of shape {images.shape}, y of shape {labels.shape}"
        )
    names = tuple(str(label) for label in range(num_classes))
    return LabelledArrays(images, labels.astype(np.int64), names, ("",) * len(labels))
