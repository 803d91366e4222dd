"""Accuracy on corrupted images: arithmetic, resuming, files of Tiny-ImageNet-C."""

import csv
import json

import keras
import numpy as np
import pytest
from PIL import Image

from keras_tinyalex import evaluate, evaluate_corruptions
from keras_tinyalex.applications import save_model
from keras_tinyalex.cli import main
from keras_tinyalex.datasets.corruptions import CORRUPTIONS, corrupt
from keras_tinyalex.robustness import measuring
from keras_tinyalex.robustness.result import (
    BASELINE_CLEAN_ERROR,
    BASELINE_ERRORS,
    MAIN,
    summarize,
)
from keras_tinyalex.robustness.sets import open_sets

WNIDS = ("n01443537", "n01629819", "n01641577")


def linear_model(weights, bias, shape=(16, 16, 3)):
    """Class scores that are linear in the mean color."""
    model = keras.Sequential(
        [
            keras.Input(shape),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(len(bias)),
        ]
    )
    model.layers[-1].set_weights([np.array(weights, float), np.array(bias, float)])
    return model


@pytest.fixture
def is_bright():
    """Class 1 if the mean of red is above 140, else class 0."""
    return linear_model([[0, 1], [0, 0], [0, 0]], [140, 0])


@pytest.fixture
def strongest_color():
    """Class 0, 1 or 2 if the image is most of all red, green or blue."""
    return linear_model(np.eye(3), np.zeros(3), (64, 64, 3))


@pytest.fixture
def grays():
    """Images of one gray each, and whether it is bright."""
    values = np.array([100, 200, 100, 200, 100, 180])
    images = np.tile(values.astype(np.uint8)[:, None, None, None], (1, 16, 16, 3))
    return images, (values > 140).astype(int)


# ----------------------------------------------------------------- arithmetic


@pytest.mark.backend
def test_accuracy_by_severity(is_bright, grays):
    """Brightness adds 25.5 per severity: 100 is taken for bright from 2 on."""
    result = evaluate_corruptions(
        is_bright, grays, corruptions=["contrast", "brightness"], batch_size=4
    )
    assert result.corruptions == {
        "brightness": (1.0, 0.5, 0.5, 0.5, 0.5),
        "contrast": (1.0,) * 5,
    }
    assert (result.clean_accuracy, result.n) == (1.0, 6)
    assert result.mean_corruption_accuracy == pytest.approx((0.6 + 1) / 2)
    assert result.mce == pytest.approx((0.4 / 0.6800 + 0 / 0.8939) / 2)
    increases = 0.4 / (0.6800 - 0.3836), 0 / (0.8939 - 0.3836)
    assert result.relative_mce == pytest.approx(sum(increases) / 2)
    assert result.measured == ("brightness", "contrast")
    assert result.missing == ()
    assert result.mean_extra_accuracy is None


def test_the_baseline_has_an_mce_of_one():
    errors = {**BASELINE_ERRORS, "saturate": 0.5}
    rows = {(n, s): (1 - errors[n], 9) for n in errors for s in range(1, 6)}
    rows["clean", 0] = (1 - BASELINE_CLEAN_ERROR, 9)
    result = summarize([*MAIN, "saturate"], rows)
    assert result.mce == pytest.approx(1)
    assert result.relative_mce == pytest.approx(1)
    # As in table 5 of the AugMax paper: an accuracy of 23.91%.
    assert result.mean_corruption_accuracy == pytest.approx(0.2391, abs=5e-5)
    assert result.mean_extra_accuracy == pytest.approx(0.5)
    assert result.measured == MAIN
    assert json.loads(json.dumps(result.as_dict()))["corruptions"]["fog"][0] == (
        pytest.approx(1 - 0.7433)
    )


def test_means_are_of_complete_corruptions():
    rows = {("fog", severity): (0.2 * severity, 10) for severity in range(1, 6)}
    rows["frost", 2] = (0.0, 7)
    result = summarize(["snow", "frost", "fog"], rows)
    assert result.corruptions["frost"] == (None, 0.0, None, None, None)
    assert result.measured == ("fog",)
    assert result.mean_corruption_accuracy == pytest.approx(0.6)
    assert result.mce == pytest.approx(0.4 / 0.7433)
    assert result.missing == ("snow", "frost 1", "frost 3", "frost 4", "frost 5")
    assert (result.n, result.clean_accuracy, result.relative_mce) == (7, None, None)
    nothing = summarize(["frost"], {("frost", 2): (0.5, 7)})
    assert (nothing.mean_corruption_accuracy, nothing.mce) == (None, None)


