"""Search spaces: each hyperparameter is a field of `Recipe`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from keras_tinyalex import recipes
from keras_tinyalex.recipes import Recipe

# KerasTuner's choices are all of one type, so `None` is written as a word.
NONE = "none"


@dataclass(frozen=True)
class Knob:
    """One hyperparameter.

    Attributes:
        field: The field of `Recipe` that it stands for.
        default: The value of the baseline.
        choices: All its values, or
        low: the smallest one, and
        high: the largest one, of a range sampled by its logarithm.
        only: `(name, value)` of the choice that it depends on.
        prefix: What its name has before the field, to tell two apart.
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
    Knob("width_multiplier", 1.0, (0.5, 0.75, 1.0, 1.25, 1.5)),
    Knob("normalization", "lrn", ("lrn", "batch", NONE)),
    Knob("lrn_depth_radius", 5, (1, 2, 3, 5, 7), only=LRN),
    Knob("lrn_alpha", 1.0, low=1e-4, high=10.0, only=LRN),
    Knob("lrn_beta", 0.5, (0.5, 0.75, 1.0), only=LRN),
    Knob("lrn_bias", 1.0, (0.5, 1.0, 2.0), only=LRN),
    Knob("fc1_units", 1024, (256, 512, 1024, 2048)),
    Knob("fc2_units", 512, (128, 256, 512, 1024)),
    Knob("dropout", 0.5, (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)),
)
OPTIMIZER = (
    Knob("optimizer", "sgd", ("sgd", "adamw", "muon")),
    # Steps of a good size differ by a factor of ten or more between them.
    Knob("learning_rate", 0.01, low=1e-3, high=0.3, only=SGD, prefix="sgd_"),
    Knob("learning_rate", 1e-3, low=1e-4, high=1e-2, only=ADAMW, prefix="adamw_"),
    Knob("learning_rate", 1e-3, low=1e-4, high=1e-2, only=MUON, prefix="muon_"),
    Knob("momentum", 0.0, (0.0, 0.5, 0.9, 0.95), only=SGD),
    Knob("weight_decay", 0.0, (0.0, 5e-4, 5e-3, 5e-2, 0.5)),
    Knob("schedule", "constant", ("constant", "cosine")),
    Knob("batch_size", 16, (16, 32, 64, 128)),
    Knob("folded_batch_norm", False, (False, True)),
)
AUGMENTATION = (
    Knob(
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
    Knob("mixing", NONE, (NONE, "mixup", "cutmix", "mixup_cutmix")),
    Knob("label_smoothing", 0.0, (0.0, 0.05, 0.1, 0.2)),
)
SPACES: dict[str, tuple[Knob, ...]] = {
    "architecture": ARCHITECTURE,
    "optimizer": OPTIMIZER,
    "augmentation": AUGMENTATION,
    "all": ARCHITECTURE + OPTIMIZER + AUGMENTATION,
}


def get(space: str) -> tuple[Knob, ...]:
    """Returns the hyperparameters of a named space.

    Args:
        space: One of `SPACES`.

    Raises:
        ValueError: If the name is unknown.
    """
    if space not in SPACES:
        raise ValueError(
            f"`space` must be one of {sorted(SPACES)}. Received: space={space!r}"
        )
    return SPACES[space]


def declare(hp: Any, space: str) -> dict[str, Any]:
    """Declares a space in `hp`; returns the values that `hp` has for it.

    Args:
        hp: A `keras_tuner.HyperParameters`.
        space: One of `SPACES`.

    Returns:
        Values of the active hyperparameters by name.
    """
    values: dict[str, Any] = {}
    for knob in get(space):
        with _condition(hp, knob):
            value = _declared(hp, knob)
        if value is not None:
            values[knob.name] = value
    return values


def _condition(hp: Any, knob: Knob) -> Any:
    if knob.only is None:
        return nullcontext()
    field, value = knob.only
    return hp.conditional_scope(field, [value])


def _declared(hp: Any, knob: Knob) -> Any:
    if knob.choices:
        return hp.Choice(knob.name, list(knob.choices), default=knob.default)
    return hp.Float(
        knob.name, knob.low, knob.high, sampling="log", default=knob.default
    )


def to_recipe(
    values: Mapping[str, Any],
    base: str | Recipe = "baseline",
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
    fields.update({knob.name: knob.field for knob in SPACES["all"]})
    return {
        fields[n]: _field_value(fields[n], v) for n, v in values.items() if n in fields
    }


def _field_value(field: str, value: Any) -> Any:
    if isinstance(getattr(recipes.BASELINE, field, None), bool):
        return bool(value)  # KerasTuner makes it a number
    if isinstance(value, float):
        # Between machines KerasTuner sends single precision.
        return float(f"{value:.4g}")
    return None if value == NONE else value
