"""Layouts: which module is on which ranks, with which degrees and settings. Arithmetic only, no torch."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
