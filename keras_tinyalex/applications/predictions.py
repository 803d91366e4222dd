"""Names for the scores of a classifier."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from keras_tinyalex.aliases import PathLike, Tensor
from keras_tinyalex.applications.shipped import known_class_names, list_weights
from keras_tinyalex.arguments import check_integer

# Image files that are read and classified at once.
BATCH_SIZE = 100


def decode_predictions(
    preds: Tensor, top: int = 5, class_names: Sequence[str] | None = None
) -> list[list[tuple[str, str, float]]]:
    """Names the most probable classes of each prediction.

    Args:
        preds: Array or tensor of shape `(batch, classes)`: probabilities or
            logits.
        top: Positive integer, how many classes to name for each row; all of
            them if there are fewer. Defaults to `5`.
        class_names: The classes in label order: Tiny ImageNet wnids, names of
            your own, or a name from `list_weights()` for its classes. Defaults
            to the 200 sorted wnids, for 200 columns.

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
    class_names = known_class_names(class_names)
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
            "`class_names` must be a sequence with one name for each of the "
            f"{columns} columns of `preds`, or one of the shipped {list_weights()}. "
            f"Received: {received}"
        )
    best = np.argsort(-scores, axis=1, kind="stable")[:, :top]
    names = [(str(wnid), readable_name(str(wnid))) for wnid in class_names]
    return [
        [(*names[column], float(row[column])) for column in columns]
        for row, columns in zip(scores, best, strict=True)
    ]


def classify_files(
    model: keras.Model,
    paths: Sequence[PathLike],
    top: int = 5,
    class_names: Sequence[str] | None = None,
) -> Iterator[dict[str, Any]]:
    """Classifies image files of any size, and the files of folders.

    Args:
        model: A classifier of images; they are resized to what it takes.
        paths: Image files, and folders, whose image files are found at any depth.
        top: See `decode_predictions`.
        class_names: See `decode_predictions`.

    Yields:
        For each file a dictionary of `image` (its path) and `predictions`: the
        most probable classes as dictionaries of `class_name`, `name` and `score`.
        For what cannot be read, `image` and `error`, the reason in one line.

    Raises:
        ValueError: If the model takes no images, or as `decode_predictions`.

    Examples:
        >>> from keras_tinyalex import AlexNetMini
        >>> model = AlexNetMini(num_classes=2)
        >>> for result in classify_files(model, ["no.jpg"], class_names=["a", "b"]):
        ...     print(result)
        {'image': 'no.jpg', 'error': 'no.jpg: No such file or directory'}
    """
    from keras_tinyalex.datasets.reading import find_image_files, read_image_files
    from keras_tinyalex.labelled_data import image_shape

    shape = image_shape(model)
    files = find_image_files(paths)
    for start in range(0, len(files), BATCH_SIZE):
        batch = files[start : start + BATCH_SIZE]
        read = read_image_files(batch, shape.size, shape.channels)
        images = [pixels for pixels in read if not isinstance(pixels, Exception)]
        rows: list[list[tuple[str, str, float]]] = []
        if images:
            scores = model.predict_on_batch(shape.arrange(np.stack(images)))
            rows = decode_predictions(scores, top, class_names)
        for path, pixels in zip(batch, read, strict=True):
            if isinstance(pixels, Exception):
                yield {"image": path, "error": str(pixels)}
                continue
            yield {
                "image": path,
                "predictions": [
                    {"class_name": class_name, "name": name, "score": score}
                    for class_name, name, score in rows.pop(0)
                ],
            }
