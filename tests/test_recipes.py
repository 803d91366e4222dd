"""Recipes: names, files, and clear refusals."""

import dataclasses
import json

import pytest

from keras_tinyalex import recipes


def test_a_recipe_survives_a_file(tmp_path):
    path = tmp_path / "mine.json"
    mine = dataclasses.replace(recipes.BASELINE, name="mine", mixing="cutmix")
    mine.save(path)
    assert recipes.load(path) == recipes.get(str(path)) == recipes.get(path) == mine


def test_fields_left_out_are_the_baselines(tmp_path):
    path = tmp_path / "short.json"
    path.write_text('{"epochs": 3}')
    short = recipes.Recipe("short", epochs=3)
    assert recipes.load(path) == short
    assert (short.learning_rate, short.mixing) == (0.01, None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "must be a JSON object"),
        ("[1]", "holds a list"),
        (json.dumps({"epocs": 3}), "epocs"),
        (json.dumps({"epochs": 0}), "Received: epochs=0"),
        (json.dumps({"learning_rate": "high"}), "fields of a recipe"),
        (json.dumps({"fc1_units": 1.5}), "Received: fc1_units=1.5"),
        (json.dumps({"mixing_probability": 0}), r"\(0, 1\].*set `mixing` to None"),
        (json.dumps({"mixing_probability": 1.5}), "Received: mixing_probability=1.5"),
    ],
)
def test_a_wrong_file_is_refused_by_name(tmp_path, content, message):
    path = tmp_path / "wrong.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=rf"wrong\.json.*{message}"):
        recipes.get(path)


@pytest.mark.parametrize("field", ["half_size_epochs", "unmixed_epochs"])
def test_other_epochs_keep_the_share(field):
    recipe = recipes.Recipe("r", epochs=40, **{field: 30})
    shares = [getattr(recipe.over(n), field) for n in (1, 2, 4, 40, 100)]
    assert shares == [1, 2, 3, 30, 75]  # 1.5 rounds to 2
    assert recipe.over(40) == recipe


def test_fast_stays_at_half_size_over_other_epochs():
    assert recipes.FAST.over(3).half_size_epochs == 3


def test_best_long_is_best_with_more_epochs_and_mixing():
    long, best = recipes.get("best_long"), recipes.BEST.as_dict()
    changed = {field for field, value in long.as_dict().items() if value != best[field]}
    longer = {"epochs", "half_size_epochs"}
    mixing = {"mixing", "mixing_probability", "unmixed_epochs"}
    others = {"weight_decay", "augmentation", "label_smoothing"}
    assert changed == {"name", "description"} | longer | mixing | others
    # More epochs and more to learn in each need less of it.
    assert long.weight_decay < recipes.BEST.weight_decay
    # Half of the epochs of whole images are not mixed.
    assert long.epochs - long.half_size_epochs == 2 * long.unmixed_epochs
    assert (long.over(20).half_size_epochs, long.over(20).unmixed_epochs) == (14, 3)


def test_unknown_names_and_missing_files():
    with pytest.raises(ValueError, match=r"\.json file or a Recipe.*recipe='fastest'"):
        recipes.get("fastest")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.json"):
        recipes.get("nowhere.json")
