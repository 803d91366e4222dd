"""Metrics in NumPy: calibration, AUROC, intervals of proportions and of means."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from keras_tinyalex.arguments import check_integer, check_number

CALIBRATION_BINS = 15


def wilson_interval(
    successes: int, trials: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Computes the Wilson score interval of a proportion.

    Source: E. B. Wilson, "Probable inference, the law of succession, and
    statistical inference", JASA 22 (1927).

    Args:
        successes: Integer in `[0, trials]`.
        trials: Positive integer.
        confidence: Float in `(0, 1)`. Defaults to 0.95.

    Returns:
        `(low, high)`, floats in `[0, 1]`.

    Raises:
        ValueError: If an argument is out of its range.

    Examples:
        >>> low, high = wilson_interval(430, 1000)
        >>> round(low, 3), round(high, 3)
        (0.4, 0.461)
    """
    trials = check_integer("trials", trials)
    successes = check_integer("successes", successes, minimum=0)
    if successes > trials:
        raise ValueError(
            "`successes` must be at most `trials`. "
            f"Received: successes={successes}, trials={trials}"
        )
    confidence = check_number("confidence", confidence, above=0, below=1)
    z = statistics.NormalDist().inv_cdf((1 + confidence) / 2)
    rate, scale = successes / trials, 1 + z**2 / trials
    center = (rate + z**2 / (2 * trials)) / scale
    margin = z / scale * (rate * (1 - rate) / trials + (z / (2 * trials)) ** 2) ** 0.5
    # At 0 and at `trials` the bound is exact, apart from rounding.
    low = 0.0 if successes == 0 else center - margin
    high = 1.0 if successes == trials else center + margin
    return float(low), float(high)


def expected_calibration_error(
    confidences: ArrayLike, correct: ArrayLike, bins: int = CALIBRATION_BINS
) -> float:
    """Computes the mean difference between confidence and accuracy.

    For each image it takes `abs(accuracy - mean confidence)` of its bin of
    `calibration_curve()`, and returns the mean over the images:
    `sum(counts / n * abs(accuracy - confidence))`.

    Source: C. Guo et al., "On Calibration of Modern Neural Networks" (2017).

    Args:
        confidences: Floats of shape `(n,)` in `[0, 1]`: the probability of each
            predicted class.
        correct: Booleans of shape `(n,)`: whether it was the true label.
        bins: Positive integer. Defaults to 15.

    Returns:
        Float in `[0, 1]`; 0 is perfectly calibrated.

    Raises:
        ValueError: If the shapes differ, there are no values, or `bins` is
            not a positive integer.

    Examples:
        >>> expected_calibration_error([0.75, 0.75], [True, False])
        0.25
    """
    counts, accuracy, confidence = calibration_curve(confidences, correct, bins)
    gaps = np.abs(accuracy - confidence)[counts > 0]
    return float((counts[counts > 0] * gaps).sum() / counts.sum())


