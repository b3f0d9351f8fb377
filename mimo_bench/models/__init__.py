"""What a model is, in integers: presets, and shapes read from `transformers` configurations. No torch.

scenario -> layout -> trainer: the scenario names a model, layouts are checked against its shape, the trainer builds it.

    presets, transformers_config -> shape
"""

from mimo_bench.models.encoder import AudioShape, EncoderShape
from mimo_bench.models.hf.transformers_config import read_model_shape
from mimo_bench.models.presets import PRESETS
from mimo_bench.models.shape import Experts, LanguageShape, ModelShape, VisionShape

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
