"""Datasets: Tiny ImageNet, folders with the same layout, and corrupted images."""

from keras_tinyalex.datasets import corruptions, tiny_imagenet

__all__ = ["corruptions", "tiny_imagenet"]
