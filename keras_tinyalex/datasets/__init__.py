"""Datasets: Tiny ImageNet, and folders with the same layout."""

from keras_tinyalex.datasets import tiny_imagenet

__all__ = ["tiny_imagenet"]
