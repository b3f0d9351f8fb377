"""A user's own files become samples: images and answers in the right places, and clear words for what is wrong."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import Unigram, WordLevel
from transformers import AutoProcessor

from examples import own_images
from mimo_bench.cli.app import main
from mimo_bench.data.config import HuggingFaceData, SyntheticData, locate
from mimo_bench.data.conversations import HuggingFaceDataset
from mimo_bench.data.prepare import prepare
from mimo_bench.data.processor import Tokens, saved_image_size, saved_tokens
from mimo_bench.models import PRESETS
from mimo_bench.predict import predict_memory
from mimo_bench.predict.validate import contradictions
from mimo_bench.scenario.load import load_scenario
from mimo_bench.scenario.scenario import Scenario
from mimo_bench.trainer.loader import collate
from mimo_bench.util.errors import DataError, ScenarioError
from tests.support import golden
from tests.support.pictures import IMAGE_TOKEN_ID, PICTURES, row, write_folder, write_processor

SHAPE = PRESETS["llava-tiny"]
SEQ_LENGTH = 64
HEAD = """
question = "Is it?"
model = "llava-tiny"
global_batch_size = 8
global_micro_batch_size = 4
seq_length = 64
baseline = "one-rank"
"""
LAYOUT = """
[[layout]]
name = "one-rank"
vision = {}
language = {}
"""
END, USER, ASSISTANT, FLOWER = 2, 3, 4, 14 + list(PICTURES).index("flower")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder as it should be, for tests that only read."""
    folder = tmp_path_factory.mktemp("own")
    write_folder(folder)
    return folder


def section(folder: Path, **changes: Any) -> HuggingFaceData:
    said = {"provider": "huggingface", "path": "train.jsonl", "processor": "processor", **changes}
    return HuggingFaceData.model_validate(locate(said, folder=folder))


def build(data: HuggingFaceData, *, seq_length: int = SEQ_LENGTH) -> HuggingFaceDataset:
    return HuggingFaceDataset(data, shape=SHAPE, seq_length=seq_length, seed=0)


def in_order(folder: Path, **changes: Any) -> HuggingFaceDataset:
    """The rows in the order of the file: held out, they are not shuffled."""
    return build(section(folder, validation="train", **changes))


def test_the_record_of_a_run_on_own_files_has_the_hash_of_its_scenario(shared: Path) -> None:
    scenario = golden.scenario().model_copy(update={"data": section(shared)})
    content = scenario.model_dump(mode="json")
    assert content["data"]["located"]
    record = golden.record().model_copy(update={"scenario": content, "scenario_hash": scenario.content_hash})
    assert [each for each in contradictions(record) if each.startswith("scenario")] == []


def test_tokens_and_pixels_are_those_of_the_processor(shared: Path) -> None:
    dataset, processor = in_order(shared), AutoProcessor.from_pretrained(shared / "processor")
    for index in range(8):
        written = row(index)
        images = [Image.open(shared / name) for name in written["images"]]
        rendered = "<s> " + "".join(
            f"{'USER:' if message['role'] == 'user' else 'ASSISTANT:'} {message['content']} "
            + ("</s> " if message["role"] == "assistant" else "")
            for message in written["messages"]
        )
        expected = processor(text=[rendered], images=images or None, return_tensors="pt", add_special_tokens=False)
        assert torch.equal(dataset.text("validation", index).tokens, expected["input_ids"][0])
        assert dataset.num_items("vision", "validation", index) == len(images)
        pixels = dataset.encoder_inputs("vision", "validation", index)
        assert pixels.shape == (len(images), 3, 16, 16)
        if images:
            assert torch.equal(pixels, expected["pixel_values"])


def test_only_what_the_assistant_says_is_scored_and_the_end_of_each_answer_with_it(shared: Path) -> None:
    text = in_order(shared).text("validation", 0)  # "astronaut", then in a second turn "a flower"
    assert text.tokens[text.is_answer].tolist() == [14, END, 11, FLOWER, END]
    columns = collate([text], seq_length=SEQ_LENGTH)
    labels, loss_mask = columns["labels"], columns["loss_mask"]
    assert labels is not None
    assert loss_mask is not None
    # The tokenizer pads with the token that ends answers; it is scored where it ends one and nowhere else.
    assert labels[loss_mask == 1].tolist() == [14, END, 11, FLOWER, END]


def test_an_epoch_trains_on_every_row_once_and_the_next_in_another_order(shared: Path) -> None:
    dataset = build(section(shared))
    epochs = [[dataset.row_at("train", epoch * 24 + place) for place in range(24)] for epoch in range(2)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(24))] * 2
    assert epochs[0] != epochs[1]


