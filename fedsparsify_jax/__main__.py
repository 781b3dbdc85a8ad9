"""``python -m fedsparsify_jax`` is the command ``fedsparsify``."""

import sys

from fedsparsify_jax.cli import main

if __name__ == "__main__":
    sys.exit(main())
