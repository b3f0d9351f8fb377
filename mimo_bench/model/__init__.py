"""What a model is, in integers: presets, and shapes read from `transformers` configurations. No torch.

scenario -> layout -> trainer: the scenario names a model, layouts are checked against its shape, the trainer builds it.

    presets, transformers_config -> shape
"""

from mimo_bench.model.encoder import AudioShape, EncoderShape
from mimo_bench.model.presets import PRESETS
from mimo_bench.model.shape import Experts, LanguageShape, ModelShape, VisionShape
from mimo_bench.model.transformers_config import read_model_shape

__all__ = [
    "PRESETS",
    "AudioShape",
    "EncoderShape",
    "Experts",
    "LanguageShape",
    "ModelShape",
    "VisionShape",
    "read_model_shape",
]
