"""Every parameter that a rank holds of a module, in the order in which the module lists them. Arithmetic only.

The order matters: buffers are laid out in it, and the distributed optimizer pads between parameters.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from mimo_bench.layout import LANGUAGE, Grid
from mimo_bench.models import AudioShape, EncoderShape, LanguageShape, ModelShape, VisionShape


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameter:
    """One rank's slice of a parameter."""

    name: str
    num_elements: int
    num_dims: int
    is_shared: bool = False
    """Whether another pipeline stage holds the same weight; such a parameter gets a bucket of its own."""
    is_fixed: bool = False
    """Whether it is a table that nobody trains."""
    has_expert_replicas: bool = False
    """Whether it is an expert's that other ranks hold than the rest; such parameters get a buffer of their own."""

    @property
    def decays(self) -> bool:
        """Whether weight decay applies; the optimizer keeps those that decay apart from the others."""
        return self.num_dims > 1 and not self.name.endswith("bias")


def unknown_encoders(shape: ModelShape) -> tuple[str, ...]:
    """Encoders whose parameters and layers nobody here knows: those of other packages."""
    return tuple(name for name, encoder in shape.encoders.items() if not isinstance(encoder, VisionShape | AudioShape))


def stage_parameters(shape: ModelShape, module: str, grid: Grid, *, stage: int) -> tuple[Parameter, ...]:
    """The parameters of one pipeline stage of a module on one of its tensor-parallel ranks.

    Args:
        shape: the model.
        module: its name in the layout.
        grid: its degrees.
        stage: from 0.
    """
    # Wherever the grid begins.
    grid = replace(grid, rank_offset=0) if grid.rank_offset else grid
    if module == LANGUAGE:
        return _language_stage(shape.language, grid, stage)
    encoder = shape.encoders[module]
    assert isinstance(encoder, VisionShape | AudioShape), f"no parameters are known of {encoder}"
    return _encoder_stage(encoder, shape.language.hidden_size, grid, stage)


@lru_cache(maxsize=1 << 12)
def _language_stage(shape: LanguageShape, grid: Grid, stage: int) -> tuple[Parameter, ...]:
    return tuple(_language(shape, grid, stage))


@lru_cache(maxsize=1 << 12)
def _encoder_stage(shape: VisionShape | AudioShape, width: int, grid: Grid, stage: int) -> tuple[Parameter, ...]:
    inner = _vision(shape, grid, stage) if isinstance(shape, VisionShape) else _audio(shape, grid, stage)
    projector = _projector(shape, width, grid.tp) if stage == grid.pp - 1 else ()
    return (*(replace(one, name=f"encoder.{one.name}") for one in inner), *projector)


def _matrix(name: str, rows: int, columns: int, is_shared: bool = False) -> Parameter:
    return Parameter(name=name, num_elements=rows * columns, num_dims=2, is_shared=is_shared)


def _vector(name: str, size: int) -> Parameter:
    return Parameter(name=name, num_elements=size, num_dims=1)


