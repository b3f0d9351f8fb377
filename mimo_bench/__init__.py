"""mimo_bench: does every layout of a multimodal model train the same model, and which one is fastest?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mimo_bench.report import Run

__all__ = ["__version__", "load_run"]

__version__ = "0.1.0"


def load_run(path: str | Path) -> Run:
    """The run that `mimo-bench run` left in the directory at `path`, as tidy pandas tables.

    Raises:
        RecordError: there is no record, or it cannot be read.
    """
    # Only now: `import mimo_bench` costs no pandas.
    from mimo_bench.report import load_run as load

    return load(path)
