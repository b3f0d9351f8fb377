"""Samples in the formats of the field: trained as they read, or refused by name."""

from __future__ import annotations

import base64
import gc
import io
import json
import re
import shutil
import tarfile
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch

from examples import own_images
from mimo_bench.data.config import HuggingFaceData
from mimo_bench.data.fingerprint import read_fingerprint
from mimo_bench.data.source import read_contents
from mimo_bench.util.errors import DataError
from tests.data.test_huggingface import ANSWER, END, FLOWER, SEQ_LENGTH, in_order, section, talk, write_rows
from tests.support.pictures import IMAGE_TOKEN_ID, row, write_folder

CAT, MOON = "pictures/cat.png", "pictures/moon.png"
ASKED = {"role": "user", "content": "what is this ?"}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder as it should be."""
    folder = tmp_path_factory.mktemp("own")
    write_folder(folder)
    return folder


@pytest.fixture
def own(shared: Path, tmp_path: Path) -> Path:
    """A folder to spoil."""
    for name in ("pictures", "processor"):
        (tmp_path / name).symlink_to(shared / name)
    return tmp_path


def with_template(folder: Path, template: str) -> str:
    """Return the name of a processor that renders by another template than the example's."""
    shutil.copytree(folder / "processor", folder / "other")
    (folder / "other" / "chat_template.jinja").write_text(template, encoding="utf-8")
    return "other"


def scored(folder: Path, index: int = 0, **changes: Any) -> list[int]:
    text = in_order(folder, **changes).text("validation", index)
    return [int(token) for token in text.tokens[text.is_answer]]


def rendered(folder: Path, index: int = 0, **changes: Any) -> list[int]:
    return [int(token) for token in in_order(folder, **changes).text("validation", index).tokens]


def content(parts: list[dict[str, Any]], answer: str = "a flower") -> list[dict[str, Any]]:
    return [{"role": "user", "content": parts}, {"role": "assistant", "content": answer}]


QUESTION = {"type": "text", "text": "what is this ?"}


# Types that change late in a file


def test_contents_that_become_lists_late_in_a_file_stay_what_they_are(own: Path) -> None:
    # `datasets` decides types on the first 10 MB of a file, and writes what changes later as JSON text.
    early = {"id": 0, "images": [], "padding": "x" * 100_000, "messages": [ASKED, ANSWER]}
    late = {**early, "messages": content([QUESTION])}
    no_list = {**early, "messages": "what ?"}
    again = {**early, "messages": [{"role": "user", "content": "[1, 2] is this ?"}, {**ANSWER, "content": "[]"}]}
    write_rows(own, [early] * 120 + [late, again, early, no_list])
    dataset = in_order(own)
    dataset.open("validation")
    expected = dataset.text("validation", 0)
    for index in (120, 122):
        text = dataset.text("validation", index)
        assert torch.equal(text.tokens, expected.tokens)
        assert torch.equal(text.is_answer, expected.is_answer)
    assert dataset._messages("validation", 121)[1]["content"] == "[]"
    assert "has a str for a list of messages" in (dataset.bad("validation", 123) or "")


@pytest.mark.parametrize(
    ("answer", "kind"), [({"a": 1}, "an object"), (5.0, "a number"), (True, "true or false"), (["a"], "a list of text")]
)
def test_answers_that_change_their_type_after_what_datasets_looks_at_are_refused(
    own: Path, answer: Any, kind: str
) -> None:
    early = {"images": [CAT], "question": "what ?", "answer": "a", "padding": "x" * (11 << 20)}
    write_rows(own, [early, {**early, "answer": answer, "padding": ""}])
    data = section(own, question="question", answer="answer")
    with pytest.raises(DataError, match=f"line 2: 'answer' holds {kind}, and text in the lines before; mend the file"):
        read_contents(data, ("train",), most_images=3)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"id": "a"}, "line 121: 'id' holds text, and a number in the lines before"),
        ({"images": CAT}, "line 121: 'images' holds text, and a list of text in the lines before"),
        ({"more": 1}, "line 121 has a column 'more', which the first 10 MB have not"),
    ],
)
def test_a_line_late_in_a_file_that_is_unlike_those_before_it_is_named(
    own: Path, changes: dict[str, Any], expected: str
) -> None:
    early = {"id": 0, "images": [CAT], "padding": "x" * 100_000, "messages": [ASKED, ANSWER]}
    write_rows(own, [early] * 120 + [{**early, **changes}])
    with pytest.raises(DataError, match=re.escape(f"cannot be read: {expected}; mend the file")):
        in_order(own).open("validation")


