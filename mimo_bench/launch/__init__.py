"""Start ranks, watch them, bring back how they ended and why.

    command            matrix -> launcher.py            no torch; owns one starter
      starter          starter.py, elastic.py           torch's elastic agent and the watchdog
        fork server    forkserver.py, warm.py           torch and megatron-core imported once; never touches CUDA
          supervisor   rank.py                          one for each rank: says how its rank ended
            rank       rank.py                          calls the job's entry

Each process dies with the one above it, also when that one is killed with `kill -9`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
