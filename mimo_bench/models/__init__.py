"""Models: one folder a family, presets, weights from and to `transformers`; README.md says how to add a family.

A scenario names a model, layouts are checked against its shape, and the trainer builds it. Shapes, tables of parameters
and `hf/` import no torch; `modules/`, `kernels/` and each family's `module.py` do.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