def calibration_curve(
    confidences: ArrayLike, correct: ArrayLike, bins: int = CALIBRATION_BINS
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Computes the accuracy of predictions with similar confidence.

    The confidences are put into bins of equal width, `[0, 1/bins]`,
    `(1/bins, 2/bins]`, ...

    Args:
        confidences: Floats of shape `(n,)` in `[0, 1]`: the probability of each
            predicted class.
        correct: Booleans of shape `(n,)`: whether it was the true label.
        bins: Positive integer. Defaults to 15.

    Returns:
        `(counts, accuracy, confidence)` of the bins, arrays of shape
        `(bins,)`: the number of images, the fraction of them that is correct,
        and their mean confidence; NaN where there are no images.

    Raises:
        ValueError: If the shapes differ, there are no values, or `bins` is
            not a positive integer.

    Examples:
        >>> counts, accuracy, confidence = calibration_curve(
        ...     [0.25, 0.625, 0.875], [False, False, True], bins=2
        ... )
        >>> counts.tolist(), accuracy.tolist(), confidence.tolist()
        ([1, 2], [0.0, 0.5], [0.25, 0.75])
    """
    confidences = np.asarray(confidences, dtype="float64")
    correct = np.asarray(correct, dtype="float64")
    if confidences.ndim != 1 or confidences.shape != correct.shape or not correct.size:
        raise ValueError(
            "`confidences` and `correct` must have the same shape (n,), n > 0. "
            f"Received: confidences.shape={confidences.shape}, "
            f"correct.shape={correct.shape}"
        )
    bins = check_integer("bins", bins)
    index = np.clip(np.ceil(confidences * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):
        accuracy = np.bincount(index, correct, bins) / counts
        confidence = np.bincount(index, confidences, bins) / counts
    return counts, accuracy, confidence


def auroc(positive: ArrayLike, negative: ArrayLike) -> float:
    """Computes the area under the receiver operating characteristic curve.

    That is the probability that a random positive has a higher score than a
    random negative, where equal scores count one half.

    Source: J. A. Hanley and B. J. McNeil, "The meaning and use of the area under
    a receiver operating characteristic (ROC) curve", Radiology 143 (1982).

    Args:
        positive: Scores of shape `(n,)` that are to be high, `n > 0`.
        negative: Scores of shape `(m,)` that are to be low, `m > 0`.

    Returns:
        Float in `[0, 1]`; 0.5 is chance.

    Raises:
        ValueError: If the shapes are not as above, or a score is NaN.

    Examples:
        >>> auroc([0.9, 0.4], [0.1, 0.4])  # 3 of 4 pairs are right, one is equal
        0.875
    """
    high, low = (np.asarray(scores, np.float64) for scores in (positive, negative))
    for name, scores in (("positive", high), ("negative", low)):
        if scores.ndim != 1 or not scores.size or np.isnan(scores).any():
            raise ValueError(
                f"`{name}` must be one or more scores of shape (n,), none of them NaN. "
                f"Received: {name}.shape={scores.shape}, NaN: {np.isnan(scores).sum()}"
            )
    low = np.sort(low)
    below, up_to = (low.searchsorted(high, side) for side in ("left", "right"))
    return float((below + up_to).mean() / 2 / len(low))


class Summary(NamedTuple):
    """Mean and spread of a value over seeds; `None` is what one seed cannot tell.

    Attributes:
        mean: The mean.
        standard_deviation: That of the sample, with `n - 1`.
        interval: `(low, high)`, the 95% interval of the mean by Student's t.
    """

    mean: float
    standard_deviation: float | None
    interval: tuple[float, float] | None


def summarize(values: Sequence[float]) -> Summary:
    """Returns mean, standard deviation and the interval of the mean.

    Args:
        values: At least one number, of one seed each.

    Examples:
        >>> mean, deviation, (low, high) = summarize([0.70, 0.72, 0.74])
        >>> round(mean, 4), round(deviation, 4), round(low, 4), round(high, 4)
        (0.72, 0.02, 0.6703, 0.7697)
    """
    mean, n = statistics.fmean(values), len(values)
    if n < 2:
        return Summary(mean, None, None)
    deviation = statistics.stdev(values)
    margin = student_t(n - 1) * deviation / math.sqrt(n)
    return Summary(mean, deviation, (mean - margin, mean + margin))


def student_t(freedom: int) -> float:
    """Returns what 95% of Student's t distribution lies within, to each side of 0.

    Source: M. Abramowitz and I. Stegun, "Handbook of Mathematical Functions"
    (1964), 26.7.3 and 26.7.4.

    Args:
        freedom: Degrees of freedom, a positive integer.

    Examples:
        >>> round(student_t(2), 3)
        4.303
    """

    def probability(t: float) -> float:
        angle = math.atan(t / math.sqrt(freedom))
        odd = freedom % 2
        term = math.cos(angle) if odd else 1.0
        total = 0.0 if freedom == 1 else term
        for k in range(2 + odd, freedom - 1, 2):
            term *= (k - 1) / k * math.cos(angle) ** 2
            total += term
        total *= math.sin(angle)
        return 2 / math.pi * (angle + total) if odd else total

    low, high = 0.0, 16.0  # more than 12.7, that of one degree of freedom
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if probability(middle) < 0.95 else (low, middle)
    return high