def test_images_and_tools_may_begin_late_in_a_file(own: Path) -> None:
    early = {"images": [], "tools": None, "padding": "x" * 100_000, "messages": [ASKED, ANSWER]}
    write_rows(own, [early] * 120 + [{**early, "images": [CAT], "tools": [TOOL]}])
    dataset = in_order(own)
    dataset.open("validation")
    assert dataset.num_items("vision", "validation", 120) == 1
    assert "has tools, which the chat template does not write" in (dataset.bad("validation", 120) or "")


def test_an_answer_that_reads_like_json_stays_text(own: Path) -> None:
    rows = [talk(ASKED, {"role": "assistant", "content": said}) for said in ('"a flower"', "[1]", "5", "null")]
    write_rows(own, [talk(*content([QUESTION])), *rows])
    dataset = in_order(own)
    dataset.open("validation")
    answers = [dataset._messages("validation", index)[1]["content"] for index in range(1, 5)]
    assert answers == ['"a flower"', "[1]", "5", "null"]


def test_whatever_reading_a_row_raises_is_a_bad_sample(own: Path) -> None:
    said = json.dumps({"images": [], "question": "\u00e9", "answer": "a"}, ensure_ascii=False)
    (own / "train.jsonl").write_bytes(f"{said}\n".encode("latin-1"))
    dataset = in_order(own, question="question", answer="answer")
    dataset.open("validation")
    expected = r"row 1 of the file, counted from 1: cannot be read: UnicodeDecodeError: 'utf-8' codec .*; mend the row"
    assert re.search(expected, dataset.bad("validation", 0) or "")
    with pytest.raises(DataError, match=expected):
        dataset.text("validation", 0)


def test_answers_of_one_question_each_that_change_their_type_are_refused_with_row_and_types(own: Path) -> None:
    said = {"images": [], "question": "what ?", "answer": "a"}
    write_rows(own, [said, {**said, "answer": ["a"]}])
    with pytest.raises(
        DataError, match="cannot be read: line 2: 'answer' holds a list of text, and text in the lines before; mend"
    ):
        in_order(own, question="question", answer="answer").open("validation")


def test_texts_of_csv_stay_as_they_are_written(own: Path) -> None:
    lines = [("NA", "007"), ("null", "5.0"), ("what ?", "True")]
    (own / "train.csv").write_text(
        "images,question,answer\n" + "".join(f"{CAT},{a},{b}\n" for a, b in lines), encoding="utf-8"
    )
    dataset = in_order(own, path="train.csv", question="question", answer="answer")
    dataset.open("validation")
    found = [tuple(message["content"] for message in dataset._messages("validation", index)) for index in range(3)]
    assert found == lines


# `datasets` 5.2 leaves metadata.csv open until it is collected.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_numbers_of_a_metadata_csv_stay_as_they_are_written(own: Path) -> None:
    folder = own / "folder"
    folder.mkdir()
    for name in (CAT, MOON):
        shutil.copy(own / name, folder)
    (folder / "metadata.csv").write_text(
        "file_name,question,answer\ncat.png,what ?,007\nmoon.png,NA,1\n", encoding="utf-8"
    )
    dataset = in_order(own, path="folder", images="image", question="question", answer="answer")
    assert dataset.open("validation") == 2
    assert dataset._messages("validation", 0)[1]["content"] == "007"
    assert "has null as its question" in (dataset.bad("validation", 1) or "")
    assert dataset.num_items("vision", "validation", 0) == 1
    gc.collect()


def test_a_row_of_csv_in_another_encoding_is_named(own: Path) -> None:
    (own / "train.csv").write_bytes(f"images,question,answer\n{CAT},what ?,a\n{CAT},caf\u00e9 ?,a\n".encode("latin-1"))
    dataset = in_order(own, path="train.csv", question="question", answer="answer")
    assert dataset.open("validation") == 2
    assert dataset.bad("validation", 0) is None
    assert "row 2 of the file, counted from 1: has bytes in its text that" in (dataset.bad("validation", 1) or "")


def test_rows_with_the_columns_of_agents_traces_are_rows(own: Path) -> None:
    write_rows(own, [{**talk(ASKED, ANSWER), "source": "here", "model": "none", "system_prompt": "is"}])
    assert scored(own) == [11, FLOWER, END]


def test_a_question_that_is_null_is_a_bad_sample(own: Path) -> None:
    write_rows(own, [{"images": [CAT], "question": said, "answer": "a flower"} for said in (None, "what ?")])
    dataset = in_order(own, question="question", answer="answer")
    assert "has null as its question; give it text, '' for none" in (dataset.bad("validation", 0) or "")


