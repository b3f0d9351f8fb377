"""Shape of the module `depth`, in integers. No torch: the encoder is imported where it is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class DepthProvider:
    """A depth map in square patches, through one MLP; the fields are the options that a scenario gives."""

    map_size: int = 16
    num_channels: int = 1
    patch_size: int = 8
    hidden_size: int = 32

    def __post_init__(self) -> None:
        if self.map_size % self.patch_size:
            raise ValueError(
                f"patch_size = {self.patch_size} does not divide map_size = {self.map_size}; use a divisor"
            )

    @property
    def item_shape(self) -> tuple[int, ...]:
        """Size of one map: channels, height, width."""
        return self.num_channels, self.map_size, self.map_size

    @property
    def num_tokens(self) -> int:
        """Language positions that one map takes: one for each patch."""
        return (self.map_size // self.patch_size) ** 2

    @property
    def output_size(self) -> int:
        """Width of what the projector reads."""
        return self.hidden_size

    @property
    def projector_bias(self) -> bool:
        """True if the projector's two layers have biases."""
        return True

    @property
    def num_layers(self) -> int:
        """Layers that pipeline stages may share out; one cannot be shared."""
        return 1

    @property
    def split_over_tp(self) -> Mapping[str, int]:
        """Numbers that tensor parallelism must divide."""
        return {"the MLP width": 4 * self.hidden_size}

    def flops_per_item(self, *, is_trained: bool) -> int:
        """Forward; trained, patches once more for their weights, as maps need no gradient, and the MLP twice more."""
        h = self.hidden_size
        patches = self.num_tokens * 2 * self.num_channels * self.patch_size**2 * h
        mlp = self.num_tokens * 2 * 2 * h * 4 * h
        return 2 * patches + 3 * mlp if is_trained else patches + mlp

    def encoder_spec(self, build: Any) -> Any:
        """The encoder on one rank."""
        from depth_encoder.encoder import encoder_spec

        return encoder_spec(self, build)
