"""Training recipes: the choices of a training as data, and their measured results."""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
from collections import ChainMap
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keras_tinyalex import augmentation
from keras_tinyalex.aliases import PathLike
from keras_tinyalex.arguments import (
    check_choice,
    check_integer,
    check_number,
    is_file_name,
)
from keras_tinyalex.files import write_json

# Keras' dtype policies for training; others are looked up in Keras.
DTYPES = ("auto", "float32", "mixed_bfloat16", "mixed_float16", "bfloat16", "float16")


@dataclass(frozen=True)
class Recipe:
    """All choices of a training that change its result, except the seed.

    Attributes:
        name: Name for `get` and the command line.
        description: What the recipe is for, in one sentence.
        epochs: Passes over the training images.
        min_steps: Steps of a training at least, >= 0: with few images there are
            more epochs. See `Recipe.for_images`.
        batch_size: Images in a training step.
        accumulated_steps: Steps whose mean gradient is one update of the
            weights, >= 1: 4 steps of 16 images are one of 64 in a fourth of the
            memory.
        optimizer: `"sgd"` or `"adamw"` of Keras, or `"muon"`; see
            `keras_tinyalex.optimizers.Muon`.
        learning_rate: Peak learning rate.
        momentum: Nesterov momentum of SGD, in [0, 1).
        weight_decay_per_epoch: Decoupled weight decay of the kernels, >= 0: the
            optimizer's weight decay times the learning rate, summed over the
            steps of an epoch at the peak learning rate. With 0.25, kernels
            forget their values over four epochs, whatever the number of images
            and steps in an epoch (Wang and Aitchison, 2024,
            https://arxiv.org/abs/2405.13698), but never in less than 500 steps.
        schedule: `"constant"`, or `"cosine"`, a cosine decay to 0.
        warmup_epochs: Epochs of linear warm-up before a cosine decay, >= 0;
            at most half of the epochs.
        width_multiplier: See `AlexNetMini`.
        normalization: See `AlexNetMini`.
        lrn_depth_radius: See `LocalResponseNormalization`, as the next three.
        lrn_bias: Offset of LRN.
        lrn_alpha: Factor of LRN's sum of squares.
        lrn_beta: Exponent of LRN.
        fc1_units: Units of the first hidden dense layer before
            `width_multiplier`, >= 1.
        fc2_units: Units of the second one.
        initialization: `"glorot"` (Keras' default), `"he"` or `"whitening"`;
            see `keras_tinyalex.building.initialize`.
        dropout: Dropout rate after both hidden dense layers, in [0, 1).
        augmentation: Name from `keras_tinyalex.augmentation.AUGMENTATIONS`, to
            which you may add functions of your own, or `None`.
        mixing: `"mixup"`, `"cutmix"`, `"mixup_cutmix"` or `None`; see
            `keras_tinyalex.augmentation`.
        mixing_probability: Fraction of the batches that are mixed, in (0, 1].
        unmixed_epochs: Number of last epochs without mixing, >= 0.
        half_size_epochs: Number of first epochs at half the image size, >= 0;
            see `keras_tinyalex.building.half_resolution_model`.
        folded_batch_norm: Whether to train with batch normalization before
            each ReLU but the first, and to fold it into the kernels at the
            end; see `keras_tinyalex.building.fold_batch_norm`.
        balanced_classes: Whether all classes count the same in the loss,
            however many images each has.
        label_smoothing: Fraction of each label spread over all classes, in
            [0, 1).
        teacher_weight: Weight of a teacher's probabilities in the labels, in
            [0, 1]; see `train`. Unless it is 0, there must be a teacher.
        averaged: Fraction of the training over which the weights are
            averaged, in [0, 1): their exponential moving average, with a
            momentum of `1 - 1 / (averaged * steps)`, becomes the model at the
            end; 0 keeps the last weights.
        dtype: Keras dtype policy, e.g. `"float32"` or `"mixed_bfloat16"`, or
            `"auto"`; see `keras_tinyalex.machine.fastest_dtype`.

    Examples:
        >>> dataclasses.replace(BASELINE, epochs=2).epochs
        2

    Raises:
        ValueError: If a field is not as above.
    """

    name: str
    description: str = ""
    epochs: int = 35
    min_steps: int = 0
    batch_size: int = 16
    accumulated_steps: int = 1
    optimizer: str = "sgd"
    learning_rate: float = 0.01
    momentum: float = 0.0
    weight_decay_per_epoch: float = 0.0
    schedule: str = "constant"
    warmup_epochs: float = 0.0
    width_multiplier: float = 1.0
    normalization: str | None = "lrn"
    lrn_depth_radius: int = 5
    lrn_bias: float = 1.0
    lrn_alpha: float = 1.0
    lrn_beta: float = 0.5
    fc1_units: int = 1024
    fc2_units: int = 512
    initialization: str = "glorot"
    dropout: float = 0.5
    augmentation: str | None = None
    mixing: str | None = None
    mixing_probability: float = 1.0
    unmixed_epochs: int = 0
    half_size_epochs: int = 0
    folded_batch_norm: bool = False
    balanced_classes: bool = False
    label_smoothing: float = 0.0
    teacher_weight: float = 0.0
    averaged: float = 0.0
    dtype: str = "float32"

    def __post_init__(self) -> None:
        self._check_texts()
        for field, known in _CHOICES.items():
            check_choice(field, getattr(self, field), known)
        # Built-in types: those of NumPy are not JSON.
        for field, minimum in _INTEGERS.items():
            self._set(field, check_integer(field, getattr(self, field), minimum))
        for field, bounds in _NUMBERS.items():
            self._set(field, check_number(field, getattr(self, field), **bounds))
        for field in ("folded_batch_norm", "balanced_classes"):
            self._set(field, bool(getattr(self, field)))
        if not 0 < self.mixing_probability <= 1:
            raise ValueError(
                "`mixing_probability` must be in (0, 1]; to mix nothing, set "
                "`mixing` to None. "
                f"Received: mixing_probability={self.mixing_probability!r}"
            )
        if self.half_size_epochs and self.averaged:
            raise ValueError(
                "`averaged` must be 0 with `half_size_epochs`: the average would "
                "replace the weights between the two phases. Received: "
                f"half_size_epochs={self.half_size_epochs}, "
                f"averaged={self.averaged}"
            )

    def _set(self, field: str, value: Any) -> None:
        object.__setattr__(self, field, value)

    def _check_texts(self) -> None:
        for field in ("name", "description"):
            value = getattr(self, field)
            if not isinstance(value, str):
                raise ValueError(
                    f"`{field}` must be a string. Received: {field}={value!r}"
                )
        if not is_file_name(self.name):
            raise ValueError(
                "`name` must be a file name on every system, since run folders are "
                'named by it: not empty, without <>:"/\\|?*, no dot or space at the '
                f"end, not one of Windows such as NUL. Received: name={self.name!r}"
            )
        if callable(self.augmentation):
            raise ValueError(
                "`augmentation` must be a name, as a recipe is written as JSON. Add a "
                "function under a name of yours: "
                "`keras_tinyalex.augmentation.AUGMENTATIONS[name] = function`. "
                f"Received: augmentation={self.augmentation!r}"
            )
        if not isinstance(self.dtype, str) or self.dtype not in DTYPES:
            self._check_dtype()

    def _check_dtype(self) -> None:
        import keras

        try:
            policy = keras.dtype_policies.get(self.dtype)
        except (TypeError, ValueError):
            policy = None
        # Not a quantized policy, nor that of integers.
        if (
            not isinstance(self.dtype, str)
            or type(policy) is not keras.DTypePolicy
            or not keras.backend.is_float_dtype(policy.compute_dtype)
        ):
            raise ValueError(
                "`dtype` must be 'auto' or the name of a Keras dtype policy of floats, "
                "e.g. 'float32' or 'mixed_bfloat16'. "
                f"Received: dtype={self.dtype!r}"
            )

    @property
    def soft_labels(self) -> bool:
        """Whether labels are probabilities rather than class numbers."""
        return bool(self.mixing or self.label_smoothing or self.teacher_weight)

    def check_teacher(self, teacher: Any) -> None:
        """Refuses a missing teacher, and one that the labels do not need.

        Args:
            teacher: `None`, or anything else: there is one.

        Raises:
            ValueError: If there is a teacher and `teacher_weight` is 0, or none
                and it is not.
        """
        if bool(self.teacher_weight) == (teacher is not None):
            return
        if teacher is None:
            raise ValueError(
                "`teacher` must be one or more trained models (train --teacher), "
                f"since the teacher_weight of the recipe {self.name!r} is "
                f"{self.teacher_weight}. Received: teacher=None"
            )
        raise ValueError(
            f"`teacher` must be None, since the recipe {self.name!r} has no "
            "teacher_weight; take the recipe 'distilled', or one of your own. "
            f"Received: teacher={teacher!r:.200}"
        )

    def over(self, epochs: int) -> Recipe:
        """Returns the recipe for another number of epochs.

        Args:
            epochs: Positive integer.

        Returns:
            A `Recipe` of that many epochs, whatever its `min_steps` was. It
            has the same fractions of epochs at half size and of unmixed
            epochs, rounded to whole epochs.

        Examples:
            >>> Recipe("half", epochs=30, half_size_epochs=20).over(3).half_size_epochs
            2
        """
        epochs = check_integer("epochs", epochs)
        return dataclasses.replace(
            self,
            epochs=epochs,
            min_steps=0,
            half_size_epochs=round(self.half_size_epochs * epochs / self.epochs),
            unmixed_epochs=round(self.unmixed_epochs * epochs / self.epochs),
        )

    def for_images(self, images: int) -> Recipe:
        """Returns the recipe with the epochs that a number of images needs.

        Args:
            images: Number of training images, a positive integer.

        Returns:
            The recipe over enough epochs for `min_steps`, or as it is.

        Examples:
            >>> few = Recipe("few", epochs=10, batch_size=20, min_steps=100)
            >>> few.for_images(40).epochs, few.for_images(4000).epochs
            (50, 10)
        """
        steps = -(-check_integer("images", images) // self.batch_size)
        epochs = -(-self.min_steps // steps)
        return self.over(epochs) if epochs > self.epochs else self

    def as_dict(self) -> dict[str, Any]:
        """Returns the fields as a JSON-ready dict."""
        return dataclasses.asdict(self)

    def save(self, path: PathLike) -> None:
        """Writes the recipe as JSON, for `load` and `train --recipe FILE`."""
        write_json(Path(path), self.as_dict())


# What each field may be, beside the texts: its values, or its range.
_CHOICES: dict[str, Collection[Any]] = {
    "optimizer": ("sgd", "adamw", "muon"),
    "schedule": ("constant", "cosine"),
    "normalization": ("lrn", "batch", None),
    "initialization": ("glorot", "he", "whitening"),
    "augmentation": ChainMap[Any, Any]({None: None}, augmentation.AUGMENTATIONS),
    "mixing": ChainMap[Any, Any]({None: None}, augmentation.MIXINGS),
    "folded_batch_norm": (False, True),
    "balanced_classes": (False, True),
}
_INTEGERS = {
    "epochs": 1,
    "min_steps": 0,
    "batch_size": 1,
    "accumulated_steps": 1,
    "lrn_depth_radius": 0,
    "fc1_units": 1,
    "fc2_units": 1,
    "unmixed_epochs": 0,
    "half_size_epochs": 0,
}
_FRACTION: dict[str, float] = {"minimum": 0, "below": 1}
_NUMBERS: dict[str, dict[str, float]] = {
    "learning_rate": {"above": 0},
    "momentum": _FRACTION,
    "weight_decay_per_epoch": {"minimum": 0},
    "warmup_epochs": {"minimum": 0},
    "width_multiplier": {"above": 0},
    "lrn_bias": {"above": 0},
    "lrn_alpha": {"minimum": 0},
    "lrn_beta": {},
    "dropout": _FRACTION,
    "mixing_probability": {},
    "label_smoothing": _FRACTION,
    "teacher_weight": {"minimum": 0, "maximum": 1},
    "averaged": _FRACTION,
}

# Outcomes are top-1 accuracies on the 1,000 official val images of the first 20 classes
# of Tiny ImageNet, single view, of the model after the last epoch:
#
#   keras-tinyalex train --data tiny-imagenet-200.zip --recipe NAME --seed N
#
# Times are for two CPU cores in float32. Intervals, top-5 accuracies and how the times
# were measured are in docs/appendix/accuracy.md.

# Keras' default SGD, no augmentation: the recipe of the project that this library
# grew out of, which reported 0.43.
# Outcome: 0.472, mean of seeds 0 to 2 (0.492, 0.468, 0.457); 30 minutes.
BASELINE = Recipe(
    name="baseline",
    description="The original 35 epochs: plain SGD, batch 16, no augmentation.",
)

# The same 35 epochs with what is known to help; docs/accuracy.md compares the choices.
# Outcome: 0.715, mean of seeds 0 to 2 (0.710, 0.730, 0.704); 14 minutes.
BEST = Recipe(
    name="best",
    description="35 epochs with Muon, folded batch normalization and augmentation.",
    batch_size=64,
    optimizer="muon",
    learning_rate=3e-3,
    weight_decay_per_epoch=0.28,
    schedule="cosine",
    warmup_epochs=2.0,
    initialization="whitening",
    augmentation="crop_flip_cutout",
    half_size_epochs=25,
    folded_batch_norm=True,
    label_smoothing=0.1,
    dtype="auto",
)

# More epochs, and mixing in some batches. Full resolution begins while the learning
# rate is still high.
# Outcome: 0.723, mean of seeds 0 to 2 (0.722, 0.729, 0.717); 25 minutes.
BEST_LONG = dataclasses.replace(
    BEST,
    name="best_long",
    description="60 epochs: `best` for longer, with mixing in 30% of the batches.",
    epochs=60,
    weight_decay_per_epoch=0.19,
    augmentation="crop_flip_color_cutout",
    mixing="mixup_cutmix",
    mixing_probability=0.3,
    unmixed_epochs=9,
    half_size_epochs=42,
    label_smoothing=0.0,
)

# For noisy, blurred and pale images.
# Outcome: 0.707 on clean images and 0.551 over the 15 corruptions of Tiny-ImageNet-C,
# where `best` has 0.708 and 0.432, mean of seeds 0 to 2 in bfloat16.
ROBUST = dataclasses.replace(
    BEST,
    name="robust",
    description="`best` for noisy, blurred and pale images.",
    augmentation="crop_flip_tones_filter_noise",
    dropout=0.15,
)

# For all 200 classes. With ten times the images there is less to overfit: less dropout,
# and larger batches, which are faster.
# Outcome: 0.522 on the 10,000 official val images of all classes, seed 0, in bfloat16;
# 91 minutes beside other work.
BEST_200 = dataclasses.replace(
    BEST,
    name="best_200",
    description="`best` for all 200 classes: less dropout, larger batches.",
    batch_size=128,
    learning_rate=4.2e-3,
    dropout=0.25,
)

# With a teacher, whose labels are as smooth as those of mixed images.
# Outcome with the six models of docs/distill.md: 0.747, mean of seeds 0 to 2 (0.739,
# 0.762, 0.740) in bfloat16.
DISTILLED = dataclasses.replace(
    BEST_LONG,
    name="distilled",
    description="60 epochs: `best_long` with a teacher in place of mixing.",
    mixing=None,
    mixing_probability=1.0,
    unmixed_epochs=0,
    teacher_weight=0.7,
)

# Two epochs, both at half the image size.
# Outcome: 0.446, mean of seeds 0 to 4 (0.435 to 0.453); 42 seconds.
FAST = dataclasses.replace(
    BEST,
    name="fast",
    description="2 epochs at half size, for a first result in a minute or two.",
    epochs=2,
    batch_size=128,
    learning_rate=7e-3,
    weight_decay_per_epoch=0.028,
    warmup_epochs=0.5,
    augmentation="flip",
    dropout=0.1,
    half_size_epochs=2,
)

# From trained weights, with 5 to 500 images of each class.
# Outcome: see docs/fine-tune.md.
FINE_TUNE = dataclasses.replace(
    BEST,
    name="fine_tune",
    description="20 epochs or more at low rates, to start from trained weights.",
    epochs=20,
    min_steps=500,
    batch_size=32,
    learning_rate=2e-4,
    weight_decay_per_epoch=0.02,
    half_size_epochs=0,
)

RECIPES: dict[str, Recipe] = {
    r.name: r
    for r in (
        *(BASELINE, BEST, BEST_LONG, BEST_200),
        *(ROBUST, DISTILLED, FAST, FINE_TUNE),
    )
}


def get(name: PathLike | Recipe) -> Recipe:
    """Returns the recipe of a name or file, or the given `Recipe`.

    Args:
        name: One of `RECIPES`, the path of a `.json` file, or a `Recipe`.

    Returns:
        A `Recipe`.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the name is unknown, or the file is not a recipe.

    Examples:
        >>> get("baseline").epochs
        35
    """
    if isinstance(name, Recipe):
        return name
    is_path = isinstance(name, str | os.PathLike)
    if is_path and Path(name).suffix == ".json":
        return load(name)
    if not is_path or name not in RECIPES:
        raise ValueError(
            f"`recipe` must be one of {sorted(RECIPES)}, a .json file or a Recipe. "
            f"Received: recipe={name!r}"
        )
    return RECIPES[str(name)]


def load(path: PathLike) -> Recipe:
    """Reads a recipe that `Recipe.save` or a search wrote.

    A field that the file leaves out has the value of the baseline.

    Args:
        path: The JSON file.

    Returns:
        A `Recipe`.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it is not JSON, or not a recipe.

    Examples:
        >>> BASELINE.save("mine.json")
        >>> load("mine.json") == BASELINE
        True
    """
    content = Path(path).read_bytes()  # from which `json` tells UTF-8 and UTF-16
    try:
        values = json.loads(content, object_pairs_hook=_unique)
        if not isinstance(values, dict):
            raise TypeError(f"it holds a {type(values).__name__}, not an object")
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} must be a JSON object with fields of a recipe: {error}"
        ) from error
    fields = [field.name for field in dataclasses.fields(Recipe)]
    for name in values.keys() - set(fields):
        close = difflib.get_close_matches(name, fields, 1)
        hint = f"Did you mean `{close[0]}`? " if close else ""
        raise ValueError(
            f"{path} must have fields of a recipe only, and `{name}` is none. {hint}"
            f"The fields are {', '.join(fields)}"
        )
    try:
        return Recipe(**{"name": Path(path).stem, **values})
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{path}: {error}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = [field for field, _ in pairs]
    twice = {field for field in fields if fields.count(field) > 1}
    if twice:
        raise ValueError(f"it has more than once: {str(sorted(twice))[1:-1]}")
    return dict(pairs)