def test_reading_files_of_ones_own_asks_nothing_of_the_network(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr("datasets.load.get_session", lambda: asked.append("a session"))
    build(section(shared)).row_at("train", 0)
    assert asked == []


def test_columns_are_taken_apart_once_and_not_for_every_sample(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = in_order(shared)
    dataset.open("validation")
    # Each view costs a millisecond of Python, which training would wait for.
    monkeypatch.delattr(datasets.Dataset, "select_columns")
    assert dataset.num_items("vision", "validation", 0) == len(row(0)["images"])
    assert dataset.text("validation", 0).is_answer.any()
    assert dataset.encoder_inputs("vision", "validation", 0).shape == (1, 3, 16, 16)


def test_parts_of_a_split_can_be_held_out(shared: Path) -> None:
    dataset = build(section(shared, train="train[:50%]", validation="train[50%:75%]", test="train[75%:]"))
    assert [dataset.open(split) for split in ("train", "validation", "test")] == [12, 6, 6]
    assert torch.equal(dataset.text("validation", 0).tokens, in_order(shared).text("validation", 12).tokens)
    assert torch.equal(dataset.text("test", 0).tokens, in_order(shared).text("validation", 18).tokens)


def test_a_folder_of_images_with_questions_and_answers_is_read(shared: Path, tmp_path: Path) -> None:
    for name in ("cat", "moon"):
        Image.open(shared / "pictures" / f"{name}.png").save(tmp_path / f"{name}.png")
    lines = [{"file_name": f"{name}.png", "question": "what is this ?", "answer": name} for name in ("cat", "moon")]
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    data = section(shared, path=str(tmp_path), images="image", question="question", answer="answer", validation="train")
    text = build(data).text("validation", 1)
    # The image stands before the question, which does not place it.
    assert text.tokens.tolist()[:4] == [1, USER, IMAGE_TOKEN_ID, IMAGE_TOKEN_ID]
    assert int((text.tokens == IMAGE_TOKEN_ID).sum()) == 16
    assert text.tokens[text.is_answer].tolist() == [14 + list(PICTURES).index("moon"), END]


@pytest.mark.parametrize(("answer", "expected"), [(5, "5"), ("5", "5")])
def test_an_answer_may_be_a_whole_number(own: Path, answer: int | str, expected: str) -> None:
    write_rows(own, [{"images": [], "question": "what ?", "answer": answer}])
    dataset = in_order(own, question="question", answer="answer")
    assert dataset.open("validation") == 1
    assert dataset._messages("validation", 0)[1]["content"] == expected


@pytest.mark.parametrize(("answer", "kind"), [(5.0, "double|float64"), (True, "bool"), ([5], "lists")])
def test_answers_that_may_be_written_in_several_ways_are_refused(own: Path, answer: Any, kind: str) -> None:
    write_rows(own, [{"images": [], "question": "what ?", "answer": answer}])
    with pytest.raises(DataError, match=rf"column 'answer', which data\.answer names, holds ({kind}); give it text"):
        in_order(own, question="question", answer="answer").open("validation")


def test_a_table_that_was_cut_short_is_named_before_anything_starts(own: Path) -> None:
    datasets.Dataset.from_list([{"images": [], "messages": row(2)["messages"]}]).to_parquet(own / "whole.parquet")
    assert in_order(own, path="whole.parquet").open("validation") == 1
    (own / "train.parquet").write_bytes((own / "whole.parquet").read_bytes()[:-20])
    with pytest.raises(DataError, match=r"train\.parquet, split 'train': cannot be read: .*; mend the file"):
        in_order(own, path="train.parquet").open("validation")


def test_a_photograph_is_turned_as_the_camera_says_it_was_held(own: Path, shared: Path) -> None:
    upright = Image.open(shared / "pictures" / "cat.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # held so that the sensor's rows run downwards
    upright.transpose(Image.Transpose.ROTATE_90).save(own / "turned.png", exif=exif)
    upright.save(own / "upright.png")
    write_rows(own, [{**row(0), "images": [name]} for name in ("upright.png", "turned.png")])
    expected, found = (in_order(own).encoder_inputs("vision", "validation", index) for index in range(2))
    assert torch.equal(found, expected)


def test_an_image_of_more_than_eight_bits_is_refused_and_not_cut_to_white(own: Path) -> None:
    Image.new("I;16", (32, 32), 30000).save(own / "deep.png")
    write_rows(own, [{**row(0), "images": ["deep.png"]}])
    with pytest.raises(
        DataError, match=r"row 1 of the file.*deep\.png has more than 8 bits a channel, .*; convert it to 8"
    ):
        in_order(own).encoder_inputs("vision", "validation", 0)


def write_rows(folder: Path, rows: list[dict[str, Any]]) -> None:
    (folder / "train.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")


@pytest.fixture
def own(shared: Path, tmp_path: Path) -> Path:
    """A folder to spoil."""
    (tmp_path / "pictures").symlink_to(shared / "pictures")
    (tmp_path / "processor").symlink_to(shared / "processor")
    return tmp_path


ROWS = [row(index) for index in range(24)]
NO_ANSWER = {**row(0), "messages": row(0)["messages"][:1]}
MISSING = {**row(0), "images": ["pictures/nothing.png"]}
ONE_TOO_MANY = {**row(0), "images": row(1)["images"]}


def asks(content: Any, **changes: Any) -> dict[str, Any]:
    """The first conversation, asked otherwise."""
    return {**row(0), "messages": [{"role": "user", "content": content, **changes}, row(0)["messages"][1]]}


ROW_1, ROW_2 = (f"row {number} of the file, counted from 1" for number in (1, 2))


def talk(*messages: dict[str, Any]) -> dict[str, Any]:
    """A conversation without images."""
    return {"id": "sample-0", "images": [], "messages": list(messages)}


TOO_LONG = asks("<image> what " + "is " * 60)
ANSWER = {"role": "assistant", "content": "a flower"}
CALL = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "picture", "arguments": {}}}]}


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        (NO_ANSWER, "has no answer to learn"),
        (MISSING, r"image .*nothing\.png does not exist"),
        (ONE_TOO_MANY, "places 1 image in its messages and has 2; "),
        (TOO_LONG, r"has \d+ tokens, 16 of them for its images, and seq_length is 64"),
        ({**row(0), "messages": None}, "has images and no message of the role 'user' to hold them"),
        (talk(), "has no answer to learn"),
        (asks(None), r"message 0 has no content; give it text, or a list of parts"),
        (talk({"role": "user"}, ANSWER), "message 0 has no content"),
        (talk({"role": "user", "content": "what ?"}, {**CALL, "tool_calls": None}), "message 1 has no content"),
        (
            talk({"role": "asker", "content": "what ?"}, {"role": "gpt", "content": "a flower"}),
            "role 'asker' of message 0 is not known; use system, user, assistant or tool, one that the chat template",
        ),
        (asks("what ?", role="usr"), "role 'usr' of message 0 is not known"),
        (
            asks([{"type": "text", "text": None}]),
            "has {'text': None, 'type': 'text'} as part of a message, which is ne",
        ),
        (
            talk({"role": "user", "content": "what ?"}, CALL),
            "message 1 has tool_calls, which the chat template does no",
        ),
        (
            {**row(0), "images": ["https://example.com/x.png"]},
            "has 'https://example.com/x.png' among its images, and URL",
        ),
        ({**row(0), "messages": "what is this ?"}, "has a str for a list of messages"),
        ({**row(0), "messages": ["what is this ?"]}, "has a message without a role, 'what is this"),
        (asks("what is this ?", role=None), "has a message without a role, {'content': 'what is this"),
        (asks(5), "has 5 as content of a message; make it text"),
        (asks([{"type": "video"}]), "has {'type': 'video'} as part of a message, which is neither text nor an image"),
        (asks([{"type": "text", "text": "what <image> ?"}]), "is rendered with 2 of <image> and has 1 image; "),
        ({**row(0), "images": [None]}, "has None among its images; give the path of an image, or an empty list"),
        ({**row(0), "images": ""}, "has '' among its images"),
        ({**row(0), "images": 5}, "has 5 among its images"),
        ({**row(0), "images": ["pictures"]}, "image .*pictures is a folder; name the image in it"),
    ],
)
def test_a_bad_sample_is_told_by_file_row_and_id(own: Path, bad: dict[str, Any], expected: str) -> None:
    write_rows(own, [row(1), bad])
    dataset = in_order(own)

    def read() -> None:
        dataset.text("validation", 1)
        dataset.encoder_inputs("vision", "validation", 1)

    with pytest.raises(DataError, match=rf"train\.jsonl, split 'train', {ROW_2} \('sample-0'\): {expected}"):
        read()
    with pytest.raises(DataError, match=r'; data\.on_bad_sample = "skip" leaves out bad samples$'):
        read()
    # And so it can be left out.
    assert re.search(expected, dataset.bad("validation", 1) or "")
    assert dataset.bad("validation", 0) is None


