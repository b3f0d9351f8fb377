"""Helpers that every room may use: errors, texts, files and tables of a scenario file."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
