"""Meters: one quantity each. They watch the trainer, which does not know them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
