"""`predict` on models without class names, and its table."""

import csv
import json
import re

import keras
import numpy as np
import pytest
from PIL import Image

from keras_tinyalex.applications import load_model, save_model
from keras_tinyalex.cli import main

NAMES = ["fox", "cat", "dog"]
HEADER = ["image", "rank", "class_name", "name", "score", "error"]


@pytest.fixture
def plain(tmp_path):
    """The most probable class is the strongest color: red, green or blue."""
    layers = [keras.layers.GlobalAveragePooling2D(), keras.layers.Softmax()]
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Rescaling(1 / 255)])
    for layer in layers:
        model.add(layer)
    path = tmp_path / "plain.keras"
    model.save(path)
    return path


@pytest.fixture
def green(tmp_path):
    path = tmp_path / "green größe.png"
    Image.new("RGB", (20, 10), (0, 255, 0)).save(path)
    return path


def read_table(path):
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.reader(file))


@pytest.mark.parametrize("form", ["commas", "file"])
def test_names_in_label_order(plain, green, tmp_path, capsys, form):
    (tmp_path / "names.txt").write_text("fox\ncat # green\n\ndog\n")
    spec = {"commas": "fox, cat,dog", "file": str(tmp_path / "names.txt")}[form]
    assert main(["predict", str(plain), str(green), "--classes", spec, "--json"]) == 0
    (image,) = json.loads(capsys.readouterr().out)["images"]
    # Green is label 1; exp(1) / (exp(1) + 2 exp(0)) is 0.576, the others have 0.212.
    scores = [
        (one["class_name"], round(one["score"], 3)) for one in image["predictions"]
    ]
    assert scores == [("cat", 0.576), ("fox", 0.212), ("dog", 0.212)]


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (None, "3 classes .* because its file has no class names"),
        ("cat,dog", "3 classes .* Received: 2 names, 2 unique"),
        ("cat,dog,cat", "3 classes .* Received: 3 names, 2 unique"),
        ("none.txt", "readable text file .*none.txt"),
    ],
)
def test_names_must_fit(plain, green, tmp_path, capsys, classes, message):
    options = [] if classes is None else ["--classes", classes]
    table = tmp_path / "table.csv"
    table.write_text("of yesterday")
    command = ["predict", str(plain), str(green), "--csv", str(table)]
    assert main([*command, *options]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(message, line)
    assert table.read_text() == "of yesterday"


def test_names_of_the_file_are_kept(plain, green, tmp_path, capsys):
    named = tmp_path / "named.h5"
    save_model(load_model(plain)[0], named, NAMES)
    assert main(["predict", str(named), str(green), "--classes", "fox,cat,dog"]) == 0
    assert main(["predict", str(named), str(green), "--classes", "cat,fox,dog"]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert "--classes must be left out for a model whose file has class names" in last


def test_each_file_has_rows(plain, green, tmp_path, capsys):
    bad, table = tmp_path / "bad.jpg", tmp_path / "new" / "table.csv"
    bad.write_bytes(b"")
    command = ["predict", str(plain), str(green), str(bad), "none.png", "--top", "2"]
    command += ["--classes", "fox,cat,dog", "--csv", str(table), "--json"]
    assert main(command) == 1
    assert json.loads(capsys.readouterr().out)["csv"] == str(table)
    assert table.read_bytes().startswith(b"\xef\xbb\xbfimage,rank,")  # for Excel
    header, *rows = read_table(table)
    assert header == HEADER
    assert rows == [
        [str(green), "1", "cat", "cat", "0.576117", ""],
        [str(green), "2", "fox", "fox", "0.211942", ""],
        [str(bad), "", "", "", "", "the file is empty"],
        ["none.png", "", "", "", "", "No such file or directory"],
    ]


def test_the_table_is_tried_before_the_work(plain, green, tmp_path, capsys):
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "file").write_text("")
    for name in ("folder.csv", "file/table.csv"):
        command = ["predict", "no model", "no image", "--csv", str(tmp_path / name)]
        assert main(command) == 1
        assert name.partition("/")[0] in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["predict", str(plain), "--csv", str(green), str(green)])
    assert "--csv: must end in .csv" in capsys.readouterr().err
    assert np.asarray(Image.open(green)).max() == 255


def test_a_plain_model_is_evaluated(plain, official_folder, capsys):
    """Its labels are the sorted classes of the data, or of those chosen."""
    command = ["evaluate", str(plain), "--data", str(official_folder), "--json"]
    for options in ([], ["--classes", "goldfish,n01641577,n01629819"]):
        assert main([*command, *options]) == 0
        result = json.loads(capsys.readouterr().out)
        assert (result["top1"], result["n"]) == (1.0, 6)
        assert list(result["per_class"]) == ["n01443537", "n01629819", "n01641577"]
    assert main([*command, "--classes", "2"]) == 1
    assert "3 unique names, one for each output" in capsys.readouterr().err
