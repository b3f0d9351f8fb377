"""Torch's elastic agent, set up for one machine: everything on loopback, nothing waited for that cannot come.

The agent's own rendezvous for one node listens on every network interface and sleeps for up to 0.3 s so that many
nodes do not arrive at once; `Loopback` has one node, and does neither.
"""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Mapping
from datetime import timedelta

import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # public, but not in torch's __all__
from torch.distributed.elastic.multiprocessing import LogsDest, LogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
    rendezvous_handler_registry,
)
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from mimo_bench.launch.inventory import ranks_per_gpu
from mimo_bench.launch.job import Job
from mimo_bench.launch.local.rank import supervise
from mimo_bench.util import LaunchError

LOOPBACK = "127.0.0.1"
STORE_TIMEOUT = timedelta(seconds=60)
MONITOR_SECONDS = 0.02
"""How often the agent looks whether its ranks have ended: half of this is lost at the end of every launch."""


def run_ranks(job: Job) -> Mapping[int, int]:
    """Run the job's ranks to their end; return the exit codes, by rank, of those that the agent saw fail.

    Raises:
        LaunchError: there are fewer GPUs than ranks.
    """
    if torch.cuda.is_available():
        num_gpus, sharers = torch.cuda.device_count(), ranks_per_gpu()
        if job.world_size > num_gpus * sharers:
            raise LaunchError(f"{job.world_size} ranks, {sharers} on a GPU, and this machine has {num_gpus} GPUs")
    try:
        elastic_launch(_config(job), supervise)(job)
    except ChildFailedError as error:
        return {rank: failure.exitcode for rank, failure in error.failures.items()}
    except SignalException as error:
        # The agent turns signals to this process into exceptions; they end it all the same.
        raise SystemExit(1) from error
    return {}


def _config(job: Job) -> LaunchConfig:
    return LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=job.world_size,
        run_id=uuid.uuid4().hex,
        rdzv_backend=Loopback.NAME,
        local_addr=LOOPBACK,
        start_method="forkserver",
        monitor_interval=MONITOR_SECONDS,
        max_restarts=0,
        logs_specs=NoLogs(),
    )


class Loopback(RendezvousHandler):
    """A rendezvous of one node with itself, over a store that only this machine can reach, on a port of its own."""

    NAME = "mimo-bench-loopback"

    def __init__(self, parameters: RendezvousParameters) -> None:
        listener = socket.create_server((LOOPBACK, 0), backlog=1024)
        self._run_id = parameters.run_id
        self._port: int = listener.getsockname()[1]
        self._store: TCPStore | None = TCPStore(
            LOOPBACK,
            self._port,
            is_master=True,
            wait_for_workers=False,
            timeout=STORE_TIMEOUT,
            master_listen_fd=listener.detach(),
        )

    @property
    def use_agent_store(self) -> bool:
        """Ranks meet in this store; rank 0 need not open another."""
        return True

    def get_backend(self) -> str:
        """Return the registered name."""
        return self.NAME

    def next_rendezvous(self) -> RendezvousInfo:
        """Return the place of this node, the first of one."""
        assert self._store is not None, "a rendezvous that was shut down"
        return RendezvousInfo(self._store, 0, 1, RendezvousStoreInfo(LOOPBACK, self._port))

    def is_closed(self) -> bool:
        """Return True after `shutdown`."""
        return self._store is None

    def set_closed(self) -> None:
        """Do nothing: no other node can come."""

    def num_nodes_waiting(self) -> int:
        """Return 0: no other node can wait."""
        return 0

    def get_run_id(self) -> str:
        """Return the launch's own id."""
        return self._run_id

    def shutdown(self) -> bool:
        """Close the store and its port."""
        self._store = None
        return True


rendezvous_handler_registry.register(Loopback.NAME, Loopback)


class NoLogs(LogsSpecs):
    """Ranks redirect what they print themselves and tell their failures themselves: the agent writes no file."""

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        """Return no redirection, for any rank."""
        nothing = dict.fromkeys(envs, "")
        return LogsDest(stdouts=nothing, stderrs=nothing, error_files=dict.fromkeys(envs, os.devnull))

    @property
    def root_log_dir(self) -> str:
        """None."""
        return os.devnull
