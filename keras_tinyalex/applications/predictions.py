"""Names for the scores of a classifier."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np

from keras_tinyalex.aliases import Tensor
from keras_tinyalex.arguments import check_integer


def decode_predictions(
    preds: Tensor, top: int = 5, class_names: Sequence[str] | None = None
) -> list[list[tuple[str, str, float]]]:
    """Names the most probable classes of each prediction.

    Args:
        preds: Array or tensor of shape `(batch, classes)`: probabilities or
            logits.
        top: Positive integer, how many classes to name for each row; all of
            them if there are fewer. Defaults to `5`.
        class_names: The classes in label order: Tiny ImageNet wnids or names
            of your own. Defaults to the 200 sorted wnids, for 200 columns.

    Returns:
        A list for each row with tuples `(wnid, name, score)`, the highest score
        first. Classes that are not Tiny ImageNet wnids are their own name.

    Raises:
        ValueError: If `preds` is not of rank 2, if `top` is not a positive
            integer, or if `class_names` does not name each column.

    Examples:
        >>> preds = np.array([[0.25, 0.75]])
        >>> decode_predictions(preds, class_names=["n01443537", "my_cat"])
        [[('my_cat', 'my_cat', 0.75), ('n01443537', 'goldfish', 0.25)]]
    """
    # Read when used: the network itself needs no label names.
    from keras_tinyalex.datasets.classes import TINY_IMAGENET_WORDS, readable_name

    scores = keras.ops.convert_to_numpy(preds)
    if scores.ndim != 2:
        raise ValueError(
            "`preds` must have shape (batch, classes). "
            f"Received: preds of shape {scores.shape}"
        )
    top = check_integer("top", top)
    columns = scores.shape[1]
    if class_names is None:
        if columns != len(TINY_IMAGENET_WORDS):
            raise ValueError(
                "`class_names` must name the classes in label order "
                f"unless there are {len(TINY_IMAGENET_WORDS)} of them. "
                f"Received: class_names=None for preds of shape {scores.shape}"
            )
        class_names = sorted(TINY_IMAGENET_WORDS)
    if isinstance(class_names, str) or len(class_names) != columns:
        single = isinstance(class_names, str)
        received = f"{class_names=}" if single else f"{len(class_names)} names"
        raise ValueError(
            "`class_names` must be a sequence with one name for each "
            f"of the {columns} columns of `preds`. Received: {received}"
        )
    best = np.argsort(-scores, axis=1, kind="stable")[:, :top]
    names = [(str(wnid), readable_name(str(wnid))) for wnid in class_names]
    return [
        [(*names[column], float(row[column])) for column in columns]
        for row, columns in zip(scores, best, strict=True)
    ]
