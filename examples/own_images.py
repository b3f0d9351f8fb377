"""Images, conversations, a processor and a model that fit together, all made here: python examples/own_images.py OUT

Put your own images and lines into OUT, or your own processor with the config.json that belongs to it: a preset such as
"llava-tiny" has no tokenizer, so a processor needs a config.json that has its image token and vocabulary.
"""

import json
import sys
from pathlib import Path
from typing import Any

from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaProcessor, PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

SPECIAL = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
COLOURS = {"red": (220, 30, 30), "green": (30, 180, 60), "blue": (40, 60, 220), "yellow": (240, 220, 40)}
WORDS = ("<unk>", "<s>", "</s>", "USER:", "ASSISTANT:", "what", "colour", "is", "this", "?", "and", "none", *COLOURS)
TEMPLATE = (  # it only ever appends, so that what the assistant says can be told from the rest
    "<s> {% for message in messages %}"
    "{% if message['role'] == 'user' %}USER: {% else %}ASSISTANT: {% endif %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }} {% endif %}"
    "{% endfor %}{% if message['role'] == 'assistant' %}</s> {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT: {% endif %}"
)
SCENARIO = """
question = "Do our own images train alike?"
model = "our-llava/config.json"
global_batch_size = 8
global_micro_batch_size = 4
seq_length = 64
baseline = "one-rank"
steps = { parity = 2, learning = 1, warmup = 1, timed = 1 }

[data]
provider = "huggingface"
path = "train.jsonl"
train = "train[:75%]"
validation = "train[75%:]"
processor = "our-llava"
on_bad_sample = "skip"

[[layout]]
name = "one-rank"
vision = {}
language = {}

[[layout]]
name = "fan-in"
vision = { dp = 2 }
language = { rank_offset = 2 }
"""


def write_processor(folder: Path, words: tuple[str, ...], *, size: int, image_token_id: int) -> None:
    """Tokenizer, image processor and chat template, as save_pretrained writes them."""
    vocabulary = {word: index for index, word in enumerate(words)} | {"<image>": image_token_id}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))  # a word
    tokenizer.pre_tokenizer = WhitespaceSplit()
    LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size}),
        tokenizer=PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL, extra_special_tokens=["<image>"]),
        patch_size=4,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    ).save_pretrained(folder)


def conversation(index: int) -> dict[str, object]:
    """A line of the JSONL: a question about one image, two, or none."""
    shown = [[*COLOURS][(index + step) % len(COLOURS)] for step in range((1, 2, 0, 1)[index % 4])]
    question = " ".join(["<image> what colour is this ?"] * len(shown)) or "what colour is this ?"
    said = [{"role": "user", "content": question}, {"role": "assistant", "content": " and ".join(shown) or "none"}]
    return {"id": f"sample-{index}", "images": [f"{name}.png" for name in shown], "messages": said}


def write_folder(folder: Path) -> None:
    """All that a scenario on samples of one's own needs."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, colour in COLOURS.items():
        Image.new("RGB", (64, 48), colour).save(folder / f"{name}.png")
    lines = [json.dumps(conversation(index)) + "\n" for index in range(32)]
    (folder / "train.jsonl").write_text("".join(lines), encoding="utf-8")
    (folder / "own.toml").write_text(SCENARIO, encoding="utf-8")
    write_processor(folder / "our-llava", WORDS, size=16, image_token_id=len(WORDS))
    tiny = dict[str, Any](hidden_size=64, intermediate_size=128, num_hidden_layers=4, num_attention_heads=4)
    vision = CLIPVisionConfig(**tiny, image_size=16, patch_size=4, projection_dim=64)
    text = LlamaConfig(**tiny, vocab_size=len(WORDS) + 1, max_position_embeddings=512)
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=len(WORDS))
    config.save_pretrained(folder / "our-llava")


if __name__ == "__main__":
    write_folder(Path(sys.argv[1]))
    print(f"mimo-bench check {sys.argv[1]}/own.toml\nmimo-bench run {sys.argv[1]}/own.toml --device cpu")
