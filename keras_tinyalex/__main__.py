"""The command `keras-tinyalex`, and `python -m keras_tinyalex`."""

import importlib.util
import sys


def main() -> int:
    """Runs the command line; says which package is missing, where one is."""
    try:
        if not importlib.util.find_spec("numpy"):  # imported only by some commands
            raise ModuleNotFoundError(name="numpy")
        from keras_tinyalex import cli
    except ModuleNotFoundError as error:  # after `pip install --no-deps`
        print(
            f"keras-tinyalex needs the package {error.name}. Install it with what it "
            "needs: pip install keras-tinyalex",
            file=sys.stderr,
        )
        return 1
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
