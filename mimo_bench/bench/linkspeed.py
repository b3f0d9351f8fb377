"""This machine's bandwidth between ranks, by collective and size: what the bus bandwidths of a record compare with."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mimo_bench.bench.request import HANG_SECONDS
from mimo_bench.launch import DeviceKind, Job, Launcher
from mimo_bench.record import LinkSpeed

ENTRY = "mimo_bench.bench.ranks.linkspeed:main"
SIZES: dict[DeviceKind, tuple[int, ...]] = {
    "cpu": tuple(1 << power for power in range(10, 23, 4)),
    "cuda": tuple(1 << power for power in range(14, 31, 2)),
}
"""Bytes that each rank puts in: 1 KiB to 4 MiB over gloo, 16 KiB to 1 GiB over NCCL."""


def measure_links(*, num_ranks: int, device_kind: DeviceKind) -> list[LinkSpeed]:
    """Measure every collective among `num_ranks` ranks of this machine.

    Raises:
        LaunchError: the ranks did not come to an end.
    """
    with tempfile.TemporaryDirectory() as folder, Launcher(device_kind=device_kind) as launcher:
        place = Path(folder)
        launcher.run(
            Job(
                entry=ENTRY,
                arguments={"device_kind": device_kind, "sizes": SIZES[device_kind], "directory": folder},
                world_size=num_ranks,
                log_dir=place,
                hang_seconds=HANG_SECONDS,
            )
        )
        rows = json.loads((place / "linkspeed.json").read_text(encoding="utf-8"))
    return [
        LinkSpeed(
            collective=row["collective"],
            num_ranks=num_ranks,
            num_bytes=row["bytes"],
            seconds=row["seconds"],
            bus_bytes_per_second=row["bus_bytes_per_second"],
        )
        for row in rows
    ]


def describe_links(speeds: list[LinkSpeed]) -> Iterator[str]:
    """A table as lines of text."""
    yield f"{'collective':<16}{'bytes':>12}{'microseconds':>14}{'bus GB/s':>10}"
    for speed in speeds:
        rate = "-" if speed.bus_bytes_per_second is None else f"{speed.bus_bytes_per_second / 1e9:.3g}"
        yield f"{speed.collective:<16}{speed.num_bytes:>12,}{speed.seconds * 1e6:>14,.1f}{rate:>10}"
