"""Commands on data: `prepare` and `verify`."""

from __future__ import annotations

import argparse

from keras_tinyalex.cli.parsing import (
    CLASSES,
    SOURCE,
    Commands,
    Result,
    add_command,
    classes_spec,
    report,
)


def add_prepare(commands: Commands) -> None:
    description = "restructure Tiny ImageNet"
    parser = add_command(commands, "prepare", _prepare, description, needs_keras=False)
    add = parser.add_argument
    add(
        "--source",
        default="download",
        help="official folder or zip, or 'download' (default: download)",
    )
    add("--output", required=True, help="new folder")
    add("--classes", type=classes_spec, help=CLASSES)
    modes = ("copy", "hardlink", "symlink", "move")
    add("--mode", choices=modes, default="copy", help="default: copy")
    add("--dry-run", action="store_true", help="check everything, write nothing")
    add("--overwrite", action="store_true", help="replace an earlier result")


def _prepare(options: argparse.Namespace) -> Result:
    from keras_tinyalex.datasets import tiny_imagenet

    source = options.source
    if source == "download":
        source = tiny_imagenet.download()
    done = tiny_imagenet.restructure(
        source,
        options.output,
        classes=options.classes,
        mode=options.mode,
        overwrite=options.overwrite,
        dry_run=options.dry_run,
    )
    result = done.as_dict()
    would = "would be " if options.dry_run else ""
    report(
        f"{done.files:,} images of {len(done.classes)} classes {would}in "
        f"{done.destination}; {done.written:,} written in {done.seconds:.1f} s"
    )
    return result


def add_verify(commands: Commands) -> None:
    description = "decode every image and list the bad ones"
    parser = add_command(commands, "verify", _verify, description, needs_keras=False)
    add = parser.add_argument
    add("data", metavar="DATA", help=SOURCE)


def _verify(options: argparse.Namespace) -> Result:
    from keras_tinyalex.datasets.reading import MISNAMED, verify
    from keras_tinyalex.datasets.source import count_names

    found = verify(options.data, progress=True)
    for file, problem in found.bad:
        report(f"{file}: {problem}")
    for problem in found.problems:
        report(f"problem: {problem}")
    if found.misnamed:
        names = [f"{file} ({kind})" for file, kind in found.misnamed]
        report(count_names(MISNAMED, names))
    count = sum(found.images.values())
    splits = ", ".join(f"{split} {n:,}" for split, n in found.images.items())
    report(
        f"{len(found.bad)} of {count:,} images are bad ({splits}; "
        f"{len(found.class_names)} classes)"
    )
    return {
        "images": count,
        "splits": found.images,
        "classes": len(found.class_names),
        "bad": [{"file": file, "problem": problem} for file, problem in found.bad],
        "problems": found.problems,
        "misnamed": [{"file": f, "format": kind} for f, kind in found.misnamed],
        "left_out": found.left_out,
        "failed": bool(found.bad or found.problems),
    }
