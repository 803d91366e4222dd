"""The command `keras-tinyalex`, and `python -m keras_tinyalex`."""

import sys


def main() -> int:
    """Runs the command line; says which package is missing, where one is."""
    try:
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