@pytest.mark.parametrize(
    ("changes", "row", "expected"),
    [
        ({"validation": "train[75%:]"}, 3, "split 'train[75%:]', row 22 of the file, counted from 1 ('sample-21'):"),
        # Rows 1 to 3 and the last 6: the fourth of the split is row 19.
        (
            {"validation": "train[:3]+train[75%:]"},
            3,
            "split 'train[:3]+train[75%:]', row 19 of the file, counted from 1 ('sample-18'):",
        ),
        ({"path": "rows", "validation": "train[75%:]"}, 3, "row 3 of that split, counted from 0 ('sample-21'):"),
    ],
)
def test_a_sample_of_a_part_of_a_file_is_told_by_its_row_of_the_file(
    own: Path, changes: dict[str, str], row: int, expected: str
) -> None:
    (own / "rows").mkdir()
    for folder in (own, own / "rows"):
        write_rows(folder, [{**one, "messages": one["messages"][:1]} for one in ROWS])
    assert expected in (build(section(own, **changes)).bad("validation", row) or "")


def with_template(folder: Path, template: str, *messages: dict[str, Any]) -> HuggingFaceDataset:
    """One conversation without images, rendered by another template than the example's."""
    shutil.copytree(folder / "processor", folder / "other")
    (folder / "other" / "chat_template.jinja").write_text(template, encoding="utf-8")
    write_rows(folder, [talk(*messages)])
    return in_order(folder, processor="other")


