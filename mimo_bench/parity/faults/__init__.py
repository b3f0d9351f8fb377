"""Known faults: callables `plant(context)` that break a trainer on every rank, to prove the gate.

Each file holds the faults of one kind of part; `catalogue` lists them. docs/contributing/fault.md says how to add one.
"""
