"""Search spaces: each hyperparameter is a field of `Recipe`, added there first."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from keras_tinyalex import recipes
from keras_tinyalex.aliases import PathLike
from keras_tinyalex.arguments import check_choice
from keras_tinyalex.recipes import Recipe

if TYPE_CHECKING:
    import keras_tuner

# KerasTuner's choices are all of one type, so `None` is written as a word.
NONE = "none"


@dataclass(frozen=True)
class Hyperparameter:
    """A hyperparameter: a field of `Recipe` and the values it may have.

    Attributes:
        field: The field of `Recipe` that it stands for.
        default: The value of the baseline.
        choices: All its values; empty for a range.
        low: Smallest value of a range, which is sampled in log scale.
        high: Largest value of the range.
        only: `(name, value)` of the choice that it depends on, or `None`.
        prefix: Put before the field in its name, where one field has several.
    """

    field: str
    default: Any
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    only: tuple[str, Any] | None = None
    prefix: str = ""

    @property
    def name(self) -> str:
        """The name in KerasTuner."""
        return self.prefix + self.field


LRN, SGD = ("normalization", "lrn"), ("optimizer", "sgd")
ADAMW, MUON = ("optimizer", "adamw"), ("optimizer", "muon")

ARCHITECTURE = (
    Hyperparameter("width_multiplier", 1.0, (0.5, 0.75, 1.0, 1.25, 1.5)),
    Hyperparameter("normalization", "lrn", ("lrn", "batch", NONE)),
    Hyperparameter("lrn_depth_radius", 5, (1, 2, 3, 5, 7), only=LRN),
    Hyperparameter("lrn_alpha", 1.0, low=1e-4, high=10.0, only=LRN),
    Hyperparameter("lrn_beta", 0.5, (0.5, 0.75, 1.0), only=LRN),
    Hyperparameter("lrn_bias", 1.0, (0.5, 1.0, 2.0), only=LRN),
    Hyperparameter("fc1_units", 1024, (256, 512, 1024, 2048)),
    Hyperparameter("fc2_units", 512, (128, 256, 512, 1024)),
    Hyperparameter("dropout", 0.5, (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)),
)
OPTIMIZER = (
    Hyperparameter("optimizer", "sgd", ("sgd", "adamw", "muon")),
    # Good learning rates differ by a factor of ten or more between optimizers.
    Hyperparameter("learning_rate", 0.01, low=1e-3, high=0.3, only=SGD, prefix="sgd_"),
    Hyperparameter(
        "learning_rate", 1e-3, low=1e-4, high=1e-2, only=ADAMW, prefix="adamw_"
    ),
    Hyperparameter(
        "learning_rate", 1e-3, low=1e-4, high=1e-2, only=MUON, prefix="muon_"
    ),
    Hyperparameter("momentum", 0.0, (0.0, 0.5, 0.9, 0.95), only=SGD),
    Hyperparameter("weight_decay_per_epoch", 0.0, (0.0, 0.01, 0.03, 0.1, 0.3)),
    Hyperparameter("schedule", "constant", ("constant", "cosine")),
    Hyperparameter("batch_size", 16, (16, 32, 64, 128)),
    Hyperparameter("folded_batch_norm", False, (False, True)),
)
AUGMENTATION = (
    Hyperparameter(
        "augmentation",
        NONE,
        (
            NONE,
            "flip",
            "crop_flip",
            "crop_flip_cutout",
            "crop_flip_color_cutout",
            "zoom_flip_color_cutout",
        ),
    ),
    Hyperparameter("mixing", NONE, (NONE, "mixup", "cutmix", "mixup_cutmix")),
    Hyperparameter("label_smoothing", 0.0, (0.0, 0.05, 0.1, 0.2)),
)
SPACES: dict[str, tuple[Hyperparameter, ...]] = {
    "architecture": ARCHITECTURE,
    "optimizer": OPTIMIZER,
    "augmentation": AUGMENTATION,
    "all": ARCHITECTURE + OPTIMIZER + AUGMENTATION,
}


def get(space: str) -> tuple[Hyperparameter, ...]:
    """Returns the hyperparameters of a named space.

    Args:
        space: One of `SPACES`.

    Raises:
        ValueError: If the name is unknown.
    """
    check_choice("space", space, SPACES)
    return SPACES[space]


def declare(hp: keras_tuner.HyperParameters, space: str) -> dict[str, Any]:
    """Declares a space in `hp`; returns the values that `hp` has for it.

    Args:
        hp: A `keras_tuner.HyperParameters`.
        space: One of `SPACES`.

    Returns:
        Values of the active hyperparameters by name.
    """
    values: dict[str, Any] = {}
    for hyperparameter in get(space):
        with _condition(hp, hyperparameter):
            value = _declare(hp, hyperparameter)
        if value is not None:
            values[hyperparameter.name] = value
    return values


def _condition(hp: Any, hyperparameter: Hyperparameter) -> Any:
    if hyperparameter.only is None:
        return nullcontext()
    field, value = hyperparameter.only
    return hp.conditional_scope(field, [value])


def _declare(hp: Any, hyperparameter: Hyperparameter) -> Any:
    name, default = hyperparameter.name, hyperparameter.default
    if hyperparameter.choices:
        return hp.Choice(name, list(hyperparameter.choices), default=default)
    low, high = hyperparameter.low, hyperparameter.high
    return hp.Float(name, low, high, sampling="log", default=default)


def to_recipe(
    values: Mapping[str, Any],
    base: PathLike | Recipe = "baseline",
    name: str = "tuned",
    description: str = "",
) -> Recipe:
    """Returns the recipe that hyperparameters stand for.

    Args:
        values: Hyperparameters by name, as in `HyperParameters.values`. Names
            that are neither in a space nor fields of `Recipe` (KerasTuner's
            own) are left out; numbers are rounded to four digits.
        base: The recipe with the value of every other field.
        name: Name of the recipe.
        description: Its description.

    Returns:
        A `Recipe`.

    Raises:
        ValueError: If a value is out of its range.

    Examples:
        >>> to_recipe({"batch_size": 64, "normalization": "none"}).normalization
    """
    known = {**recipe_fields(values), "name": name, "description": description}
    return dataclasses.replace(recipes.get(base), **known)


def recipe_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of `Recipe` that hyperparameters stand for."""
    fields = {field.name: field.name for field in dataclasses.fields(Recipe)}
    fields.update({h.name: h.field for h in SPACES["all"]})
    return {
        fields[n]: _field_value(fields[n], v) for n, v in values.items() if n in fields
    }


def _field_value(field: str, value: Any) -> Any:
    if isinstance(getattr(recipes.BASELINE, field, None), bool):
        return bool(value)  # KerasTuner makes it a number
    if isinstance(value, float):
        # KerasTuner sends single precision to workers.
        return float(f"{value:.4g}")
    return None if value == NONE else value
