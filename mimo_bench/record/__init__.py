"""The record of a run, which people and programs read: `run.json` and the series next to it."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
