"""Corrupted images, as Tiny-ImageNet-C has them, and images of unknown classes."""

from keras_tinyalex.robustness.measuring import evaluate_corruptions
from keras_tinyalex.robustness.result import CorruptionEvaluation
from keras_tinyalex.robustness.unknown import UnknownEvaluation, evaluate_unknown

__all__ = [
    "CorruptionEvaluation",
    "UnknownEvaluation",
    "evaluate_corruptions",
    "evaluate_unknown",
]
