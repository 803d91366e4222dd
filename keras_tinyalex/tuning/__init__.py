"""Hyperparameter search with KerasTuner."""

from keras_tinyalex.tuning.hypermodel import HyperAlexNetMini
from keras_tinyalex.tuning.plots import importance, plot_search
from keras_tinyalex.tuning.results import Search, read_search
from keras_tinyalex.tuning.searching import retrain, search
from keras_tinyalex.tuning.spaces import SPACES, to_recipe

__all__ = [
    "SPACES",
    "HyperAlexNetMini",
    "Search",
    "importance",
    "plot_search",
    "read_search",
    "retrain",
    "search",
    "to_recipe",
]
