"""A command that owns a launcher, for tests that kill it: `owner.py FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

from mimo_bench.launch import Job, Launcher


def main(folder: str) -> None:
    """Start two ranks that stay until something ends them."""
    job = Job(
        entry="tests.ranks.entries:wait_for_ever",
        arguments={"folder": folder},
        world_size=2,
        log_dir=Path(folder) / "logs",
        hang_seconds=60,
    )
    with Launcher(device_kind="cpu", preload=("torch", "torch.distributed")) as launcher:
        try:
            launcher.launch(job)
        except KeyboardInterrupt:
            (Path(folder) / "interrupted").touch()
            raise


if __name__ == "__main__":
    main(sys.argv[1])
