"""Images as an encoder reads them: opened with Pillow, and made ready by the image processor of `transformers`."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch

from mimo_bench.data.formats import BadSample
from mimo_bench.data.processor import check_image_size

_WIDE = ("I", "F")
"""How Pillow's modes of 16 and 32 bits begin."""


def pixels(sources: list[Path | bytes], image_processor: Any, *, item_shape: tuple[int, ...]) -> torch.Tensor:
    """float32 [images, *item_shape], normalised as the processor says.

    Raises:
        BadSample: an image is missing, cannot be decoded, or has more than 8 bits a channel.
        ScenarioError: the processor makes images of another size than the model reads.
    """
    if not sources:
        return torch.zeros(0, *item_shape)
    images = [_open(source) for source in sources]
    values: torch.Tensor = image_processor(images=images, return_tensors="pt")["pixel_values"]
    check_image_size(tuple(values.shape[1:]), item_shape)
    return values.to(torch.float32)


def _open(source: Path | bytes) -> Any:
    # Imported here: only ranks that decode images need it.
    from PIL import Image, ImageOps, UnidentifiedImageError

    name = f"image {source}" if isinstance(source, Path) else f"an image of {len(source)} bytes"
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            if image.mode.startswith(_WIDE):
                raise BadSample(f"{name} has more than 8 bits a channel, which would be cut to white; convert it to 8")
            # As `transformers` opens images: Exif holds the camera's orientation.
            return ImageOps.exif_transpose(image).convert("RGB")
    except FileNotFoundError:
        raise BadSample(f"{name} does not exist; put it there or drop the sample") from None
    except IsADirectoryError:
        raise BadSample(f"{name} is a folder; name the image in it") from None
    except UnidentifiedImageError:
        raise BadSample(f"{name} is no image that Pillow knows; replace it or drop the sample") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BadSample(f"{name} cannot be decoded: {error}; replace it or drop the sample") from None
