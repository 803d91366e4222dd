"""Search spaces: locked, documented, and every value of them a valid recipe."""

import dataclasses
from pathlib import Path

import keras_tuner
import numpy as np
import pytest

from keras_tinyalex import AlexNetMini, building, recipes
from keras_tinyalex.augmentation import AUGMENTATIONS
from keras_tinyalex.tuning import SPACES, spaces, to_recipe

DOCS = Path(__file__).parents[2] / "docs" / "tuning.md"

# A search is comparable with another one only where these are the same.
ARCHITECTURE = {
    "width_multiplier": ((0.5, 0.75, 1.0, 1.25, 1.5), 1.0),
    "normalization": (("lrn", "batch", "none"), "lrn"),
    "lrn_depth_radius": ((1, 2, 3, 5, 7), 5),
    "lrn_alpha": ((1e-4, 10.0, "log"), 1.0),
    "lrn_beta": ((0.5, 0.75, 1.0), 0.5),
    "lrn_bias": ((0.5, 1.0, 2.0), 1.0),
    "fc1_units": ((256, 512, 1024, 2048), 1024),
    "fc2_units": ((128, 256, 512, 1024), 512),
    "dropout": ((0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7), 0.5),
}
OPTIMIZER = {
    "optimizer": (("sgd", "adamw", "muon"), "sgd"),
    "sgd_learning_rate": ((1e-3, 0.3, "log"), 0.01),
    "adamw_learning_rate": ((1e-4, 1e-2, "log"), 1e-3),
    "muon_learning_rate": ((1e-4, 1e-2, "log"), 1e-3),
    "momentum": ((0.0, 0.5, 0.9, 0.95), 0.0),
    "weight_decay_per_epoch": ((0.0, 0.01, 0.03, 0.1, 0.3), 0.0),
    "schedule": (("constant", "cosine"), "constant"),
    "batch_size": ((16, 32, 64, 128), 16),
    "folded_batch_norm": ((False, True), False),
}
AUGMENTATION = {
    "augmentation": (
        (
            "none",
            "flip",
            "crop_flip",
            "crop_flip_cutout",
            "crop_flip_color_cutout",
            "zoom_flip_color_cutout",
        ),
        "none",
    ),
    "mixing": (("none", "mixup", "cutmix", "mixup_cutmix"), "none"),
    "label_smoothing": ((0.0, 0.05, 0.1, 0.2), 0.0),
}
LOCKED = {
    "architecture": ARCHITECTURE,
    "optimizer": OPTIMIZER,
    "augmentation": AUGMENTATION,
    "all": {**ARCHITECTURE, **OPTIMIZER, **AUGMENTATION},
}


def declared(space, **values):
    hp = keras_tuner.HyperParameters()
    hp.values = values
    return hp, spaces.declare(hp, space)


@pytest.mark.parametrize("space", LOCKED)
def test_names_ranges_and_defaults_are_locked(space):
    hp, _ = declared(space)
    found = {
        p.name: (
            tuple(p.values)
            if isinstance(p, keras_tuner.engine.hyperparameters.Choice)
            else (p.min_value, p.max_value, p.sampling),
            p.default,
        )
        for p in hp.space
    }
    assert found == LOCKED[space]
    assert list(SPACES) == list(LOCKED)


@pytest.mark.parametrize("space", LOCKED)
def test_defaults_are_the_baseline(space):
    _, values = declared(space)
    recipe = to_recipe(values, name="baseline")
    plain = dataclasses.replace(recipes.BASELINE, description="")
    assert recipe == plain


def test_conditional_hyperparameters():
    _, values = declared("all", normalization="batch", optimizer="adamw")
    absent = {n for n in LOCKED["all"] if n.startswith("lrn_")}
    absent |= {"sgd_learning_rate", "muon_learning_rate", "momentum"}
    assert values.keys() == LOCKED["all"].keys() - absent
    assert to_recipe(values).learning_rate == 1e-3


@pytest.mark.parametrize(
    "hyperparameter", SPACES["all"], ids=lambda hyperparameter: hyperparameter.name
)
def test_every_value_is_a_recipe(hyperparameter):
    for value in hyperparameter.choices or (hyperparameter.low, hyperparameter.high):
        expected = None if value == "none" else value
        assert (
            getattr(to_recipe({hyperparameter.name: value}), hyperparameter.field)
            == expected
        )
    if hyperparameter.field == "augmentation":
        assert set(hyperparameter.choices) - {"none"} <= AUGMENTATIONS.keys()


def test_single_precision_gives_the_same_recipe():
    # 0.0123456789 becomes 0.012345679104... on its way between machines
    sent = float(np.float32(0.0123456789))
    assert sent != 0.0123456789
    assert to_recipe({"sgd_learning_rate": sent}).learning_rate == 0.01235
    assert to_recipe({"dropout": float(np.float32(0.1))}).dropout == 0.1


def test_a_choice_of_two_stays_one_in_the_file_of_the_recipe(tmp_path):
    # KerasTuner keeps booleans as numbers.
    to_recipe({"folded_batch_norm": 1}).save(tmp_path / "recipe.json")
    text = (tmp_path / "recipe.json").read_text()
    assert '"folded_batch_norm": true' in text


def test_other_fields_and_base():
    base = dataclasses.replace(recipes.BASELINE, epochs=7, batch_size=64)
    recipe = to_recipe({"epochs": 3, "tuner/epochs": 99}, base)
    assert (recipe.epochs, recipe.batch_size) == (3, 64)


def test_unknown_space():
    with pytest.raises(ValueError, match=r"one of .*, 'all'\. Received: space='alll'"):
        spaces.get("alll")


def test_recipe_decides_the_layers():
    recipe = dataclasses.replace(
        recipes.BASELINE,
        width_multiplier=0.25,
        lrn_depth_radius=2,
        lrn_bias=2.0,
        lrn_alpha=1e-4,
        lrn_beta=0.75,
        fc1_units=256,
        fc2_units=128,
    )
    model = building.build_model(recipe, seed=0, num_classes=3)
    lrn = model.get_layer("block2_lrn")
    assert (lrn.depth_radius, lrn.bias, lrn.alpha, lrn.beta) == (2, 2.0, 1e-4, 0.75)
    assert model.get_layer("block1_conv").filters == 8  # a quarter of 32
    assert model.get_layer("fc1").units == 64  # a quarter of 256
    assert model.get_layer("fc2").units == 32
    assert model.predict(np.zeros((1, 64, 64, 3)), verbose=0).shape == (1, 3)


def test_baseline_is_the_plain_factory_model():
    model = building.build_model(recipes.BASELINE, seed=0, num_classes=20)
    assert model.count_params() == AlexNetMini().count_params() == 5_045_012


def test_docs_tables():
    text = DOCS.read_text(encoding="utf-8")
    for space in ("architecture", "optimizer", "augmentation"):
        for hyperparameter in SPACES[space]:
            assert row(hyperparameter) in text


def row(hyperparameter):
    h = hyperparameter
    values = ", ".join(f"{c}" for c in h.choices)
    values = values or f"{h.low:g} to {h.high:g}, log scale"
    only = f"`{h.only[0]}` is {h.only[1]}" if h.only else ""
    return f"| `{h.name}` | {values} | {h.default} | {only} |"