def test_a_row_in_another_encoding_is_named_and_can_be_left_out(own: Path) -> None:
    good, bad = (json.dumps(talk(ASKED, {**ANSWER, "content": said}), ensure_ascii=False) for said in ("a", "\u00e9"))
    (own / "train.jsonl").write_bytes(f"{good}\n".encode() + f"{bad}\n".encode("latin-1"))
    dataset = in_order(own)
    dataset.open("validation")
    assert dataset.bad("validation", 0) is None
    expected = r"train\.jsonl, .* row 2 of the file.*: has bytes in its text that are not UTF-8; save it as UTF-8"
    assert re.search(expected, dataset.bad("validation", 1) or "")
    with pytest.raises(DataError, match=expected):
        dataset.text("validation", 1)


# Tools and columns of media


CALLS = "{% for call in message.tool_calls %}{{ call.function.arguments }} {% endfor %}</s>"
PARQUET_CALLS = [
    {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": name, "arguments": arguments}}]}
    for name, arguments in (("picture", {"of": "a"}), ("flower", {"is": None, "what": "this"}))
]


def test_nulls_that_parquet_adds_for_arguments_of_other_tools_are_not_rendered(own: Path) -> None:
    processor = with_template(own, own_images.TEMPLATE.replace("</s>", CALLS))
    datasets.Dataset.from_list(
        [{"images": [], "messages": [{**ASKED, "tool_calls": None}, call]} for call in PARQUET_CALLS]
    ).to_parquet(own / "train.parquet")
    dataset = in_order(own, path="train.parquet", processor=processor)
    dataset.open("validation")
    arguments = [
        dataset._messages("validation", index)[1]["tool_calls"][0]["function"]["arguments"] for index in range(2)
    ]
    assert arguments == [{"of": "a"}, {"what": "this"}]


def test_nulls_that_a_line_of_json_says_stay(own: Path) -> None:
    write_rows(own, [talk(ASKED, call) for call in PARQUET_CALLS])
    dataset = in_order(own)
    dataset.open("validation")
    arguments = dataset._messages("validation", 1)[1]["tool_calls"][0]["function"]["arguments"]
    assert arguments == {"is": None, "what": "this"}


TOOL = {"type": "function", "function": {"name": "picture", "parameters": {}}}


@pytest.mark.parametrize("tools", [[TOOL], json.dumps([TOOL])])
def test_tools_of_a_row_reach_the_template(own: Path, tools: Any) -> None:
    template = "{% for tool in tools or [] %}{{ tool.function.name }} {% endfor %}" + own_images.TEMPLATE
    processor = with_template(own, template)
    write_rows(own, [{**talk(ASKED, ANSWER), "tools": tools}])
    assert rendered(own, processor=processor)[:3] == [12, 1, 3]  # picture <s> USER:


@pytest.mark.parametrize("tools", [None, [], "[]", ""])
def test_a_row_without_tools_may_say_so(own: Path, tools: Any) -> None:
    write_rows(own, [{**talk(ASKED, ANSWER), "tools": tools}])
    assert scored(own) == [11, FLOWER, END]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"tools": [TOOL]}, "has tools, which the chat template does not write; use a template that does, or remove"),
        ({"tools": "[{"}, "has tools that are no JSON: "),
        ({"tools": "{}1"}, "has tools that are no JSON: "),
        ({"tools": "5"}, "has 5 for its tools; give it a list of them"),
        ({"audios": ["a.wav"]}, "has audios, which are not read; remove the column, or drop the sample"),
        ({"videos": ["a.mp4"]}, "has videos, which are not read; "),
        (
            {"objects": {"ref": ["cat"]}, "messages": [ASKED, {**ANSWER, "content": "a <bbox>"}]},
            "has <bbox> in its text, and the column 'objects' that fills it is not read; write it out",
        ),
    ],
)
def test_columns_that_would_change_what_is_trained_are_refused(
    own: Path, changes: dict[str, Any], expected: str
) -> None:
    write_rows(own, [{**talk(ASKED, ANSWER), **changes}])
    assert expected in (in_order(own).bad("validation", 0) or "")


def test_columns_of_media_that_are_empty_are_no_matter(own: Path) -> None:
    write_rows(own, [{**talk(ASKED, ANSWER), "audios": [], "videos": None, "objects": {"ref": [], "bbox": []}}])
    assert scored(own) == [11, FLOWER, END]


