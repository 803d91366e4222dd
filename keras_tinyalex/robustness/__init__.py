"""Accuracy on corrupted images, as Tiny-ImageNet-C measures it."""

from keras_tinyalex.robustness.measuring import evaluate_corruptions
from keras_tinyalex.robustness.result import CorruptionEvaluation

__all__ = ["CorruptionEvaluation", "evaluate_corruptions"]