@pytest.mark.backend
def test_batches_change_nothing():
    random = np.random.default_rng(0)
    layers = [keras.Input((16, 16, 3)), keras.layers.Flatten()]
    model = keras.Sequential([*layers, keras.layers.Dense(4, use_bias=False)])
    model.layers[-1].set_weights([random.normal(size=(768, 4))])
    data = random.integers(0, 256, (21, 16, 16, 3), np.uint8), np.arange(21) % 4
    names = ["gaussian_noise", "saturate", "frost"]
    results = [
        evaluate_corruptions(model, data, corruptions=names, batch_size=size)
        for size in (1, 5, 128)
    ]
    assert results[0] == results[1] == results[2]
    images = corrupt(data[0], "frost", 4)
    expected = evaluate(model, (images, data[1])).top1
    assert results[0].corruptions["frost"][3] == expected
    other = evaluate_corruptions(model, data, corruptions=names, seed=1)
    assert other != results[0]


@pytest.mark.backend
def test_images_are_resized_after_they_are_corrupted():
    """To a gray model of 24x20 pixels, as files of that size would be read."""
    model = keras.Sequential([keras.Input((24, 20, 1)), keras.layers.Flatten()])
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    labels = np.zeros(3, int)
    sets = open_sets(model, (images, labels), None, None, 2, 0, None)
    parts = [part() for part in sets.parts(("impulse_noise", 2))]
    assert [len(y) for _, y in parts] == [2, 1]
    corrupted = corrupt(images, "impulse_noise", 2, jpeg_quality=None)
    bilinear = Image.Resampling.BILINEAR
    expected = [
        np.asarray(Image.fromarray(image).convert("L").resize((20, 24), bilinear))
        for image in corrupted
    ]
    got = np.concatenate([x for x, _ in parts])
    np.testing.assert_array_equal(got[..., 0], expected)


def test_a_model_of_any_size_gets_images_as_they_are(grays):
    model = linear_model([[0, 1], [0, 0], [0, 0]], [140, 0], (None, None, 3))
    sets = open_sets(model, grays, None, None, 8, 0, 85)
    assert sets.parts(("clean", 0))[0]()[0].shape == (6, 16, 16, 3)


# ------------------------------------------------------------------- resuming


@pytest.mark.backend
def test_a_killed_run_resumes(is_bright, grays, tmp_path, monkeypatch):
    path = tmp_path / "new" / "table.csv"
    names = ["brightness", "saturate"]
    whole = evaluate_corruptions(is_bright, grays, corruptions=names)
    measured = []

    def count(*arguments, **options):
        if len(measured) == 4:
            raise KeyboardInterrupt
        measured.append(evaluate(*arguments, **options))
        return measured[-1]

    monkeypatch.setattr(measuring, "evaluate", count)
    with pytest.raises(KeyboardInterrupt):
        evaluate_corruptions(is_bright, grays, corruptions=names, csv=path)
    rows = list(csv.DictReader(path.open()))
    assert [(row["corruption"], row["severity"]) for row in rows] == [
        *(("clean", "0"), ("brightness", "1"), ("brightness", "2"), ("brightness", "3"))
    ]
    assert [float(row["accuracy"]) for row in rows] == [1, 1, 0.5, 0.5]
    assert {row["n"] for row in rows} == {"6"}
    measured.clear()
    monkeypatch.setattr(measuring, "evaluate", evaluate)
    result = evaluate_corruptions(is_bright, grays, corruptions=names, csv=path)
    assert result.resumed == 4
    assert result.corruptions == whole.corruptions
    assert len(list(csv.DictReader(path.open()))) == 11
    again = evaluate_corruptions(is_bright, grays, corruptions=names, csv=path)
    assert again.resumed == 11
    # Another corruption is added to the table.
    more = evaluate_corruptions(is_bright, grays, corruptions=["contrast"], csv=path)
    assert (more.resumed, more.corruptions) == (1, {"contrast": (1.0,) * 5})
    assert len(list(csv.DictReader(path.open()))) == 16


