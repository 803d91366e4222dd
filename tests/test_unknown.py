"""Images of unknown classes: scores and rates by hand, and the command."""

import json

import keras
import numpy as np
import pytest

from keras_tinyalex import evaluate_unknown
from keras_tinyalex.applications import save_model
from keras_tinyalex.cli import main

WNIDS = ("n01443537", "n01629819", "n01641577")
# Red and green of images of one color; the logits are a 64th of both.
KNOWN = [(128, 0), (0, 64), (32, 0), (0, 0)]
UNKNOWN = [(64, 64), (64, 0)]


def images(colors):
    pixels = np.zeros((len(colors), 16, 16, 3), np.uint8)
    pixels[..., :2] = np.array(colors)[:, None, None]
    return pixels


def color_model(*last):
    """Logits of two classes, and the layers after them."""
    model = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            keras.layers.GlobalAveragePooling2D(),
            *(last or [keras.layers.Dense(2)]),
        ]
    )
    kernel = np.array([[1 / 64, 0], [0, 1 / 64], [0, 0]])
    dense = next(x for x in model.layers if isinstance(x, keras.layers.Dense))
    dense.set_weights([kernel, np.zeros(2)])
    return model


ENDS = {
    "logits": lambda: [keras.layers.Dense(2)],
    "dense": lambda: [keras.layers.Dense(2, activation="softmax")],
    "layer": lambda: [keras.layers.Dense(2), keras.layers.Softmax()],
    "activation": lambda: [
        keras.layers.Dense(2),
        keras.layers.Activation("softmax"),
    ],
}


@pytest.mark.backend
@pytest.mark.parametrize("end", ENDS)
def test_scores_by_hand(end):
    result = evaluate_unknown(color_model(*ENDS[end]()), images(KNOWN), images(UNKNOWN))

    # Logits (2, 0), (0, 1), (0.5, 0), (0, 0) against (1, 1), (1, 0).
    highest = [1 / (1 + np.exp(-difference)) for difference in (2, 1, 0.5, 0, 0, 1)]
    assert result.confidence_known == pytest.approx(np.mean(highest[:4]), abs=1e-5)
    assert result.confidence_unknown == pytest.approx(np.mean(highest[4:]), abs=1e-5)
    # Three are above (1, 1), (0, 0) ties with it; one is above (1, 0), (0, 1) ties.
    assert result.auroc["max_softmax"] == pytest.approx((3.5 + 1.5) / 8)
    # Energies ln(e^a + e^b): 2.13, 1.31, 0.97, 0.69 against 1.69, 1.31.
    assert result.auroc["energy"] == pytest.approx((1 + 1.5) / 8)
    assert (result.n_known, result.n_unknown) == (4, 2)


def test_fraction_that_a_threshold_accepts():
    """Of 100 known images, 95 have at least the score of the sixth lowest."""
    known = images([(value, 0) for value in range(100)])
    unknown = images([(value, 0) for value in (3, 4, 5, 6)])
    result = evaluate_unknown(color_model(), known, unknown)
    assert result.accepted == {"max_softmax": 0.5, "energy": 0.5}


def test_large_logits_do_not_overflow():
    model = color_model()
    model.layers[-1].set_weights([np.full((3, 2), 1e6), np.zeros(2)])
    result = evaluate_unknown(model, images(KNOWN), images(UNKNOWN))
    assert result.confidence_known == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("end", "known", "message"),
    [
        (["sigmoid"], KNOWN, r"must end in a softmax.*activation=sigmoid"),
        ([None], [], r"`known` must hold at least one image"),
    ],
)
def test_wrong_arguments(end, known, message):
    model = color_model(keras.layers.Dense(2, activation=end[0]))
    with pytest.raises(ValueError, match=message):
        evaluate_unknown(model, images(known or KNOWN)[: len(known)], images(UNKNOWN))


@pytest.fixture
def model_file(tmp_path):
    path = tmp_path / "model.keras"
    save_model(color_model(), path, WNIDS[:2])
    return path


def run(capsys, *arguments):
    status = main(["evaluate", *map(str, arguments), "--json"])
    out, error = capsys.readouterr()
    return status, json.loads(out.splitlines()[-1]) if out else None, error


def test_command_takes_the_other_classes_of_the_data(
    capsys, model_file, official_folder
):
    status, result, error = run(
        capsys, model_file, "--data", official_folder, "--unknown"
    )
    assert status == 0
    unknown = result["unknown"]
    assert unknown["classes"] == [WNIDS[2]]
    assert (result["n"], unknown["n_known"], unknown["n_unknown"]) == (4, 4, 2)
    assert 0 <= unknown["auroc"]["energy"] <= 1
    assert "images of 1 other classes: AUROC " in error


def test_command_takes_another_source(capsys, model_file, official_folder, tmp_path):
    from PIL import Image

    for name in ("cat", "dog"):
        folder = tmp_path / "others" / name
        folder.mkdir(parents=True)
        for k in range(3):
            Image.new("RGB", (16, 16), (k, 0, 0)).save(folder / f"{k}.png")
    command = (model_file, "--data", official_folder, "--unknown", tmp_path / "others")
    unknown = run(capsys, *command)[1]["unknown"]
    assert (unknown["classes"], unknown["n_unknown"]) == (["cat", "dog"], 6)


def test_command_refuses(capsys, model_file, official_folder, tmp_path):
    three = tmp_path / "three.keras"
    model = color_model(keras.layers.Dense(2), keras.layers.Dense(3))
    save_model(model, three, WNIDS)
    status, _, error = run(capsys, three, "--data", official_folder, "--unknown")
    assert status == 1
    assert "--unknown must be a source with other classes than the model's" in error
    command = (model_file, "--data", official_folder, "--unknown", "--corruptions")
    assert (
        "--unknown must be measured without --corruptions" in run(capsys, *command)[2]
    )
