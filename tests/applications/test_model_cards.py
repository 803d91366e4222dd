"""The model cards for a hub: read back by the hub's own parser."""

import json
import re

import pytest

import keras_tinyalex as tinyalex
from keras_tinyalex.applications.model_cards import huggingface_card
from keras_tinyalex.cli import main

NAMES = tinyalex.list_weights()


@pytest.mark.parametrize("name", NAMES)
def test_the_hub_reads_the_card(name):
    hub = pytest.importorskip("huggingface_hub")
    card = hub.ModelCard(huggingface_card(name))
    accuracy = tinyalex.model_card(name)["accuracy"]
    classes = len(tinyalex.model_card(name)["class_names"])
    assert card.data.license == "apache-2.0"
    assert card.data.library_name == "keras"
    assert card.data.pipeline_tag == "image-classification"
    assert card.data.metrics == ["accuracy"]
    assert card.data.model_name == name
    assert [
        (r.dataset_name, r.dataset_split, r.metric_type, r.metric_name, r.metric_value)
        for r in card.data.eval_results
    ] == [
        (f"Tiny ImageNet, {classes} classes", "validation", *metric)
        for metric in (
            ("accuracy", "Top-1 accuracy", accuracy["top1"]),
            ("accuracy", "Top-5 accuracy", accuracy["top5"]),
            ("loss", "Cross-entropy", accuracy["loss"]),
        )
    ]
    # Nothing is lost when the hub writes the header anew.
    again = hub.ModelCard(str(card))
    assert again.data.to_dict() == card.data.to_dict()


def test_the_text_states_the_measured_accuracy():
    text = huggingface_card("tiny_imagenet_20")
    assert "top-1 0.720, 95% interval 0.691 to 0.747; top-5 0.940" in text
    assert "| n01443537 | goldfish | 0.96 |" in text
    assert "5,045,012 parameters" in text
    assert len(re.findall(r"^\| n\d{8} \|", text, re.M)) == 20
    assert not re.search(r"[{}]", text)


@pytest.mark.parametrize("name", NAMES)
def test_the_text_states_the_measured_limits(name):
    card, text = tinyalex.model_card(name), huggingface_card(name)
    assert f", {card['accuracy']['confidence_wrong']:.2f} where it is wrong." in text
    if len(card["class_names"]) == 20:
        unknown = card["unknown"]
        assert unknown["classes"] == 180
        assert (unknown["n_known"], unknown["n_unknown"]) == (1000, 9000)
        confidence = f"{unknown['confidence_unknown']:.2f}"
        assert f"(9,000 images): mean confidence {confidence}." in text
    else:
        assert "unknown" not in card  # there is no other class in the data


def test_the_text_states_the_robustness():
    robustness = tinyalex.model_card("tiny_imagenet_20")["robustness"]
    assert robustness["n"] == 1000
    assert (
        f"mean accuracy {robustness['mean_corruption_accuracy']:.3f}, mean corruption "
        f"error {robustness['mce']:.3f}."
    ) in huggingface_card("tiny_imagenet_20")


def test_the_command_writes_a_new_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = ["weights", "card", NAMES[0], "--format", "huggingface", "--json"]
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out) == {"path": "README.md"}
    assert (tmp_path / "README.md").read_text("utf-8") == huggingface_card(NAMES[0])
    (tmp_path / "README.md").write_text("mine")
    assert main(command) == 1
    assert (
        "--output must be a new file. Received: --output README.md"
        in capsys.readouterr().err
    )
    assert (tmp_path / "README.md").read_text() == "mine"
    assert main([*command, "--output", "card.md"]) == 0
    assert main(["weights", "card", "alexnet"]) == 1
    assert "name='alexnet'" in capsys.readouterr().err
