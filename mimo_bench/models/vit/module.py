"""The vision encoder: the vision transformer of CLIP or SigLIP, as LLaVA reads it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from megatron.core.activations import quick_gelu
from megatron.core.models.vision.clip_vit_model import CLIPViTModel
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_config import TransformerConfig

from mimo_bench.layout import AttentionBackend
from mimo_bench.models.modules.build import Build
from mimo_bench.models.modules.layers_local import Norm, block_spec
from mimo_bench.models.vit.shape import VisionActivation, VisionShape

_ACTIVATIONS: dict[VisionActivation, Callable[[torch.Tensor], torch.Tensor]] = {
    "quick_gelu": quick_gelu,
    "gelu": torch.nn.functional.gelu,
    "gelu_pytorch_tanh": partial(torch.nn.functional.gelu, approximate="tanh"),
}


class VisionEncoder(torch.nn.Module):
    """A vision transformer as LLaVA reads it: up to its feature layer, without a final norm."""

    def __init__(
        self,
        config: TransformerConfig,
        shape: VisionShape,
        attention: AttentionBackend,
        pg_collection: ProcessGroupCollection,
    ) -> None:
        """Build the layers of `shape` on the ranks of `pg_collection`, and of each pipeline stage its own."""
        super().__init__()
        self.config = config
        stage, num_stages = pg_collection.pp.rank(), pg_collection.pp.size()
        # The part of an image that fills patches; megatron-core refuses a rest, which the convolution just leaves out.
        covered = shape.patches_per_side * shape.patch_size
        self.vit = CLIPViTModel(
            transformer_config=config,
            transformer_layer_spec=block_spec(
                num_layers=shape.num_layers // num_stages, causal=False, final_norm=False, attention=attention
            ),
            ln_pre_impl=Norm,
            ln_post_impl=Norm,
            add_class_token=shape.has_class_token,
            class_token_len=int(shape.has_class_token),
            patch_dim=shape.patch_size,
            img_h=covered,
            img_w=covered,
            model_subtype=shape.family,
            pg_collection=pg_collection,
        )
        # SigLIP's final norm stands behind its last layer, and hidden states are read before it.
        self.vit.ln_post = None
        if stage > 0:
            # What stands before the first layer; megatron-core builds it on every stage.
            self.vit.conv1 = self.vit.position_embeddings = self.vit.class_token = self.vit.ln_pre = None
        self._num_dropped = shape.num_positions - shape.num_image_tokens if stage == num_stages - 1 else 0

    def forward(self, inputs: torch.Tensor | None = None, *, hidden_states: torch.Tensor | None = None) -> torch.Tensor:
        """Encode images, or on a later pipeline stage continue with what the stage before made of them.

        Args:
            inputs: [images, 3, height, width], normalised.
            hidden_states: [images, positions, h].

        Returns:
            [images, positions, h], on the last stage of image tokens alone. Batch-major: MIMO flattens the first two
            dims, and would deal patches out to the wrong samples if they came as [patches, images, h].
        """
        if hidden_states is None:
            features: torch.Tensor = self.vit(inputs)
        else:
            # The block works on [positions, images, h].
            features = self.vit.decoder(hidden_states.transpose(0, 1).contiguous(), None).transpose(0, 1).contiguous()
        return features[:, self._num_dropped :]


def vision_encoder(shape: VisionShape, build: Build) -> ModuleSpec:
    """The vision transformer on this rank."""
    config = build.config(
        num_layers=shape.num_layers,
        hidden_size=shape.hidden_size,
        ffn_hidden_size=shape.ffn_hidden_size,
        num_attention_heads=shape.num_attention_heads,
        layernorm_epsilon=shape.norm_epsilon,
        normalization="LayerNorm",
        activation_func=_ACTIVATIONS[shape.activation],
        add_bias_linear=True,
    )
    return ModuleSpec(
        module=VisionEncoder,
        params={
            "config": config,
            "shape": shape,
            "attention": build.settings.attention,
            "pg_collection": build.pg_collection,
        },
    )