# Images that parts of messages name


def part(name: str, spelling: str) -> dict[str, Any]:
    """An image as a part of a message, as the field spells it."""
    spelled: dict[str, dict[str, Any]] = {
        "image": {"type": "image", "image": name},
        "path": {"type": "image", "path": name},
        "url": {"type": "image", "url": name},
        "image_url": {"type": "image_url", "image_url": {"url": name}},
        "input_image": {"type": "input_image", "image_url": name},
    }
    return spelled[spelling]


SPELLINGS = ("image", "path", "url", "image_url", "input_image")


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_images_that_parts_name_are_read_without_a_column(own: Path, spelling: str) -> None:
    write_rows(own, [{"messages": content([part(CAT, spelling), QUESTION])}])
    dataset = in_order(own)
    assert dataset.open("validation") == 1
    assert dataset.num_items("vision", "validation", 0) == 1
    assert int((dataset.text("validation", 0).tokens == IMAGE_TOKEN_ID).sum()) == 16
    found = dataset.encoder_inputs("vision", "validation", 0)
    write_rows(own, [{"images": [CAT], "messages": content([{"type": "image"}, QUESTION])}])
    assert torch.equal(found, in_order(own).encoder_inputs("vision", "validation", 0))


def test_images_of_parts_are_counted_and_part_of_the_fingerprint(own: Path) -> None:
    write_rows(own, [{"messages": content([part(CAT, "image_url"), part(MOON, "image"), QUESTION])}])
    data = section(own, validation="train")
    contents = read_contents(data, ("train",), most_images=3)
    assert contents is not None
    assert contents.most_images == 2
    images = read_fingerprint(data).images
    assert images is not None
    assert images.num_files == 2
    assert images.num_bytes == sum((own / name).stat().st_size for name in (CAT, MOON))


def test_an_image_written_as_base64_is_read(own: Path) -> None:
    written = base64.b64encode((own / CAT).read_bytes()).decode()
    url = f"data:image/png;base64,{written}"
    write_rows(
        own,
        [
            {"images": [CAT], "messages": content([{"type": "image"}, QUESTION])},
            {"images": [url], "messages": content([{"type": "image"}, QUESTION])},
            {"images": [], "messages": content([part(url, "image_url"), QUESTION])},
            {"images": [], "messages": content([{"type": "image", "base64": written}, QUESTION])},
        ],
    )
    dataset = in_order(own)
    dataset.open("validation")
    expected, *found = (dataset.encoder_inputs("vision", "validation", index) for index in range(4))
    assert all(torch.equal(one, expected) for one in found)
    write_rows(own, [{"images": [{"path": None, "bytes": written}], "messages": [ASKED, ANSWER]}])
    assert torch.equal(in_order(own).encoder_inputs("vision", "validation", 0), expected)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_parts_that_name_the_images_of_the_column_agree_with_it(own: Path, spelling: str) -> None:
    write_rows(own, [{"images": [CAT, MOON], "messages": content([part(CAT, spelling), {"type": "image"}, QUESTION])}])
    assert in_order(own).bad("validation", 0) is None


@pytest.mark.parametrize(
    ("images", "parts", "expected"),
    [
        ([CAT], [part(MOON, "image_url")], f"names {MOON} in its messages and {CAT} in the column; make both the same"),
        ([CAT, MOON], [part(MOON, "image"), part(CAT, "image")], f"names {MOON} in its messages and {CAT} in the col"),
        ([CAT], [part(CAT, "path"), part(MOON, "path")], "places 2 images in its messages and has 1; make both the sa"),
        ([], [part(CAT, "path"), {"type": "image"}], "places 2 images in its messages and has 0; make both the same"),
        (["data:image/png;base64,AAAA"], [{"type": "image"}], "an image of 3 bytes is no image that Pillow knows"),
        (["data:image/png;base64,A"], [{"type": "image"}], "has an image that is no base64: "),
    ],
)
def test_images_of_messages_and_column_that_differ_are_refused(
    own: Path, images: list[str], parts: list[dict[str, Any]], expected: str
) -> None:
    write_rows(own, [{"images": images, "messages": content([*parts, QUESTION])}])
    assert expected in (in_order(own).bad("validation", 0) or "")


