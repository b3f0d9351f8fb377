"""Parity: does a layout train the same model as the baseline? Verdicts with reasons."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
