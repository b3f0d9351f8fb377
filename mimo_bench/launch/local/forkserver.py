"""Imported by the fork server and by nothing else: what it does before it forks the first time.

`multiprocessing` lets a fork server import modules and do nothing else, so the import is the act.
"""

from mimo_bench.launch.local import warm

warm.begin()
