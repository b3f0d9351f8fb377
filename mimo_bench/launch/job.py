"""Job and outcome: the two messages between a command and its starter."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class RankFiles:
    """The traces of one rank in the log folder."""

    log: Path
    failure: Path
    progress: Path
    """There only while the rank runs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One function, called in every rank of one launch."""

    entry: str
    """`package.module:function`, called as `function(arguments, rank=..., world_size=...)`."""
    arguments: Mapping[str, Any]
    """JSON."""
    world_size: int
    log_dir: Path
    """Holds `rank<k>.log`, everything rank k printed, and `rank<k>.failure.json` if it failed."""
    hang_seconds: float
    """No rank may go longer than this without a sign of progress, see `progress.beat`."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Set in every rank before the entry is imported; these variables are the launch's own."""

    def __post_init__(self) -> None:
        assert self.world_size >= 1, self.world_size
        assert self.hang_seconds > 0, self.hang_seconds

    def to_json(self) -> str:
        """Return the job on one line."""
        return json.dumps(asdict(self) | {"log_dir": str(self.log_dir.absolute())}, allow_nan=False)

    def files(self, rank: int) -> RankFiles:
        """Return the paths of one rank's traces."""
        return RankFiles(
            log=self.log_dir / f"rank{rank}.log",
            failure=self.log_dir / f"rank{rank}.failure.json",
            progress=self.log_dir / f"rank{rank}.progress",
        )

    @classmethod
    def from_json(cls, line: str | bytes) -> Job:
        """Return the job that `to_json` wrote."""
        content = json.loads(line)
        return cls(**content | {"log_dir": Path(content["log_dir"])})


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """End of a launch."""

    ended: Literal["finished", "crashed", "oom", "timeout"]
    reason: str
    """A sentence for people: which rank, what happened to it, where to read on."""
    rank: int | None
    """The rank that the reason is about; None where it is about all of them."""
