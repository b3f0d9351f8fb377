"""`python -m mimo_bench` is `mimo-bench`, for an environment in which the project is not installed."""

import sys

from mimo_bench.cli import main

if __name__ == "__main__":
    sys.exit(main())
