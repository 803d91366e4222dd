import numpy as np
import pytest

from keras_tinyalex import evaluation
from keras_tinyalex.metrics import (
    auroc,
    calibration_curve,
    expected_calibration_error,
    student_t,
    summarize,
    wilson_interval,
)


@pytest.mark.parametrize(
    ("successes", "trials", "expected"),
    [
        # With z = 1.959964, z**2 = 3.841459, at 5 of 10: center 0.5, margin
        # z / (1 + z**2 / 10) * sqrt(0.25 / 10 + z**2 / 400) = 0.263407.
        (5, 10, (0.236593, 0.763407)),
        # At 0 of n the upper end is z**2 / (n + z**2) = 3.841459 / 13.841459.
        (0, 10, (0.0, 0.277533)),
        (10, 10, (1 - 0.277533, 1.0)),
    ],
)
def test_wilson_interval(successes, trials, expected):
    assert wilson_interval(successes, trials) == pytest.approx(expected, abs=1e-6)


def test_wilson_interval_widens_with_confidence():
    low, high = wilson_interval(430, 1000)
    lower, higher = wilson_interval(430, 1000, confidence=0.99)

    assert lower < low < 0.43 < high < higher


def test_wilson_interval_refuses():
    with pytest.raises(ValueError, match="successes=3, trials=2"):
        wilson_interval(3, 2)
    with pytest.raises(ValueError, match=r"`trials` must be a positive.*trials=0"):
        wilson_interval(0, 0)
    with pytest.raises(ValueError, match="confidence=95"):
        wilson_interval(1, 2, confidence=95)


def test_calibration_error_weighs_bins_by_their_images():
    # Three images in (0.5, 0.6]: accuracy 2/3, confidence 0.55; one in (0.8, 0.9].
    confidences, correct = [0.55, 0.55, 0.55, 0.85], [True, True, False, False]

    error = expected_calibration_error(confidences, correct, bins=10)

    assert error == pytest.approx(3 / 4 * (2 / 3 - 0.55) + 1 / 4 * 0.85)


def test_calibration_error_of_the_ends_of_the_bins():
    # 0.5 belongs to (0, 0.5]: apart from 0.75, the gaps -0.5 and +0.25 add up;
    # in one bin they would cancel to 0.25.
    assert expected_calibration_error([0.5, 0.75], [0, 1], bins=2) == 0.75 / 2
    assert expected_calibration_error([0.5, 0.75], [0, 1], bins=1) == 0.25 / 2
    assert expected_calibration_error([0.0, 1.0], [0, 1]) == 0.0


def test_calibration_curve_of_bins_and_of_their_empty_one():
    # Bins of thirds: {0.25}, nothing from 1/3 to 2/3, {0.7, 0.9}.
    counts, accuracy, confidence = calibration_curve([0.7, 0.25, 0.9], [1, 0, 0], 3)

    np.testing.assert_array_equal(counts, [1, 0, 2])
    np.testing.assert_allclose(accuracy, [0, np.nan, 1 / 2])
    np.testing.assert_allclose(confidence, [0.25, np.nan, 0.8])
    # One image misses by 0.25, two by 0.3 each.
    error = expected_calibration_error([0.7, 0.25, 0.9], [1, 0, 0], 3)
    assert error == pytest.approx((0.25 + 2 * 0.3) / 3)


def test_calibration_error_refuses():
    with pytest.raises(
        ValueError, match=r"confidences\.shape=\(2,\), correct\.shape=\(1,"
    ):
        expected_calibration_error([0.5, 0.5], [True])
    with pytest.raises(ValueError, match=r"n > 0\. Received: confidences\.shape=\(0,"):
        expected_calibration_error([], [])
    with pytest.raises(ValueError, match=r"`bins` must be .*Received: bins=0"):
        calibration_curve([0.5], [True], bins=0)


def test_auroc_counts_pairs():
    """Against the definition, with equal scores among them."""
    generator = np.random.default_rng(0)
    positive, negative = generator.integers(2, 9, 30), generator.integers(0, 7, 20)
    pairs = [(p > n) + (p == n) / 2 for p in positive for n in negative]
    assert auroc(positive, negative) == pytest.approx(np.mean(pairs))
    assert auroc([1, 2], [0]) == 1
    assert auroc([0], [1, 2]) == 0
    assert auroc([1], [1]) == 0.5


@pytest.mark.parametrize("scores", [[], [[1.0]], [0.5, np.nan]])
def test_auroc_refuses(scores):
    with pytest.raises(ValueError, match="`positive` must be one or more scores of"):
        auroc(scores, [1.0])
    with pytest.raises(ValueError, match=r"Received: negative\.shape="):
        auroc([1.0], scores)


def test_evaluation_offers_the_metrics():
    assert evaluation.calibration_curve is calibration_curve
    assert evaluation.expected_calibration_error is expected_calibration_error
    assert evaluation.wilson_interval is wilson_interval


@pytest.mark.parametrize(
    ("freedom", "expected"),
    [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (9, 2.262), (30, 2.042)],
)
def test_student_t_is_that_of_the_tables(freedom, expected):
    assert student_t(freedom) == pytest.approx(expected, abs=5e-4)


def test_equal_values_have_no_spread():
    assert summarize([0.5, 0.5]) == (0.5, 0, (0.5, 0.5))
