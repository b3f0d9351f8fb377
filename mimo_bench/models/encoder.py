"""What layouts, samples and meters need to know of any encoder, in integers; and the shape of Whisper's.

presets, transformers_config -> [encoder], shape
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


class EncoderShape(Protocol):
    """An encoder as the rest of the bench sees it: it makes a fixed number of tokens out of each item it reads."""

    @property
    def item_shape(self) -> tuple[int, ...]:
        """Of one item, such as an image, as the encoder reads it."""
        ...

    @property
    def num_tokens(self) -> int:
        """Language positions that one item takes."""
        ...

    @property
    def output_size(self) -> int:
        """Width of what the projector reads at each of those positions."""
        ...

    @property
    def projector_bias(self) -> bool:
        """Whether the projector's two layers have biases."""
        ...

    @property
    def split_over_tp(self) -> Mapping[str, int]:
        """What tensor parallelism must divide, by a name that a message can use."""
        ...

    @property
    def num_layers(self) -> int:
        """Layers that run."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class AudioShape:
    """Whisper's encoder, and Voxtral's way into a language model.

    Two convolutions, the second of stride 2, fixed positions, layers without key biases, a final norm. The projector
    reads `num_stacked` neighbouring positions side by side, and has no biases.
    """

    num_mels: int
    """Mel bands of a frame."""
    num_positions: int
    """Positions per clip inside the encoder; a clip has twice as many frames."""
    hidden_size: int
    ffn_hidden_size: int
    num_layers: int
    num_attention_heads: int
    num_stacked: int = 4
    """Positions that become one token."""

    def __post_init__(self) -> None:
        assert self.num_positions % self.num_stacked == 0, "a token would straddle two clips"

    @property
    def num_frames(self) -> int:
        """Frames of a clip."""
        return 2 * self.num_positions

    @property
    def item_shape(self) -> tuple[int, ...]:
        """Of one clip as the encoder reads it: mel bands, frames."""
        return self.num_mels, self.num_frames

    @property
    def num_tokens(self) -> int:
        """Language positions that one clip takes."""
        return self.num_positions // self.num_stacked

    @property
    def output_size(self) -> int:
        """Width of what the projector reads."""
        return self.num_stacked * self.hidden_size

    @property
    def projector_bias(self) -> bool:
        """Voxtral's projector has none."""
        return False

    @property
    def split_over_tp(self) -> Mapping[str, int]:
        """What tensor parallelism must divide."""
        return {"attention heads": self.num_attention_heads, "the MLP width": self.ffn_hidden_size}
