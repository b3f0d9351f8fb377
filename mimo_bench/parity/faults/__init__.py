"""Known faults, each planted at run time in one place, so that the gate can prove that it catches them.

A fault is a callable `plant(context)`, called in every rank of the layout under test after the trainer is built and
before its first step. Each file holds the faults of one kind of part; `catalogue` lists them.

The names below bring torch and megatron-core along, so they are imported on first use; commands read the catalogue.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
