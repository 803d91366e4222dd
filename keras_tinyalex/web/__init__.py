"""A page that classifies pictures in the browser, for any AlexNetMini."""

from keras_tinyalex.web.layers import dequantized
from keras_tinyalex.web.pages import write_page
from keras_tinyalex.web.scores import expected_scores, read_scores

__all__ = ["dequantized", "expected_scores", "read_scores", "write_page"]