def test_of_a_conversation_that_the_assistant_begins_the_answers_alone_are_scored(own: Path) -> None:
    write_rows(own, [talk(ANSWER, {"role": "user", "content": "what ?"}, ANSWER)])
    text = in_order(own).text("validation", 0)
    assert text.tokens.tolist()[:2] == [1, ASSISTANT]
    assert text.is_answer.tolist()[:2] == [False, False]
    assert text.tokens[text.is_answer].tolist() == [11, FLOWER, END] * 2


@pytest.mark.parametrize(
    ("template", "messages", "expected"),
    [
        (
            "{{ raise_exception('Roles must alternate user/assistant\nand so on') }}",
            [{"role": "user", "content": "what ?"}, ANSWER],
            "is refused by the chat template: Roles must alternate user/assistant and so on; mend the conversation",
        ),
        (
            "{{ messages[0].content[0].text.name.first }}",
            [{"role": "user", "content": "what ?"}, ANSWER],
            "is refused by",
        ),
        (
            "{{ messages[0]['role'] }}",
            [ANSWER],
            "begins with an answer, and the chat template needs a message in front of it: .*no element 0; give it",
        ),
    ],
)
def test_what_a_chat_template_refuses_is_a_bad_sample_in_its_own_words(
    own: Path, template: str, messages: list[dict[str, Any]], expected: str
) -> None:
    dataset = with_template(own, template, *messages)
    with pytest.raises(DataError, match=rf"train\.jsonl, split 'train', {ROW_1} \('sample-0'\): {expected}"):
        dataset.text("validation", 0)
    assert re.search(expected, dataset.bad("validation", 0) or "")


def test_calls_of_tools_are_answers_where_the_template_writes_them_and_what_tools_say_is_none(own: Path) -> None:
    template = own_images.TEMPLATE.replace(
        "</s>", "{% for call in message.tool_calls %}{{ call.function.name }} {% endfor %}</s>"
    )
    asked = {"role": "user", "content": "what ?"}
    dataset = with_template(own, template, asked, CALL, {"role": "tool", "content": "this"}, ANSWER)
    text = dataset.text("validation", 0)
    assert text.tokens[text.is_answer].tolist() == [12, END, 11, FLOWER, END]


def test_a_role_of_the_chat_templates_own_is_known(own: Path) -> None:
    template = own_images.TEMPLATE.replace("USER: ", "USER: {% elif message['role'] == \"developer\" %}of ")
    asked = {"role": "user", "content": "what ?"}
    dataset = with_template(own, template, {"role": "developer", "content": "this"}, asked, ANSWER)
    assert dataset.text("validation", 0).tokens.tolist()[:3] == [1, 13, 7]


