"""Models by name: real ones in their published sizes, and tiny ones for CPU ranks."""

from __future__ import annotations

from dataclasses import replace

from mimo_bench.models.llama.shape import LanguageShape
from mimo_bench.models.mixtral.shape import Experts
from mimo_bench.models.shape import ModelShape
from mimo_bench.models.vit.shape import VisionShape
from mimo_bench.models.whisper.shape import AudioShape

# llava-hf/llava-1.5-7b-hf: CLIP-L/14 at 336 pixels read one layer before its last, Vicuna-7B v1.5.
_LLAVA_7B = ModelShape(
    vision=VisionShape(
        image_size=336,
        patch_size=14,
        hidden_size=1024,
        ffn_hidden_size=4096,
        num_layers=23,
        num_attention_heads=16,
    ),
    language=LanguageShape(
        vocab_size=32064,
        hidden_size=4096,
        ffn_hidden_size=11008,
        num_layers=32,
        num_attention_heads=32,
        num_query_groups=32,
        head_size=128,
        max_sequence_length=4096,
        image_token_id=32000,
    ),
)

# llava-hf/llava-1.5-13b-hf: the same vision side, Vicuna-13B v1.5.
_VICUNA_13B = replace(
    _LLAVA_7B.language,
    hidden_size=5120,
    ffn_hidden_size=13824,
    num_layers=40,
    num_attention_heads=40,
    num_query_groups=40,
)

# google/siglip-so400m-patch14-384 read at its last layer, Qwen/Qwen2-1.5B. The image token is the first that the
# tokenizer leaves free.
_SIGLIP_QWEN2 = ModelShape(
    vision=VisionShape(
        family="siglip",
        image_size=384,
        patch_size=14,
        hidden_size=1152,
        ffn_hidden_size=4304,
        num_layers=27,
        num_attention_heads=16,
        activation="gelu_pytorch_tanh",
        norm_epsilon=1e-6,
    ),
    language=LanguageShape(
        vocab_size=151936,
        hidden_size=1536,
        ffn_hidden_size=8960,
        num_layers=28,
        num_attention_heads=12,
        num_query_groups=2,
        head_size=128,
        max_sequence_length=131072,
        rotary_base=1e6,
        norm_epsilon=1e-6,
        qkv_bias=True,
        tied_embeddings=True,
        image_token_id=151646,
    ),
)


def _tiny(model: ModelShape, *, image_size: int, vocab_size: int) -> ModelShape:
    """Return `model` small enough for eight ranks on two cores; every TP and PP up to 4 divides it."""
    assert model.vision is not None
    return ModelShape(
        vision=replace(
            model.vision,
            image_size=image_size,
            patch_size=4,
            hidden_size=64,
            ffn_hidden_size=128,
            num_layers=4,
            num_attention_heads=4,
        ),
        language=replace(
            model.language,
            vocab_size=vocab_size,
            hidden_size=64,
            ffn_hidden_size=128,
            num_layers=4,
            num_attention_heads=8,
            num_query_groups=4,
            head_size=8,
            max_sequence_length=512,
            image_token_id=vocab_size - 1,
        ),
    )


_LLAVA_TINY = _tiny(_LLAVA_7B, image_size=16, vocab_size=256)

# The same with Mixtral's experts, each half as wide as the MLP that two of them replace.
_LLAVA_MOE_TINY = replace(
    _LLAVA_TINY,
    language=replace(_LLAVA_TINY.language, ffn_hidden_size=64, experts=Experts(num_experts=4, num_used=2)),
)

# Awkward where the real one is: pixels that fill no patch, and a vocabulary that no TP divides.
_SIGLIP_QWEN2_TINY = _tiny(_SIGLIP_QWEN2, image_size=18, vocab_size=251)

# openai/whisper-large-v3's encoder, as mistralai/Voxtral-Mini-3B-2507 reads it: 30 seconds make 375 tokens.
_WHISPER_LARGE = AudioShape(
    num_mels=128, num_positions=1500, hidden_size=1280, ffn_hidden_size=5120, num_layers=32, num_attention_heads=20
)
_AUDIO_TINY = AudioShape(
    num_mels=16, num_positions=32, hidden_size=64, ffn_hidden_size=256, num_layers=4, num_attention_heads=4
)

# Three modules: LLaVA's two and Whisper. The audio token is the next that the vocabulary leaves free.
_LLAVA_AUDIO_7B = replace(_LLAVA_7B, audio=_WHISPER_LARGE, language=replace(_LLAVA_7B.language, audio_token_id=32001))
_LLAVA_AUDIO_TINY = replace(_LLAVA_TINY, audio=_AUDIO_TINY, language=replace(_LLAVA_TINY.language, audio_token_id=254))
_VOXTRAL_TINY = ModelShape(
    audio=_AUDIO_TINY, language=replace(_LLAVA_TINY.language, image_token_id=None, audio_token_id=255)
)

PRESETS: dict[str, ModelShape] = {
    "llava-tiny": _LLAVA_TINY,
    "llava-moe-tiny": _LLAVA_MOE_TINY,
    "llava-1.5-7b": _LLAVA_7B,
    # The full widths with 2 of 32 language layers: four ranks that share one 141 GB GPU hold one each.
    "llava-1.5-7b-2of32": replace(_LLAVA_7B, language=replace(_LLAVA_7B.language, num_layers=2)),
    # The full widths with 8 of 32 language layers: 18 bytes a parameter of this one fit a single 80 GB GPU.
    "llava-1.5-7b-8of32": replace(_LLAVA_7B, language=replace(_LLAVA_7B.language, num_layers=8)),
    # Half of them: with micro-batches of 16,384 positions these fill a 141 GB GPU.
    "llava-1.5-7b-16of32": replace(_LLAVA_7B, language=replace(_LLAVA_7B.language, num_layers=16)),
    "llava-1.5-13b": replace(_LLAVA_7B, language=_VICUNA_13B),
    "siglip-qwen2-tiny": _SIGLIP_QWEN2_TINY,
    "siglip-qwen2": _SIGLIP_QWEN2,
    "llava-audio-tiny": _LLAVA_AUDIO_TINY,
    "llava-audio-7b-8of32": replace(_LLAVA_AUDIO_7B, language=replace(_LLAVA_AUDIO_7B.language, num_layers=8)),
    "voxtral-tiny": _VOXTRAL_TINY,
}