@pytest.mark.parametrize(
    "change", ["weights", "images", "labels", "seed", "jpeg", "tta"]
)
def test_a_table_of_something_else_is_refused(change, is_bright, grays, tmp_path):
    path = tmp_path / "table.csv"
    images, labels = grays
    evaluate_corruptions(is_bright, grays, corruptions=["fog"], csv=path)
    before = path.read_text()
    options = {}
    if change == "weights":
        is_bright.layers[-1].bias.assign([141, 0])
    elif change == "images":
        images = images.copy()
        images[0, 0, 0, 0] += 1
    elif change == "labels":
        labels = 1 - labels
    else:
        value = {"seed": 1, "jpeg": None, "tta": True}[change]
        options = {"jpeg_quality" if change == "jpeg" else change: value}
    with pytest.raises(
        ValueError, match=r"`csv` must be a new file, or one of the same"
    ):
        evaluate_corruptions(
            is_bright, (images, labels), corruptions=["fog"], csv=path, **options
        )
    assert path.read_text() == before


@pytest.mark.parametrize(
    "text", ["a,b\n1,2\n", "corruption,severity\n", "", "\x00\xff"]
)
def test_a_file_of_something_else_is_refused(text, is_bright, grays, tmp_path):
    path = tmp_path / "notes.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"`csv` must be a new file.*Received: csv="):
        evaluate_corruptions(is_bright, grays, corruptions=["fog"], csv=path)
    assert path.read_text() == text


# ------------------------------------------------------- files and arguments


def write_set(folder, classes=WNIDS, count=2, wrong=0):
    """Class folders of red, green and blue images; `wrong` ones have another color."""
    for label, wnid in enumerate(classes):
        (folder / wnid).mkdir(parents=True)
        for index in range(count):
            color = np.zeros((64, 64, 3), np.uint8)
            color[..., (label + (index < wrong)) % 3] = 200
            Image.fromarray(color).save(folder / wnid / f"val_{index}.JPEG", quality=85)


@pytest.fixture
def official(tmp_path):
    """A part of Tiny-ImageNet-C: all of fog, and one severity of snow."""
    root = tmp_path / "Tiny-ImageNet-C"
    for severity in range(1, 6):
        write_set(root / "fog" / str(severity), count=5, wrong=severity - 1)
    write_set(root / "snow" / "4", count=5, wrong=5)
    return root


@pytest.mark.backend
def test_official_files(strongest_color, official, tmp_path):
    result = evaluate_corruptions(strongest_color, official, class_names=WNIDS)
    assert result.corruptions["fog"] == (1.0, 0.8, 0.6, 0.4, 0.2)
    assert result.corruptions["snow"] == (None, None, None, 0.0, None)
    assert result.measured == ("fog",)
    assert result.mean_corruption_accuracy == pytest.approx(0.6)
    assert result.missing[:2] == ("gaussian_noise", "shot_noise")
    assert {"snow 1", "snow 5", "contrast"} <= set(result.missing)
    assert (result.n, result.clean_accuracy) == (15, None)
    # Of the folder around it, and in another order of the classes.
    model = linear_model(np.eye(3)[:, [2, 0, 1]], np.zeros(3), (64, 64, 3))
    names = [WNIDS[2], WNIDS[0], WNIDS[1]]
    moved = evaluate_corruptions(model, tmp_path, names, ["fog"], batch_size=4)
    assert moved.corruptions == {"fog": (1.0, 0.8, 0.6, 0.4, 0.2)}


def test_official_files_that_are_not_there(strongest_color, official):
    with pytest.raises(ValueError, match=r"at least one corruption.*\['frost'\]"):
        evaluate_corruptions(strongest_color, official, WNIDS, ["frost"])
    (official / "fog" / "5" / WNIDS[1] / "val_0.JPEG").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"1 of 15 .* cannot be decoded"):
        evaluate_corruptions(strongest_color, official, WNIDS, ["fog"])


def test_a_class_that_a_set_lacks(strongest_color, official):
    for file in (official / "fog" / "2" / WNIDS[1]).iterdir():
        file.unlink()
    (official / "fog" / "2" / WNIDS[1]).rmdir()
    with pytest.raises(ValueError, match=WNIDS[1]):
        evaluate_corruptions(strongest_color, official, WNIDS, ["fog"])


def test_the_archive_says_to_extract_it(strongest_color, tmp_path):
    path = tmp_path / "Tiny-ImageNet-C.tar"
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"extract the .tar file and pass the folder"):
        evaluate_corruptions(strongest_color, path)


def test_a_clean_source(strongest_color, official_folder):
    """Its val images, in the order of the class names."""
    result = evaluate_corruptions(
        strongest_color, official_folder, corruptions=["contrast"]
    )
    assert (result.clean_accuracy, result.n) == (1.0, 6)
    train = evaluate_corruptions(
        strongest_color,
        official_folder / "train",
        corruptions=["contrast"],
        classes=list(WNIDS),
    )
    # Nothing that a training saw: 1 of the 8 images of each class is held out.
    assert train.n == 3