def test_the_usual_placeholder_is_an_image_whatever_the_processor_calls_its_own(own: Path) -> None:
    folder = shutil.copytree(own / "processor", own / "renamed")
    for file in folder.iterdir():
        file.write_text(file.read_text(encoding="utf-8").replace("<image>", "<|image_pad|>"), encoding="utf-8")
    in_text = [{"type": "text", "text": "<image> what is this ?"}]
    write_rows(own, [row(0), {"images": [CAT], "messages": content(in_text)}])
    tokens = rendered(own)
    assert rendered(own, processor="renamed") == tokens
    for processor in ("processor", "renamed"):
        reason = in_order(own, processor=processor).bad("validation", 1) or ""
        assert "is rendered with 2 of <image> and has 1 image; place each as a part of the type 'image'" in reason


# ShareGPT's and LLaVA's rows


SAID = {"from": "gpt", "value": "a flower"}
LLAVA: list[dict[str, Any]] = [
    {"id": "1", "image": CAT, "conversations": [{"from": "human", "value": "<image> what ?"}, SAID]},
    {"id": "2", "conversations": [{"from": "human", "value": "what ?"}, SAID]},
]


@pytest.mark.parametrize("file", ["train.jsonl", "train.json", "train.parquet"])
def test_rows_of_llava_are_read_as_they_are(own: Path, file: str) -> None:
    if file.endswith("parquet"):
        datasets.Dataset.from_list([{"image": None, **said} for said in LLAVA]).to_parquet(own / file)
    else:
        lines = "".join(json.dumps(said) + "\n" for said in LLAVA)
        (own / file).write_text(lines if file.endswith("l") else json.dumps(LLAVA), encoding="utf-8")
    found = [rendered(own, index, path=file) for index in range(2)]
    write_rows(
        own,
        [
            {"images": [CAT], "messages": [{"role": "user", "content": "<image> what ?"}, ANSWER]},
            {"images": [], "messages": [{"role": "user", "content": "what ?"}, ANSWER]},
        ],
    )
    assert found == [rendered(own, index) for index in range(2)]
    assert scored(own, path=file) == [11, FLOWER, END]
    images = read_fingerprint(section(own, path=file)).images
    assert images is not None
    assert images.num_files == 1


def test_other_names_of_roles_are_a_setting(own: Path) -> None:
    said = [{"from": "asker", "value": "what ?"}, {"from": "bot", "value": "a flower"}]
    write_rows(own, [{"images": [], "conversations": said}])
    assert "role 'asker' of message 0 is not known; " in (in_order(own).bad("validation", 0) or "")
    assert scored(own, roles={"asker": "user", "bot": "assistant"}) == [11, FLOWER, END]
    assert "roles" not in section(own).model_dump()


def test_columns_that_a_scenario_names_are_not_replaced(own: Path) -> None:
    write_rows(own, [{"image": CAT, "conversations": LLAVA[0]["conversations"]}])
    with pytest.raises(DataError, match=r"has no column 'talk', which data\.messages names"):
        in_order(own, messages="talk").open("validation")


def test_text_alone_is_asked_for_with_an_empty_column(own: Path) -> None:
    write_rows(own, [{"messages": [ASKED, ANSWER]}])
    with pytest.raises(DataError, match=r"no column 'images', .*; add it, with an empty list where there are none$"):
        in_order(own).open("validation")


def test_shards_of_webdataset_are_refused_as_such(own: Path) -> None:
    (own / "shards").mkdir()
    with tarfile.open(own / "shards" / "0.tar", "w") as shard:
        for name, said in (("a.png", (own / CAT).read_bytes()), ("a.json", json.dumps(row(0)).encode())):
            entry = tarfile.TarInfo(name)
            entry.size = len(said)
            shard.addfile(entry, io.BytesIO(said))
    with pytest.raises(DataError, match="holds shards of WebDataset, which are not read; convert them to Parquet"):
        in_order(own, path="shards").open("validation")


def test_samples_that_cannot_fit_are_refused_before_anything_starts(own: Path) -> None:
    write_rows(own, [{"images": [CAT] * count, "messages": [ASKED, ANSWER]} for count in (5, 4)])
    expected = (
        r"every sample has more images than fit, the fewest 4, and a sequence holds 3; use a longer seq_length or fewer"
    )
    with pytest.raises(DataError, match=expected):
        read_contents(section(own), ("train",), most_images=(SEQ_LENGTH - 1) // 16)


def test_defaults_of_own_data_are_part_of_no_hash() -> None:
    fields = HuggingFaceData.model_validate({"provider": "huggingface", "path": "a/b", "processor": "c"})
    assert set(fields.model_dump()) == {
        "provider", "path", "train", "validation", "test", "processor", "images", "messages", "question", "answer",
        "on_bad_sample",
    }  # fmt: skip
