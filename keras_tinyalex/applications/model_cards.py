"""Model cards of the shipped weights in the form of the Hugging Face hub."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from keras_tinyalex.applications.shipped import model_card

# Scalars are JSON, which is YAML, too.
_CARD = """\
---
license: {license}
library_name: keras
pipeline_tag: image-classification
tags:
- alexnet
- keras-tinyalex
- tiny-imagenet
metrics:
- accuracy
model-index:
- name: {name}
  results:
  - task:
      type: image-classification
      name: Image classification
    dataset:
      type: tiny-imagenet
      name: {dataset}
      split: validation
      args:
        num_classes: {num_classes}
        num_images: {n}
    metrics:
    - type: accuracy
      name: Top-1 accuracy
      value: {top1}
    - type: accuracy
      name: Top-5 accuracy
      value: {top5}
    - type: loss
      name: Cross-entropy
      value: {loss}
---

# {title}

{description}

`{file}` is a complete Keras model with {parameters:,} parameters, stored as
{storage}. It takes RGB images of 64x64 pixels, values 0 to 255, and returns a
probability for each of {num_classes} classes.

## Use

```bash
pip install keras-tinyalex
keras-tinyalex predict {title} picture.jpg
```

The package contains the weights. In Python, or with this file:

```python
import keras_tinyalex as tinyalex

model = tinyalex.AlexNetMini(weights={name})  # or the path of {file}
```

## Accuracy

On {n} images ({split}):
top-1 {top1:.3f}, 95% interval {low:.3f} to {high:.3f}; top-5 {top5:.3f}; expected
calibration error {ece:.3f}.

| class | name | top-1 |
| --- | --- | --- |
{rows}

## Limits

{limits}

## Training

```bash
{command}
```

{data_note}

SHA-256 of `{file}`: `{sha256}`
"""


def huggingface_card(name: str) -> str:
    """Returns the model card of shipped weights as a README.md of the hub.

    Args:
        name: A name from `list_weights()`.

    Returns:
        Markdown with a YAML header: license, library, task, and the measured
        accuracy with its data set.

    Raises:
        ValueError: If no weights of this name are shipped.

    Examples:
        >>> from keras_tinyalex.applications import list_weights
        >>> huggingface_card(list_weights()[0]).splitlines()[1]
        'license: "apache-2.0"'
    """
    card = model_card(name)
    accuracy = card["accuracy"]
    low, high = accuracy["interval"]
    classes = card["class_names"]
    rows = "\n".join(
        f"| {wnid} | {card['words'][wnid]} | {accuracy['per_class'][wnid]:.2f} |"
        for wnid in classes
    )
    limits = [
        "The network divides 100% among these classes, whatever an image shows.",
        *_limits(card),
    ]
    quoted = {
        "license": card["licence"].lower(),
        "name": name,
        "dataset": f"Tiny ImageNet, {len(classes)} classes",
    }
    return _CARD.format_map(
        {
            **card,
            **accuracy,
            **{field: json.dumps(value) for field, value in quoted.items()},
            "title": name,
            "num_classes": len(classes),
            "low": low,
            "high": high,
            "rows": rows,
            "limits": "\n".join(f"- {text}" for text in limits),
        }
    )


def _limits(card: dict[str, Any]) -> Iterator[str]:
    """Yields a sentence for each limit that was measured."""
    accuracy = card["accuracy"]
    if "confidence_wrong" in accuracy:
        yield (
            f"Mean confidence {accuracy['confidence_correct']:.2f} where it is right, "
            f"{accuracy['confidence_wrong']:.2f} where it is wrong."
        )
    if unknown := card.get("unknown"):
        yield (
            f"Images of {unknown['classes']} other classes ({unknown['n_unknown']:,} "
            f"images): mean confidence {unknown['confidence_unknown']:.2f}. The "
            "highest probability tells them from its own classes with an AUROC of "
            f"{unknown['auroc']['max_softmax']:.3f}, the energy of the logits with "
            f"{unknown['auroc']['energy']:.3f}."
        )
    if robustness := card.get("robustness"):
        yield (
            "Corrupted images, made as those of Tiny-ImageNet-C: mean accuracy "
            f"{robustness['mean_corruption_accuracy']:.3f}, mean corruption error "
            f"{robustness['mce']:.3f}."
        )