@pytest.mark.parametrize(("cut", "expected"), [(20, "cannot be decoded"), (None, "is no image that Pillow knows")])
def test_a_broken_image_is_told_by_its_sample(own: Path, shared: Path, cut: int | None, expected: str) -> None:
    whole = (shared / "pictures" / "cat.png").read_bytes()
    (own / "broken.png").write_bytes(b"no image" if cut is None else whole[: len(whole) // 2])
    write_rows(own, [{**row(0), "images": ["broken.png"]}])
    with pytest.raises(
        DataError, match=rf"row 1 of the file, counted from 1 \('sample-0'\): image .*broken\.png {expected}"
    ):
        in_order(own).encoder_inputs("vision", "validation", 0)


def write_scenario(folder: Path, **changes: Any) -> Path:
    """A scenario of one layout on the samples in a folder."""
    said = {"provider": "huggingface", "path": "train.jsonl", "validation": "train[75%:]", "processor": "processor"}
    table = "\n".join(f"{key} = {json.dumps(value)}" for key, value in (said | changes).items())
    file = folder / "own.toml"
    file.write_text(f"{HEAD}\n[data]\n{table}\n{LAYOUT}", encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "holds no samples"),
        (json.dumps(row(0))[:-30], "cannot be read: .*; mend the file"),
        (
            json.dumps({"imags": [], "messages": row(0)["messages"]}),
            r"has no column 'images', which data\.images names; set data\.images to .*: did you mean 'imags'\? .*",
        ),
        (
            json.dumps({"images": [], "talk": [], "question": "a"}),
            "has no column 'messages', .*: use one of question, talk; or data.question and data.answer to columns",
        ),
        (
            json.dumps({"images": []}),
            "has no column 'messages', .* names; and no column that another key does not name already; add it$",
        ),
        (
            json.dumps({"images": [], "messages": [{"speaker": "human", "value": "what ?"}]}),
            r"column 'messages', which data\.messages names, holds messages of speaker and value; rename these to role",
        ),
        (json.dumps({"images": [], "messages": "what ?"}), "column 'messages', .*, holds string; give it lists"),
        (
            json.dumps({"images": [5], "messages": row(0)["messages"]}),
            "column 'images', .*, holds int64; give it paths",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_named_before_anything_starts(
    own: Path, capsys: pytest.CaptureFixture[str], content: str, expected: str
) -> None:
    (own / "train.jsonl").write_text(content, encoding="utf-8")
    refused(own, write_scenario(own), capsys, rf"data: train\.jsonl, split 'train': {expected}")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"train": "train[100%:]"}, "split 'train\\[100%:\\]': .* corresponds to no data; name a split that it has"),
        ({"validation": "train[100%:]"}, "split 'train\\[100%:\\]': .*data; .* data.validation = "),
        ({"validation": "held-out"}, "split 'held-out': .*; name a split that it has, or parts of one"),
    ],
)
def test_a_split_that_is_empty_or_missing_is_named_before_anything_starts(
    shared: Path, own: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, str], expected: str
) -> None:
    (own / "train.jsonl").symlink_to(shared / "train.jsonl")
    refused(own, write_scenario(own, **changes), capsys, rf"data: train\.jsonl, {expected}")


def refused(folder: Path, scenario: Path, capsys: pytest.CaptureFixture[str], expected: str) -> None:
    """`check`, `run` and `train` end with 2 and the same line, and nothing is written."""
    said = []
    elsewhere = ["--device", "cpu", "--out", str(folder / "out")]
    for command in (["check"], ["run", *elsewhere], ["train", "--layout", "one-rank", *elsewhere]):
        assert main([command[0], str(scenario), *command[1:]]) == 2
        said.append(capsys.readouterr().err)
    assert said == [said[0]] * 3
    assert re.search(rf"own\.toml: {expected}", said[0].strip()), said[0]
    assert not (folder / "out").exists()


