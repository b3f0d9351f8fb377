"""Start ranks, watch them, bring back how they ended and why.

    command            matrix -> launcher.py            no torch; owns one starter
      starter          starter.py, elastic.py           torch's elastic agent and the watchdog
        fork server    forkserver.py, warm.py           torch and megatron-core imported once; never touches CUDA
          supervisor   rank.py                          one for each rank: says how its rank ended
            rank       rank.py                          calls the job's entry

Each process dies with the one above it, also when that one is killed with `kill -9`.
"""

from mimo_bench.launch.job import Job, Outcome
from mimo_bench.launch.launcher import DeviceKind, Launcher

__all__ = ["DeviceKind", "Job", "Launcher", "Outcome"]
