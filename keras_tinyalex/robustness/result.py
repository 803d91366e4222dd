"""Means over corruptions, and the errors of the baseline that they are divided by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias

import numpy as np

from keras_tinyalex.datasets.corruptions import CORRUPTIONS, SEVERITIES

Key: TypeAlias = tuple[str, int]
"""Name and severity of a set of images."""

Row: TypeAlias = tuple[float, int]
"""Accuracy and number of images of a set."""

CLEAN: Key = ("clean", 0)
# Those that the benchmark takes the mean over.
MAIN = tuple(name for name, group in CORRUPTIONS.items() if group != "extra")

# Of a ResNet-18 trained on all 200 classes without further augmentation: the errors on
# Tiny-ImageNet-C, each the mean of five severities, from the code of AugMax
# (https://github.com/VITA-Group/AugMax, test.py), and its error on clean images, from
# table 5 of that paper (https://arxiv.org/abs/2110.13771). The mean of the 15 is 0.761.
BASELINE_ERRORS = dict(
    zip(
        MAIN,
        (
            *(0.8037, 0.7597, 0.7758, 0.8426, 0.8274, 0.7907, 0.8212, 0.7497),
            *(0.7381, 0.7433, 0.6800, 0.8939, 0.7308, 0.6121, 0.6452),
        ),
        strict=True,
    )
)
BASELINE_CLEAN_ERROR = 0.3836


@dataclass(frozen=True)
class CorruptionEvaluation:
    """The result of `evaluate_corruptions()`.

    The means are over the corruptions in `measured`. Only if these are all 15
    they are those of the benchmark.

    Attributes:
        corruptions: Dictionary of the name of a corruption to five top-1
            accuracies, severity 1 to 5. One without images is `None`.
        clean_accuracy: Top-1 accuracy on the same images, not corrupted.
            `None` for the files of Tiny-ImageNet-C, which has no such images.
        mean_corruption_accuracy: Mean top-1 accuracy over corruptions and
            severities.
        mce: Mean corruption error: for each corruption the error, divided by
            that of a ResNet-18, and then the mean. It is 1 for that ResNet-18,
            for which papers write 100.
        relative_mce: The same with the increase over the clean error in place
            of the error. `None` without a clean accuracy.
        mean_extra_accuracy: As `mean_corruption_accuracy`, over those of the
            four extra corruptions that were measured.
        measured: Those of the 15 that have all five severities.
        missing: What was asked for and has no images: `"fog"`, or `"fog 3"`.
        n: Number of images in a set; the least, if they differ.
        resumed: Number of sets whose accuracy came from the file `csv`.
    """

    corruptions: dict[str, tuple[float | None, ...]]
    clean_accuracy: float | None
    mean_corruption_accuracy: float | None
    mce: float | None
    relative_mce: float | None
    mean_extra_accuracy: float | None
    measured: tuple[str, ...] = field(repr=False)
    missing: tuple[str, ...] = field(repr=False)
    n: int
    resumed: int = field(repr=False)

    def as_dict(self) -> dict[str, Any]:
        """Returns the result as a JSON-ready dictionary."""
        return asdict(self)


def summarize(
    names: Sequence[str],
    rows: Mapping[Key, Row],
    resumed: int = 0,
) -> CorruptionEvaluation:
    """Computes the means of a table.

    Args:
        names: Names of corruptions.
        rows: Accuracy and number of images of each set.
        resumed: See `CorruptionEvaluation`.

    Examples:
        >>> rows = {("fog", severity): (0.25, 100) for severity in range(1, 6)}
        >>> summarize(["fog"], rows).mean_corruption_accuracy
        0.25
    """
    accuracies = {
        name: tuple(rows.get((name, severity), (None,))[0] for severity in SEVERITIES)
        for name in names
    }
    means = {
        name: float(np.mean(np.array(five, float)))
        for name, five in accuracies.items()
        if None not in five
    }
    errors = {name: 1 - means[name] for name in means if name in MAIN}
    clean = rows[CLEAN][0] if CLEAN in rows else None
    ratios = [error / BASELINE_ERRORS[name] for name, error in errors.items()]
    increases = (
        []
        if clean is None
        else [
            (error - (1 - clean)) / (BASELINE_ERRORS[name] - BASELINE_CLEAN_ERROR)
            for name, error in errors.items()
        ]
    )
    return CorruptionEvaluation(
        corruptions=accuracies,
        clean_accuracy=clean,
        mean_corruption_accuracy=_mean([means[name] for name in errors]),
        mce=_mean(ratios),
        relative_mce=_mean(increases),
        mean_extra_accuracy=_mean([means[n] for n in means if n not in errors]),
        measured=tuple(errors),
        missing=tuple(_list_missing(accuracies)),
        n=min(n for _, n in rows.values()),
        resumed=resumed,
    )


def _list_missing(
    accuracies: Mapping[str, Sequence[float | None]],
) -> Iterator[str]:
    for name, five in accuracies.items():
        absent = [s for s, a in zip(SEVERITIES, five, strict=True) if a is None]
        if len(absent) == len(SEVERITIES):
            yield name
        else:
            yield from (f"{name} {severity}" for severity in absent)


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
