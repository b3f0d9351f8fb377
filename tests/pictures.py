"""A user's own files, for tests: photographs that scikit-learn and scikit-image ship, conversations, a processor.

Nothing is downloaded: pictures are those inside the wheels, and tokenizer and processor are built here.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlavaProcessor, PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

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
"""What each shows, the package that ships it, and where in it."""

TEMPLATE = (
    "<s> {% for message in messages %}"
    "{% if message['role'] == 'user' %}USER: {% else %}ASSISTANT: {% endif %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }} {% endif %}"
    "{% endfor %}{% if message['role'] == 'assistant' %}</s> {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT: {% endif %}"
)
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
    words = {word: index for index, word in enumerate((*WORDS, *PICTURES))} | {"<image>": image_token_id}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<unk>"))  # a word
    tokenizer.pre_tokenizer = WhitespaceSplit()
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special, extra_special_tokens=["<image>"])
    LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size}),
        tokenizer=fast,
        patch_size=4,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    ).save_pretrained(folder)


def _inside(package: str) -> Path:
    spec = find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0])
