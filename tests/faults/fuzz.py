"""Coverage-guided fuzzing of what reads files of others; needs atheris.

    pip install atheris
    python tests/faults/fuzz.py weights -max_total_time=150
    python tests/faults/fuzz.py annotations -max_total_time=150

Anything but the documented `ValueError` or `OSError` stops it, with the input
in a file `crash-*` in the working directory.
"""

import contextlib
import os
import sys
import tempfile
from pathlib import Path

import atheris

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

with atheris.instrument_imports(include=["keras_tinyalex"]):
    from keras_tinyalex import AlexNetMini
    from keras_tinyalex.applications.weights import load_weights_into
    from keras_tinyalex.datasets.layout import open_source

SUFFIXES = (".weights.h5", ".h5", ".keras", ".safetensors")


def fuzz_weights(folder):
    model = AlexNetMini(num_classes=3, width_multiplier=1 / 64)

    def one(data):
        if data:
            path = folder / f"input{SUFFIXES[data[0] % len(SUFFIXES)]}"
            path.write_bytes(data[1:])
            with contextlib.suppress(ValueError, OSError):
                load_weights_into(model, path)

    seeds = folder / "seeds"
    seeds.mkdir()
    for number, suffix in enumerate(SUFFIXES[:3]):
        path = folder / f"seed{suffix}"
        save = model.save_weights if suffix == ".weights.h5" else model.save
        save(path)
        (seeds / str(number)).write_bytes(bytes([number]) + path.read_bytes())
    (seeds / "3").write_bytes(b"\x03\x0f\0\0\0\0\0\0\0" + b'{"__metadata__":{}}')
    return one, seeds


def fuzz_annotations(folder):
    wnid = "n01443537"
    for name in (f"train/{wnid}/images/a.JPEG", "val/images/val_0.JPEG"):
        (folder / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "data" / name).write_bytes(b"x")

    def one(data):
        (folder / "data/val/val_annotations.txt").write_bytes(data)
        with contextlib.suppress(ValueError, OSError):
            open_source(folder / "data")

    seeds = folder / "seeds"
    seeds.mkdir()
    (seeds / "0").write_bytes(f"val_0.JPEG\t{wnid}\t0\t0\t63\t63\n".encode())
    return one, seeds


def main():
    target = {"weights": fuzz_weights, "annotations": fuzz_annotations}[sys.argv.pop(1)]
    with tempfile.TemporaryDirectory() as folder:
        one, seeds = target(Path(folder))
        atheris.Setup([*sys.argv, str(seeds)], one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
