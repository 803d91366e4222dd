"""`python -m keras_tinyalex.cli`."""

import sys

from keras_tinyalex.cli import main

if __name__ == "__main__":
    sys.exit(main())
