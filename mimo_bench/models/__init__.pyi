from .base import EncoderShape, KnownEncoder
from .cost import mfu, model_flops
from .hf.config import config_of, read_model_shape
from .hf.convert import Converted, export_weights, import_weights
from .hf.directory import (
    MANIFEST,
    Manifest,
    StoredFile,
    check_new,
    check_shape,
    manifest_of,
    read_manifest,
    tensors_of,
    write_manifest,
)
from .hf.safetensors import CHUNK_BYTES, TensorSpec, TensorWriter, header_of
from .hf.saving import complete
from .kernels.linear import Replica, install_accumulation
from .kernels.rng import CHUNK, digest, uniform
from .kernels.rope import install_rope
from .kernels.swiglu import install_swiglu
from .llama.module import OUTPUT, UNPADDED_ROWS, WORD_EMBEDDING, language_spec
from .llama.shape import LanguageShape
from .llava.counterpart import missing_counterpart
from .llava.referee import to_transformers
from .mixtral.shape import Experts
from .modules.build import DTYPES, ENCODER, Build
from .modules.encoder import encoder_config, encoder_module
from .modules.layers_local import FIXED
from .parameters import known_encoder, stage_parameters, unknown_modules, vocab_per_rank
from .presets import PRESETS
from .provider import Added, extend, load_builder
from .shape import ModelShape
from .table import Parameter
from .vit.shape import VisionShape
from .whisper.shape import AudioShape

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
    "Added",
    "AudioShape",
    "Build",
    "Converted",
    "EncoderShape",
    "Experts",
    "KnownEncoder",
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
    "known_encoder",
    "language_spec",
    "load_builder",
    "manifest_of",
    "mfu",
    "missing_counterpart",
    "model_flops",
    "read_manifest",
    "read_model_shape",
    "stage_parameters",
    "tensors_of",
    "to_transformers",
    "uniform",
    "unknown_modules",
    "vocab_per_rank",
    "write_manifest",
]