WRONG = [
    ({"corruptions": "fog"}, r"`corruptions` must be a list of names.*='fog'"),
    ({"corruptions": []}, r"`corruptions` must be a list"),
    ({"corruptions": ["rain"]}, r"`corruptions` must be one of .*='rain'"),
    ({"batch_size": 0}, "`batch_size` must be a positive integer"),
    ({"seed": -1}, "`seed` must be a non-negative integer"),
    ({"jpeg_quality": 99}, "`jpeg_quality` must be one of"),
    ({"tta": "yes"}, "`tta` must be True or False"),
    ({"data": [1, 2]}, r"`data` must be a tuple \(images, labels\)"),
    ({"data": (np.zeros((2, 16, 16, 3), np.uint8), [0])}, "same length"),
    ({"data": (np.zeros((1, 16, 16, 3)), [0])}, "`images` must be a uint8"),
]


@pytest.mark.parametrize(("wrong", "message"), WRONG)
def test_wrong_arguments(wrong, message, is_bright, grays):
    with pytest.raises(ValueError, match=message):
        evaluate_corruptions(is_bright, **{"data": grays, **wrong})


# --------------------------------------------------------------- command line


@pytest.fixture
def model_file(strongest_color, tmp_path):
    path = tmp_path / "model.keras"
    save_model(strongest_color, path, WNIDS)
    return str(path)


def run(capsys, *arguments):
    status = main(["evaluate", *map(str, arguments)])
    out, error = capsys.readouterr()
    return status, json.loads(out.splitlines()[-1]) if out else None, error


def test_command(capsys, model_file, official_folder, tmp_path):
    table, plots = tmp_path / "table.csv", tmp_path / "plots"
    status, result, error = run(
        capsys,
        *(model_file, "--data", official_folder, "--csv", table, "--plots", plots),
        *("--corruptions", "contrast", "spatter", "--json"),
    )
    assert status == 0
    assert (result["top1"], result["n"]) == (1.0, 6)
    assert {"loss", "top5", "mce", "mean_corruption_accuracy"} <= set(result)
    assert list(result["corruptions"]) == ["contrast", "spatter"]
    assert result["corruptions"]["contrast"] == [1.0] * 5
    assert result["mean_corruption_accuracy"] == 1.0
    assert result["mean_extra_accuracy"] is not None
    assert "mean accuracy 1.0000 over 1 of the 15 corruptions, mCE 0.000" in error
    assert len(table.read_text().splitlines()) == 1 + 1 + 10
    assert (plots / "corruptions.png").exists()
    command = (model_file, "--data", official_folder, "--csv", table, "--corruptions")
    status, result, error = run(capsys, *command, "contrast", "--json")
    assert (status, result["resumed"]) == (0, 6)
    assert f"6 of 6 sets from {table}" in error


def test_command_measures_15_without_a_name(capsys, model_file, official_folder):
    command = (model_file, "--data", official_folder, "--json", "--corruptions")
    status, result, error = run(capsys, *command)
    assert status == 0
    assert tuple(result["corruptions"]) == MAIN == tuple(CORRUPTIONS)[:15]
    assert all(len(five) == 5 for five in result["corruptions"].values())
    assert "over 15 of the 15 corruptions" in error


def test_command_reads_official_files(capsys, model_file, official):
    command = (model_file, "--data", official, "--json", "--corruptions")
    status, result, error = run(capsys, *command)
    assert status == 0
    assert result["corruptions"]["fog"] == [1.0, 0.8, 0.6, 0.4, 0.2]
    assert (result["top1"], result["n"]) == (None, 15)
    assert "no images of: gaussian_noise, shot_noise" in error


def test_command_refuses(capsys, model_file, official_folder):
    status, _, error = run(
        capsys, model_file, "--data", official_folder, "--csv", "table.csv"
    )
    assert status == 1
    assert "--csv must be used with --corruptions" in error
    command = (model_file, "--data", official_folder, "--all", "--corruptions")
    assert "leave --all out" in run(capsys, *command)[2]
    with pytest.raises(SystemExit, match="2"):
        run(capsys, model_file, "--data", official_folder, "--corruptions", "rain")
    assert "invalid choice: 'rain'" in capsys.readouterr().err