def words_per_rank(shape: LanguageShape, tp: int) -> int:
    """Rows of the vocabulary on one tensor-parallel rank, padding included."""
    return -(-shape.vocab_size // tp)


def _language(shape: LanguageShape, grid: Grid, stage: int) -> Iterator[Parameter]:
    h, tp, is_last = shape.hidden_size, grid.tp, stage == grid.pp - 1
    words = words_per_rank(shape, tp)
    is_tied_over_stages = shape.tied_embeddings and grid.pp > 1
    if stage == 0:
        yield _matrix("embedding.word_embeddings.weight", words, h, is_shared=is_tied_over_stages)
    heads_width = shape.num_attention_heads * shape.head_size // tp
    qkv_width = heads_width + 2 * shape.num_query_groups * shape.head_size // tp
    ffn = shape.ffn_hidden_size // tp
    for layer in range(shape.num_layers // grid.pp):
        at = f"decoder.layers.{layer}"
        yield _vector(f"{at}.input_layernorm.weight", h)
        yield _matrix(f"{at}.self_attention.linear_proj.weight", h, heads_width)
        yield _matrix(f"{at}.self_attention.linear_qkv.weight", qkv_width, h)
        if shape.qkv_bias:
            yield _vector(f"{at}.self_attention.linear_qkv.bias", qkv_width)
        yield _vector(f"{at}.pre_mlp_layernorm.weight", h)
        if shape.experts is None:
            yield _matrix(f"{at}.mlp.linear_fc1.weight", 2 * ffn, h)
            yield _matrix(f"{at}.mlp.linear_fc2.weight", h, ffn)
        else:
            yield from _experts(f"{at}.mlp", shape, shape.experts.num_experts, grid)
    if is_last:
        yield _vector("decoder.final_layernorm.weight", h)
        if not shape.tied_embeddings or grid.pp > 1:
            yield _matrix("output_layer.weight", words, h, is_shared=is_tied_over_stages)


def _experts(at: str, shape: LanguageShape, num_experts: int, grid: Grid) -> Iterator[Parameter]:
    """A layer's router, which every rank holds, and the experts of one rank; each is whole."""
    h, ffn, is_apart = shape.hidden_size, shape.ffn_hidden_size, grid.tp * grid.ep > 1
    yield _matrix(f"{at}.router.weight", num_experts, h)
    for expert in range(num_experts // grid.ep):
        name = f"{at}.experts.local_experts.{expert}"
        yield replace(_matrix(f"{name}.linear_fc1.weight", 2 * ffn, h), has_expert_replicas=is_apart)
        yield replace(_matrix(f"{name}.linear_fc2.weight", h, ffn), has_expert_replicas=is_apart)


def _vision(shape: VisionShape, grid: Grid, stage: int) -> Iterator[Parameter]:
    h = shape.hidden_size
    if stage == 0:
        if shape.has_class_token:
            yield Parameter(name="class_token", num_elements=h, num_dims=3)
            yield _vector("ln_pre.weight", h)
            yield _vector("ln_pre.bias", h)
        yield Parameter(name="conv1.weight", num_elements=h * 3 * shape.patch_size**2, num_dims=4)
        if not shape.has_class_token:
            yield _vector("conv1.bias", h)
        yield _matrix("position_embeddings.weight", shape.num_positions, h)
    for layer in range(shape.num_layers // grid.pp):
        yield from _encoder_layer(f"decoder.layers.{layer}", shape, grid.tp, biased=3 * h)


def _audio(shape: AudioShape, grid: Grid, stage: int) -> Iterator[Parameter]:
    h = shape.hidden_size
    if stage == 0:
        yield Parameter(name="embed_positions", num_elements=shape.num_positions * h, num_dims=2, is_fixed=True)
        yield Parameter(name="conv1.weight", num_elements=h * shape.num_mels * 3, num_dims=3)
        yield _vector("conv1.bias", h)
        yield Parameter(name="conv2.weight", num_elements=h * h * 3, num_dims=3)
        yield _vector("conv2.bias", h)
    for layer in range(shape.num_layers // grid.pp):
        # Keys have no bias.
        yield from _encoder_layer(f"decoder.layers.{layer}", shape, grid.tp, biased=2 * h)
    if stage == grid.pp - 1:
        yield _vector("decoder.final_layernorm.weight", h)
        yield _vector("decoder.final_layernorm.bias", h)


def _encoder_layer(at: str, shape: VisionShape | AudioShape, tp: int, *, biased: int) -> Iterator[Parameter]:
    h, ffn = shape.hidden_size, shape.ffn_hidden_size // tp
    yield _vector(f"{at}.input_layernorm.weight", h)
    yield _vector(f"{at}.input_layernorm.bias", h)
    yield _matrix(f"{at}.self_attention.linear_proj.weight", h, h // tp)
    yield _vector(f"{at}.self_attention.linear_proj.bias", h)
    yield _matrix(f"{at}.self_attention.linear_qkv.weight", 3 * h // tp, h)
    yield _vector(f"{at}.self_attention.linear_qkv.bias", biased // tp)
    yield _vector(f"{at}.pre_mlp_layernorm.weight", h)
    yield _vector(f"{at}.pre_mlp_layernorm.bias", h)
    yield _matrix(f"{at}.mlp.linear_fc1.weight", ffn, h)
    yield _vector(f"{at}.mlp.linear_fc1.bias", ffn)
    yield _matrix(f"{at}.mlp.linear_fc2.weight", h, ffn)
    yield _vector(f"{at}.mlp.linear_fc2.bias", h)


def _projector(shape: EncoderShape, width: int, tp: int) -> Iterator[Parameter]:
    """Two layers, as wide inside as the language model."""
    yield _matrix("projector.linear_fc1.weight", width // tp, shape.output_size)
    if shape.projector_bias:
        yield _vector("projector.linear_fc1.bias", width // tp)
    yield _matrix("projector.linear_fc2.weight", width, width // tp)
    if shape.projector_bias:
        yield _vector("projector.linear_fc2.bias", width)
