"""A user's own files, for tests: photographs that scikit-learn and scikit-image ship, conversations, a processor.

Nothing is downloaded: pictures are those inside the wheels, and the processor is made as the example makes its own.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import Image

from examples import own_images

IMAGE_TOKEN_ID = 255
"""That of llava-tiny."""

PICTURES = {
    "astronaut": ("skimage", "data/astronaut.png"),
    "cat": ("skimage", "data/chelsea.png"),
    "coffee": ("skimage", "data/coffee.png"),
    "rocket": ("skimage", "data/rocket.jpg"),
    "moon": ("skimage", "data/moon.png"),
    "bricks": ("skimage", "data/brick.png"),
    "temple": ("sklearn", "datasets/images/china.jpg"),
    "flower": ("sklearn", "datasets/images/flower.jpg"),
}
"""Subject of each, the package that ships it, and its path in the package."""

WORDS = ("<unk>", "<s>", "</s>", "USER:", "ASSISTANT:", "what", "is", "this", "?", "and", "that", "a", "picture", "of")


def write_folder(folder: Path) -> Path:
    """Pictures, conversations as JSONL and a processor; returns the JSONL.

    Conversations have one image, two, or none, and some a second turn; each ends with an answer.
    """
    (folder / "pictures").mkdir(parents=True)
    for name, (package, path) in PICTURES.items():
        with Image.open(_inside(package) / path) as image:
            image.convert("RGB").resize((64, 48)).save(folder / "pictures" / f"{name}.png")
    rows = [row(index) for index in range(24)]
    (folder / "train.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    write_processor(folder / "processor")
    return folder / "train.jsonl"


def row(index: int) -> dict[str, Any]:
    """One conversation, with as many images as its number says."""
    names = list(PICTURES)
    shown = [names[(index + step) % len(names)] for step in range((1, 2, 0, 1)[index % 4])]
    question = " ".join(["<image> what is this ?"] * len(shown)) or "what is a picture ?"
    messages = [
        {"role": "user", "content": question},
        {"role": "assistant", "content": " and ".join(shown) or "a picture of that"},
    ]
    if index % 3 == 0:
        messages += [{"role": "user", "content": "and that ?"}, {"role": "assistant", "content": "a flower"}]
    return {"id": f"sample-{index}", "images": [f"pictures/{name}.png" for name in shown], "messages": messages}


def write_processor(folder: Path, *, size: int = 16, image_token_id: int = IMAGE_TOKEN_ID) -> None:
    """A processor for llava-tiny whose padding is the token that ends answers, as in many real ones."""
    own_images.write_processor(folder, (*WORDS, *PICTURES), size=size, image_token_id=image_token_id)


def _inside(package: str) -> Path:
    spec = find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0])
