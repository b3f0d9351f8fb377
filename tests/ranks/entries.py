"""Entries for the tests of launches. Each writes its process id to `folder`, if it gets one."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from mimo_bench.launch.progress import beat


def add_up(arguments: Mapping[str, Any], *, rank: int, world_size: int) -> None:
    """Sum the ranks' numbers over gloo."""
    import torch
    import torch.distributed as dist

    _sign_in(arguments, rank)
    _join(rank, world_size)
    total = torch.tensor([float(rank + 1)])
    dist.all_reduce(total)
    (Path(arguments["folder"]) / f"sum{rank}.json").write_text(json.dumps(total.item()))
    dist.barrier()


def list_listeners(arguments: Mapping[str, Any], *, rank: int, world_size: int) -> None:
    """Write down on which addresses the processes of this launch listen, once every rank has joined."""
    import torch.distributed as dist

    _join(rank, world_size)
    dist.barrier()
    listeners = {inode: address for table in ("tcp", "tcp6") for inode, address in _listeners(table)}
    mine: list[str] = []
    process = os.getpid()
    while process > 1 and "pytest" not in Path(f"/proc/{process}/cmdline").read_text():
        links = [str(link.readlink()) for link in Path(f"/proc/{process}/fd").iterdir() if link.is_symlink()]
        mine += [listeners[link] for link in links if link in listeners]
        process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    (Path(arguments["folder"]) / f"listeners{rank}.json").write_text(json.dumps(mine))
    dist.barrier()


def _listeners(table: str) -> Iterator[tuple[str, str]]:
    """Every listening socket, as links of file descriptors name it, with its address in the kernel's hexadecimal."""
    for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A":
            yield f"socket:[{fields[9]}]", fields[1].partition(":")[0]


def count_frozen(arguments: Mapping[str, Any], *, rank: int, world_size: int) -> None:
    """Write down how many objects no collection looks at."""
    _sign_in(arguments, rank)
    (Path(arguments["folder"]) / f"frozen{rank}.json").write_text(json.dumps(gc.get_freeze_count()))


def do_nothing(arguments: Mapping[str, Any], *, rank: int, world_size: int) -> None:
    """Come and go."""
    _sign_in(arguments, rank)


def show_environment(arguments: Mapping[str, Any], *, rank: int, world_size: int) -> None:
    """Write down what the environment says, to Python and to C."""
    _sign_in(arguments, rank)
    seen = {name: os.environ.get(name) for name in arguments["names"]}
    (Path(arguments["folder"]) / f"environment{rank}.json").write_text(json.dumps(seen))


def print_from_everywhere(arguments: Mapping[str, Any], *, rank: int, world_size: int) -> None:
    """Print from Python, from C and from a child."""
    import ctypes

    print(f"python says {rank}")
    print(f"stderr says {rank}", file=sys.stderr)
    ctypes.CDLL(None).puts(f"c says {rank}".encode())
    subprocess.run(["echo", f"child says {rank}"], check=True)


def fail_in_one_rank(arguments: Mapping[str, Any], *, rank: int, world_size: int) -> None:
    """One rank fails in the given way while the others wait for it in a collective."""
    import torch
    import torch.distributed as dist

    _sign_in(arguments, rank)
    _join(rank, world_size)
    dist.barrier()
    if rank == arguments["culprit"]:
        _fail(arguments["how"])
    try:
        dist.all_reduce(torch.ones(1))
    finally:
        print("the collective is over")


def _fail(how: str) -> None:
    match how:
        case "raise":
            raise ValueError("the loss is not a number")
        case "SIGKILL" | "SIGSEGV" | "SIGTERM" | "SIGABRT":
            os.kill(os.getpid(), getattr(signal, how))
        case "memory":
            raise MemoryError
        case "allocate":
            import torch

            torch.empty(1 << 60, dtype=torch.uint8)
        case "exit":
            os._exit(7)
        case "hang":
            sleep_for_ever()


def sleep_for_ever() -> None:
    """Hang under a name that a traceback shows."""
    while True:
        time.sleep(3600)


def signal_like_a_scheduler(arguments: Mapping[str, Any], *, rank: int, world_size: int) -> None:
    """Send SIGUSR1 and SIGUSR2 to this rank and every process between it and the command, as `scancel --full` does."""
    pid, signalled = os.getpid(), []
    while pid != arguments["above"]:
        signalled.append(pid)
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            os.kill(pid, number)
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    time.sleep(0.2)
    (Path(arguments["folder"]) / f"signalled{rank}").write_text(" ".join(map(str, signalled)))


def train_slowly(arguments: Mapping[str, Any], *, rank: int, world_size: int) -> None:
    """Take a while, and say so, or not."""
    for _ in range(arguments["steps"]):
        time.sleep(arguments["step_seconds"])
        if arguments["beats"]:
            beat()


def finish_one_after_another(arguments: Mapping[str, Any], *, rank: int, world_size: int) -> None:
    """Rank 0 ends at once, the last rank after `seconds`, beating."""
    until = time.monotonic() + arguments["seconds"] * rank / (world_size - 1)
    while time.monotonic() < until:
        beat()
        time.sleep(0.05)


def leave_children(arguments: Mapping[str, Any], *, rank: int, world_size: int) -> None:
    """End and leave two children running, one in a session of its own."""
    _sign_in(arguments, rank)
    for index, new_session in enumerate((False, True)):
        child = subprocess.Popen(["sleep", "600"], start_new_session=new_session)
        (Path(arguments["folder"]) / f"child{rank}-{index}.pid").write_text(str(child.pid))


def wait_for_ever(arguments: Mapping[str, Any], *, rank: int, world_size: int) -> None:
    """Sign in and stay, beating; one child stays along."""
    child = subprocess.Popen(["sleep", "600"])
    (Path(arguments["folder"]) / f"child{rank}.pid").write_text(str(child.pid))
    _sign_in(arguments, rank)
    while True:
        beat()
        time.sleep(0.1)


def _sign_in(arguments: Mapping[str, Any], rank: int) -> None:
    if folder := arguments.get("folder"):
        (Path(folder) / f"rank{rank}.pid").write_text(str(os.getpid()))


def _join(rank: int, world_size: int) -> None:
    import torch.distributed as dist

    dist.init_process_group("gloo", rank=rank, world_size=world_size, timeout=timedelta(seconds=60))