def test_samples_are_looked_at_without_torch_and_transformers(shared: Path, own: Path) -> None:
    (own / "train.jsonl").symlink_to(shared / "train.jsonl")
    asked = (
        "import sys; from mimo_bench.cli.app import main; assert main(sys.argv[1:]) == 0; "
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    command = [sys.executable, "-c", asked, "check", "--quiet", str(write_scenario(own))]
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    assert said.stdout.strip().splitlines()[-1] == "[]"
    assert said.stderr == ""


def test_names_on_the_hub_are_not_looked_up_before_anything_starts(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (said,) = checked(write_scenario(own, path="team/photographs"), capsys)
    assert said == (
        "how many images a sample has is not known, as 'team/photographs' is read by ranks alone; "
        "memory is predicted for one image a sample: more of them need more"
    )


def checked(scenario: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What `check` says of samples, between the question and the first layout."""
    assert main(["check", str(scenario)]) == 0
    _, notes, _ = capsys.readouterr().out.split("\n\n", 2)
    return notes.splitlines()


def with_images(counts: Sequence[int]) -> list[dict[str, Any]]:
    """Rows with so many images each."""
    return [
        {**row(0), "images": ["pictures/cat.png"] * count, "messages": asks("<image>" * count)["messages"]}
        for count in counts
    ]


@pytest.mark.parametrize(
    ("counts", "most"),
    [
        ([1, 2, 1], 2),
        ([0, 0], 0),
        # An image takes 16 positions of 64, so four leave nothing to learn: nothing trains on such a sample.
        ([1, 3, 4, 40], 3),
    ],
)
def test_memory_is_predicted_as_if_every_sample_were_the_fullest_that_fits(
    own: Path, capsys: pytest.CaptureFixture[str], counts: list[int], most: int
) -> None:
    write_rows(own, with_images(counts))
    file = write_scenario(own, train="train", validation="train", on_bad_sample="skip")
    assert checked(file, capsys)[0] == (
        f"train has {len(counts)} samples of up to {most} image{'s' * (most != 1)}; "
        "memory is predicted as if each had as many"
    )
    scenario = load_scenario(file)
    weights = [0.0] * most + [1.0]
    alike = scenario.model_copy(update={"data": SyntheticData(items_per_sample={"vision": tuple(weights)})})
    assert predict_memory(scenario, "one-rank") == predict_memory(alike, "one-rank")
    one_each = scenario.model_copy(update={"data": SyntheticData()})
    (rank,), (plain,) = predict_memory(scenario, "one-rank"), predict_memory(one_each, "one-rank")
    kept, kept_plain = (each.modules["vision"].activations_bytes for each in (rank, plain))
    assert kept is not None
    # Four samples a micro-batch; one that has no image at all has a blank one.
    assert kept_plain == kept * 4 / max(1, 4 * most)


def test_only_the_samples_that_are_trained_on_count_for_memory(own: Path) -> None:
    write_rows(own, with_images([1, 1, 1, 3]))
    scenario = load_scenario(write_scenario(own, train="train[:75%]", validation="train[75%:]"))
    assert scenario.data.most_items("vision") == 1


def test_images_are_counted_whatever_their_column_holds(own: Path, shared: Path) -> None:
    write_rows(own, [{**row(0), "images": "pictures/cat.png"}, {**row(2), "images": None}])
    assert load_scenario(write_scenario(own, validation="train")).data.most_items("vision") == 1
    pictures = [{"bytes": (shared / "pictures" / "cat.png").read_bytes(), "path": None}] * 2
    features = datasets.Features({"images": datasets.List(datasets.Image()), "messages": datasets.Json()})
    rows = {"images": [pictures, pictures[:1]], "messages": [row(1)["messages"]] * 2}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(own / "train.parquet")
    scenario = load_scenario(write_scenario(own, path="train.parquet", validation="train"))
    assert scenario.data.most_items("vision") == 2
    features = datasets.Features({**features, "images": datasets.List(datasets.Value("string"), length=3)})
    rows = {"images": [["pictures/cat.png"] * 3], "messages": [row(1)["messages"]]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(own / "threes.parquet")
    scenario = load_scenario(write_scenario(own, path="threes.parquet", validation="train"))
    assert scenario.data.most_items("vision") == 3


def test_a_column_of_lists_and_single_images_leaves_their_number_open(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows(own, [row(1), {**row(0), "images": "pictures/cat.png"}])
    (said, *_) = checked(write_scenario(own, validation="train"), capsys)
    assert said.startswith("how many images a sample has is not known, as 'train.jsonl' has unlike things in 'images';")


WITH_TRAIN = (
    "with data.train = 'train[:16]', so held-out samples are trained on; part them, as train[:90%] and train[90%:] do"
)


@pytest.mark.parametrize(
    ("changes", "num_batches", "expected"),
    [
        ({"train": "train[:50%]", "validation": "train[50%:]"}, 1, []),
        (
            {"train": "train[:50%]", "validation": "train[50%:]"},
            3,
            ["validation has 12 samples and is gone through twice: evaluation.num_batches = 3 takes 24"],
        ),
        (
            {"train": "train[:80%]", "validation": "train[80%:]"},
            1,
            ["validation has 5 samples and is gone through 1.6 times: evaluation.num_batches = 1 takes 8"],
        ),
        ({"train": "train[:50%]", "validation": "train[50%:]"}, 0, []),
        (
            # Rows 8 to 15 of 24, and 16 to 23.
            {"train": "train[:16]", "validation": "train[8:16]+train[16:]", "test": "train[15:17]"},
            1,
            [
                f"warning: data.validation = 'train[8:16]+train[16:]' shares 8 samples {WITH_TRAIN}",
                f"warning: data.test = 'train[15:17]' shares 1 sample {WITH_TRAIN}",
            ],
        ),
        # What is not there is shared with nobody.
        ({"train": "train[:50%]", "validation": "train[50%:]", "test": "train[90:95]"}, 1, []),
    ],
)
def test_check_says_which_held_out_samples_count_twice_or_are_trained_on(
    shared: Path,
    own: Path,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, str],
    num_batches: int,
    expected: list[str],
) -> None:
    (own / "train.jsonl").symlink_to(shared / "train.jsonl")
    file = write_scenario(own, **changes)
    text = file.read_text(encoding="utf-8")
    file.write_text(f"evaluation = {{ num_batches = {num_batches} }}\n{text}", encoding="utf-8")
    _, *said = checked(file, capsys)
    assert said == expected


def test_splits_that_lie_in_folders_of_their_own_share_nothing(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split in ("train", "validation"):
        (own / "rows" / split).mkdir(parents=True)
        write_rows(own / "rows" / split, ROWS[:8])
        (own / "rows" / split / "train.jsonl").rename(own / "rows" / split / f"{split}.jsonl")
    (own / "rows" / "pictures").symlink_to(own / "pictures")
    said = checked(write_scenario(own, path="rows", validation="validation"), capsys)
    assert said == ["train has 8 samples of up to 2 images; memory is predicted as if each had as many"]


def test_what_files_hold_is_in_the_record_and_does_not_make_another_scenario_of_it(own: Path) -> None:
    write_rows(own, ROWS)
    file = write_scenario(own, train="train[:75%]")
    before = load_scenario(file)
    assert before.model_dump(mode="json")["data"]["contents"] == {
        "num_samples": {"train": 18, "validation": 6},
        "most_images": 2,
        "num_trained_on": {},
    }
    assert Scenario.model_validate_json(before.model_dump_json()) == before
    write_rows(own, ROWS * 2)
    after = load_scenario(file)
    assert after != before
    assert after.content_hash == before.content_hash


@pytest.mark.parametrize("key", ["located", "contents"])
def test_what_is_filled_in_cannot_be_written(shared: Path, key: str) -> None:
    with pytest.raises(ScenarioError, match=rf"data\.{key}: is filled in from path and processor; remove it"):
        section(shared, **{key: {}})


PARTS = (
    r"split .validation.: .*; name a split that it has, or parts of one: "
    r'data\.train = "train\[:90%\]" and data\.validation = "train\[90%:\]"'
)


def test_a_split_that_is_not_there_is_told_before_training_with_what_to_write(shared: Path) -> None:
    data = section(shared)
    with pytest.raises(DataError, match=PARTS):
        prepare(build(data), {"train": 8, "validation": 8})


def test_skipped_samples_are_counted_and_named_and_leave_the_rest_in_order(own: Path) -> None:
    write_rows(own, [row(0), NO_ANSWER, row(1), MISSING, row(2)])
    data = section(own, validation="train", on_bad_sample="skip")
    dataset = build(data)
    skipped = prepare(dataset, {"train": 0, "validation": 7})
    assert {row: reason.partition(": ")[2][:20] for row, reason in skipped["validation"].items()} == {
        1: "has no answer to lea",
        3: "image " + str(own / "pictures")[:14],
    }
    good = in_order(own)
    for sample_id, place in enumerate([0, 2, 4, 0, 2, 4, 0]):
        assert torch.equal(dataset.text("validation", sample_id).tokens, good.text("validation", place).tokens)


def test_a_file_of_bad_samples_alone_is_refused(own: Path) -> None:
    write_rows(own, [NO_ANSWER] * 3)
    data = section(own, on_bad_sample="skip")
    with pytest.raises(DataError, match=r"every sample is bad, 3 of them; the first: train\.jsonl"):
        prepare(build(data), {"train": 8})


@pytest.mark.parametrize(
    ("token", "vocab_size", "expected"),
    [
        (100, 256, r"<image> is token 100 of the tokenizer, and the model's image token is 255"),
        (255, 200, r"the tokenizer has a token 255, and the model's vocabulary ends at 199"),
    ],
)
def test_a_processor_of_another_model_is_refused_from_its_files_and_on_ranks(
    shared: Path, tmp_path: Path, token: int, vocab_size: int, expected: str
) -> None:
    write_processor(tmp_path / "other", image_token_id=token)
    data = section(shared, processor=str(tmp_path / "other"))
    shape = replace(SHAPE, language=replace(SHAPE.language, vocab_size=vocab_size))
    remedies = r"; take the processor that belongs to the model, or point model at the config\.json .*presets have no"
    with pytest.raises(ScenarioError, match=expected + remedies):
        data.check(shape, seq_length=SEQ_LENGTH)
    with pytest.raises(ScenarioError, match=expected + remedies):
        HuggingFaceDataset(data, shape=shape, seq_length=SEQ_LENGTH, seed=0)


def test_a_processor_with_images_of_another_size_is_refused_from_its_files_and_on_ranks(
    shared: Path, tmp_path: Path
) -> None:
    write_processor(tmp_path / "large", size=32)
    data = section(shared, processor=str(tmp_path / "large"), validation="train")
    expected = r"data\.processor: makes images of 3 x 32 x 32, and the model reads 3 x 16 x 16; use the processor that"
    with pytest.raises(ScenarioError, match=expected):
        data.check(SHAPE, seq_length=SEQ_LENGTH)
    with pytest.raises(ScenarioError, match=expected):
        build(data).encoder_inputs("vision", "validation", 0)


@pytest.mark.parametrize(
    ("file", "said", "size"),
    [
        ("preprocessor_config.json", {"do_center_crop": True, "crop_size": 336, "size": 400}, (336, 336)),
        ("preprocessor_config.json", {"do_resize": True, "size": {"height": 384, "width": 336}}, (384, 336)),
        ("processor_config.json", {"image_processor": {"do_center_crop": True, "crop_size": 336}}, (336, 336)),
        # The shortest edge alone leaves the other one open.
        ("preprocessor_config.json", {"do_resize": True, "size": {"shortest_edge": 336}}, None),
        ("preprocessor_config.json", {"do_center_crop": False, "crop_size": 336}, None),
        ("processor_config.json", {"image_token": "<image>"}, None),
    ],
)
def test_the_size_of_images_is_read_as_old_and_new_processors_say_it(
    tmp_path: Path, file: str, said: dict[str, Any], size: tuple[int, int] | None
) -> None:
    (tmp_path / file).write_text(json.dumps(said), encoding="utf-8")
    assert saved_image_size(tmp_path, where="here") == size


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"path": "trian.jsonl"}, "data.path: 'trian.jsonl': no such file or folder"),
        ({"path": "pictures/train.jsonl"}, "data.path: .*: no such file or folder"),
        ({"processor": "pictures"}, "data.processor: 'pictures': is no folder with a tokenizer_config.json"),
    ],
)
def test_what_is_not_there_is_refused_before_anything_starts(
    shared: Path, changes: dict[str, str], expected: str
) -> None:
    with pytest.raises(ScenarioError, match=expected):
        section(shared, **changes).check(SHAPE, seq_length=SEQ_LENGTH)
    section(shared).check(SHAPE, seq_length=SEQ_LENGTH)
    section(shared, path="team/photographs").check(SHAPE, seq_length=SEQ_LENGTH)


@pytest.mark.parametrize("model", [Unigram([("<unk>", 0.0), ("<image>", -1.0)], 0), WordLevel({"<unk>": 0}, "<unk>")])
def test_tokens_are_found_wherever_a_tokenizer_keeps_them(tmp_path: Path, model: Any) -> None:
    Tokenizer(model).save(str(tmp_path / "tokenizer.json"))
    added = {"7": {"content": "<image>"}} if isinstance(model, WordLevel) else {}
    config = {"image_token": "<image>", "added_tokens_decoder": added}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    expected = 7 if added else 1
    found = saved_tokens(tmp_path, where="here")
    assert found == Tokens(image_token="<image>", image_token_id=expected, largest=expected)
    (tmp_path / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(ScenarioError, match=r"here: tokenizer\.json cannot be read: .*; save it again"):
        saved_tokens(tmp_path, where="here")


def test_a_tokenizer_that_says_too_little_is_left_to_the_ranks(tmp_path: Path) -> None:
    Tokenizer(WordLevel({"<unk>": 0}, "<unk>")).save(str(tmp_path / "tokenizer.json"))
    assert saved_tokens(tmp_path, where="here") is None


def test_ranks_that_train_on_synthetic_samples_import_none_of_it() -> None:
    imported = "import sys, mimo_bench.bench.ranks.worker"
    asked = f"{imported}; print([m for m in ('datasets', 'pandas', 'PIL') if m in sys.modules])"
    said = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert said.stdout.strip().splitlines()[-1] == "[]"
