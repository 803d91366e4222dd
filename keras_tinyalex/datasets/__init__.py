"""Data sets: Tiny ImageNet and folders in the same shape."""

from keras_tinyalex.datasets import tiny_imagenet

__all__ = ["tiny_imagenet"]
