from .cost import mfu, model_flops
from .encoder import AudioShape, EncoderShape
from .hf.config_file import config_of
from .hf.convert import Converted, export_weights, import_weights
from .hf.directory import (
    MANIFEST,
    Manifest,
    StoredFile,
    check_new,
    check_shape,
    new_directory,
    read_manifest,
    write_manifest,
)
from .hf.safetensors import CHUNK_BYTES, TensorSpec, TensorWriter, header_of
from .hf.saving import complete
from .hf.transformers_config import read_model_shape
from .kernels.linear import Replica, install_accumulation
from .kernels.rng import CHUNK, digest, uniform
from .kernels.rope import install_rope
from .kernels.swiglu import install_swiglu
from .llama.module import OUTPUT, UNPADDED_ROWS, WORD_EMBEDDING, language_spec
from .modules.build import Build
from .modules.config import DTYPES, ENCODER
from .modules.encoder import encoder_config, encoder_module
from .modules.layers_local import FIXED
from .parameters import Parameter, stage_parameters, unknown_encoders, words_per_rank
from .presets import PRESETS
from .provider import extend
from .shape import Experts, LanguageShape, ModelShape, VisionShape

__all__ = [
    "CHUNK",
    "CHUNK_BYTES",
    "DTYPES",
    "ENCODER",
    "FIXED",
    "MANIFEST",
    "OUTPUT",
    "PRESETS",
    "UNPADDED_ROWS",
    "WORD_EMBEDDING",
    "AudioShape",
    "Build",
    "Converted",
    "EncoderShape",
    "Experts",
    "LanguageShape",
    "Manifest",
    "ModelShape",
    "Parameter",
    "Replica",
    "StoredFile",
    "TensorSpec",
    "TensorWriter",
    "VisionShape",
    "check_new",
    "check_shape",
    "complete",
    "config_of",
    "digest",
    "encoder_config",
    "encoder_module",
    "export_weights",
    "extend",
    "header_of",
    "import_weights",
    "install_accumulation",
    "install_rope",
    "install_swiglu",
    "language_spec",
    "mfu",
    "model_flops",
    "new_directory",
    "read_manifest",
    "read_model_shape",
    "stage_parameters",
    "uniform",
    "unknown_encoders",
    "words_per_rank",
    "write_manifest",
]
