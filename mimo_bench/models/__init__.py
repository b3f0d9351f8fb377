"""What a model is, in integers: presets, and shapes read from `transformers` configurations. No torch.

scenario -> layout -> trainer: the scenario names a model, layouts are checked against its shape, the trainer builds it.

    presets, transformers_config -> shape
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
