"""Recipes: names, files, and clear refusals."""

import dataclasses
import json

import numpy as np
import pytest

from keras_tinyalex import augmentation, recipes


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
        (json.dumps({"epocs": 3}), "`epocs` is none. Did you mean `epochs`"),
        (json.dumps({"epochs": 0}), "Received: epochs=0"),
        (json.dumps({"learning_rate": "0.05"}), "Received: learning_rate='0.05'"),
        ('{"learning_rate": NaN}', "Received: learning_rate=nan"),
        ('{"dropout": 1}', "at least 0 and below 1. Received: dropout=1"),
        ('{"epochs": true}', "Received: epochs=True"),
        ('{"folded_batch_norm": "no"}', "Received: folded_batch_norm='no'"),
        ('{"augmentation": ["flip"]}', r"Received: augmentation=\['flip'\]"),
        ('{"dtype": null}', "Received: dtype=None"),
        ('{"description": {"en": ""}}', "must be a string"),
        ('{"epochs": 3, "epochs": 5}', "more than once: 'epochs'"),
        ('{"epochs": 3} // short', "Extra data"),
        ("[" * 100_000, "must be a JSON object"),
        ('{"learning_rate": 1' + "0" * 400 + "}", "too large"),
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


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_file_with_a_byte_order_mark_is_read(tmp_path, encoding):
    (tmp_path / "mine.json").write_text('{"epochs": 3}', encoding=encoding)
    assert recipes.load(tmp_path / "mine.json") == recipes.Recipe("mine", epochs=3)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""),
        ("name", "a/b"),
        ("name", None),
        ("augmentation", "flop"),
        ("augmentation", 3),
        ("mixing", lambda images, labels, generator: (images, labels)),
        ("learning_rate", np.float32("inf")),
        ("learning_rate", [0.01]),
        ("momentum", 1.0),
        ("weight_decay_per_epoch", -0.1),
        ("accumulated_steps", 0),
        ("balanced_classes", "yes"),
        ("warmup_epochs", "2"),
        ("normalization", "group"),
        ("lrn_depth_radius", -1),
        ("lrn_bias", 0),
        ("lrn_beta", np.nan),
        ("unmixed_epochs", 1.5),
        ("min_steps", -1),
        ("half_size_epochs", -1),
        ("label_smoothing", np.True_),
        ("averaged", 1),
        ("width_multiplier", 0),
        ("dtype", "float7"),
        ("dtype", "uint8"),
        ("dtype", "int8_from_float32"),
    ],
)
def test_every_field_is_checked(field, value):
    with pytest.raises(ValueError, match=rf"`{field}` must be .*Received: {field}="):
        recipes.Recipe(**{"name": "wrong", field: value})


def test_every_field_has_a_check():
    """A string of 1,000 letters is neither a number nor a known name."""
    for field in dataclasses.fields(recipes.Recipe):
        value = 3.5 if field.name in ("name", "description") else "x" * 1000
        with pytest.raises(ValueError, match=f"`{field.name}` must be"):
            recipes.Recipe(**{"name": "wrong", field.name: value})


def test_numbers_of_numpy_become_json(tmp_path):
    mine = recipes.Recipe(
        "mine",
        epochs=np.int64(3),
        learning_rate=np.float32(0.5),
        dropout=0,
        folded_batch_norm=np.False_,
    )
    mine.save(tmp_path / "mine.json")
    assert recipes.load(tmp_path / "mine.json") == mine
    written = json.loads((tmp_path / "mine.json").read_text())
    assert (written["epochs"], written["learning_rate"]) == (3, 0.5)
    assert mine.over(np.int64(6)).as_dict() == {**mine.as_dict(), "epochs": 6}


def test_an_augmentation_of_ones_own_has_a_name(monkeypatch):
    def mirror(images, generator):
        return images[:, :, ::-1]

    with pytest.raises(ValueError, match=r"AUGMENTATIONS\[name\] = function"):
        recipes.Recipe("mine", augmentation=mirror)
    monkeypatch.setitem(augmentation.AUGMENTATIONS, "mirror", mirror)
    mine = recipes.Recipe("mine", augmentation="mirror")
    assert augmentation.get(mine.as_dict()["augmentation"]) is mirror


@pytest.mark.parametrize("epochs", ["3", 2.5, 0, None])
def test_wrong_numbers_of_epochs(epochs):
    with pytest.raises(ValueError, match="`epochs` must be a positive integer"):
        recipes.BEST.over(epochs)


@pytest.mark.parametrize("field", ["half_size_epochs", "unmixed_epochs"])
def test_other_epochs_keep_the_share(field):
    recipe = recipes.Recipe("r", epochs=40, **{field: 30})
    shares = [getattr(recipe.over(n), field) for n in (1, 2, 4, 40, 100)]
    assert shares == [1, 2, 3, 30, 75]  # 1.5 rounds to 2
    assert recipe.over(40) == recipe


def test_few_images_have_more_epochs():
    recipe = recipes.Recipe(
        "r", epochs=8, batch_size=32, min_steps=600, half_size_epochs=2
    )
    few = recipe.for_images(100)  # 4 steps in an epoch
    assert (few.epochs, few.half_size_epochs) == (150, 38)
    assert few.for_images(100) == few
    assert recipe.for_images(2400) == recipe  # 75 steps, 600 in 8 epochs
    assert recipe.for_images(2368).epochs == 9  # 74 steps
    assert recipe.over(3).for_images(1).epochs == 3  # as asked for


def test_fast_stays_at_half_size_over_other_epochs():
    assert recipes.FAST.over(3).half_size_epochs == 3


def test_best_long_is_best_with_more_epochs_and_mixing():
    long, best = recipes.get("best_long"), recipes.BEST.as_dict()
    changed = {field for field, value in long.as_dict().items() if value != best[field]}
    longer = {"epochs", "half_size_epochs"}
    mixing = {"mixing", "mixing_probability", "unmixed_epochs"}
    others = {"weight_decay_per_epoch", "augmentation", "label_smoothing"}
    assert changed == {"name", "description"} | longer | mixing | others
    # Half of the epochs of whole images are not mixed.
    assert long.epochs - long.half_size_epochs == 2 * long.unmixed_epochs
    assert (long.over(20).half_size_epochs, long.over(20).unmixed_epochs) == (14, 3)


def test_best_200_is_best_with_less_dropout_in_larger_batches():
    all_classes, best = recipes.get("best_200").as_dict(), recipes.BEST.as_dict()
    changed = {field for field, value in all_classes.items() if value != best[field]}
    batches = {"batch_size", "learning_rate"}
    assert changed == {"name", "description", "dropout"} | batches
    # Twice the images in a batch, sqrt(2) times the learning rate.
    assert all_classes["learning_rate"] == pytest.approx(0.003 * 2**0.5, rel=0.02)


def test_robust_is_best_with_more_augmentation():
    robust, best = recipes.get("robust").as_dict(), recipes.BEST.as_dict()
    changed = {field for field, value in robust.items() if value != best[field]}
    assert changed == {"name", "description", "dropout", "augmentation"}


def test_unknown_names_and_missing_files():
    with pytest.raises(ValueError, match=r"\.json file or a Recipe.*recipe='fastest'"):
        recipes.get("fastest")
    for wrong in (None, {"epochs": 3}, 3):
        with pytest.raises(ValueError, match=r"`recipe` must be .* Received: recipe="):
            recipes.get(wrong)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.json"):
        recipes.get("nowhere.json")
