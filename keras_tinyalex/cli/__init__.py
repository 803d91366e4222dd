"""The command line: one `add_<command>` a command, which parses and calls."""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import warnings
from collections.abc import Callable, Sequence

from keras_tinyalex import __version__, machine
from keras_tinyalex.cli.data import add_prepare, add_verify
from keras_tinyalex.cli.exporting import add_export
from keras_tinyalex.cli.models import add_evaluate, add_weights
from keras_tinyalex.cli.parsing import (
    Result,
    describe,
    fail,
    show_warning,
)
from keras_tinyalex.cli.predicting import add_predict
from keras_tinyalex.cli.training import add_runs, add_train
from keras_tinyalex.cli.tuning import add_tune


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status.

    Args:
        arguments: Command line without the program's name. Defaults to
            `sys.argv[1:]`.

    Returns:
        0 if the work is done, 1 if it failed. Wrong arguments exit with 2.
    """
    options = make_parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], Result] = options.command
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A name that a console cannot show is escaped, as on standard error.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        if options.needs_keras:
            machine.load_keras()
        with warnings.catch_warnings():
            if not options.debug:
                warnings.showwarning = show_warning  # type: ignore[assignment]
                # Of packages that we use, for their developers.
                warnings.simplefilter("ignore", FutureWarning)
            result = command(options)
        if options.json:
            print(json.dumps(result))
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of the output, e.g. `head`, has closed it. What is left in the
        # buffer must not fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except KeyboardInterrupt:
        return fail("interrupted; the same command resumes where it stopped")
    except Exception as error:
        return fail(describe(error, options.debug))
    return 1 if result.get("failed") else 0


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="keras-tinyalex",
        description="AlexNetMini on Tiny ImageNet: prepare data, train, evaluate.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_prepare(commands)
    add_verify(commands)
    add_train(commands)
    add_runs(commands)
    add_evaluate(commands)
    add_predict(commands)
    add_export(commands)
    add_tune(commands)
    add_weights(commands)
    return parser
