"""`mimo-bench check` reads the first samples of a user's own files as ranks would."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from examples import own_images
from mimo_bench.cli.app import main
from mimo_bench.data.config import SyntheticData
from mimo_bench.report.check.data import notes
from tests.data.test_huggingface import MISSING, NO_ANSWER, in_order, write_rows, write_scenario
from tests.support import golden
from tests.support.pictures import row, write_folder


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


def check(scenario: Path, capsys: pytest.CaptureFixture[str], *, status: int) -> tuple[list[str], list[str]]:
    """Return the lines about samples that `check` prints, and its errors."""
    assert main(["check", str(scenario)]) == status
    out, err = capsys.readouterr()
    _, _, samples = out.partition("samples as ranks read them, ")
    return samples.partition("\n\n")[0].splitlines(), err.splitlines()


def test_check_prints_a_sample_as_it_is_trained_on_and_columns_that_nothing_reads(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows(own, [{**row(0), "source": "here", "chosen": "this"}] * 24)
    said, errors = check(write_scenario(own, train="train[:75%]"), capsys, status=0)
    assert errors == []
    assert said == [
        "16 of train, 6 of validation; scored tokens are in brackets",
        *(
            f"  train.jsonl, split '{split}', row {number} of the file, counted from 1 ('sample-0'): 33 tokens, "
            "5 of them scored, 1 image: <s> USER: <image> x 16 what is this ? ASSISTANT: [astronaut </s>] "
            "USER: and that ? ASSISTANT: [a flower </s>]"
            for split, number in (("train[:75%]", 5), ("train[75%:]", 19))
        ),
        "  columns that nothing reads: source, chosen",
    ]


def test_check_names_every_bad_sample_that_it_reads_and_refuses_them(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows(own, [row(1), NO_ANSWER, MISSING])
    _, errors = check(write_scenario(own, validation="train[:1]"), capsys, status=2)
    assert [error.partition("counted from 1")[2][:40] for error in sorted(errors)] == [
        " ('sample-0'): has no answer to learn; g",
        " ('sample-0'): image " + str(own / "pictures")[:19],
    ]


def test_samples_that_are_skipped_are_named_and_refused_only_if_none_is_left(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows(own, [row(1), NO_ANSWER])
    file = write_scenario(own, validation="train[:1]", on_bad_sample="skip")
    said, errors = check(file, capsys, status=0)
    assert errors == []
    (left_out,) = (line for line in said if line.startswith("  left out: "))
    assert "row 2 of the file, counted from 1 ('sample-0'): has no answer to learn" in left_out
    write_rows(own, [NO_ANSWER, NO_ANSWER])
    _, errors = check(file, capsys, status=2)
    assert len(errors) == 3


def test_a_template_that_ends_no_answer_is_one_warning(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_rows(own, [row(index) for index in range(24)])
    shutil.copytree(own / "processor", own / "endless")
    template = own_images.TEMPLATE.replace("</s> ", "")
    (own / "endless" / "chat_template.jinja").write_text(template, encoding="utf-8")
    changes: dict[str, Any] = {"train": "train[:75%]"}
    said, _ = check(write_scenario(own, processor="endless", **changes), capsys, status=0)
    (warning,) = (line for line in said if "warning" in line)
    assert warning == (
        "  warning: the chat template writes nothing after the last answer of 22 samples, so no end is scored, and the "
        "model does not learn to stop; let it write the tokenizer's eos_token there"
    )
    said, _ = check(write_scenario(own, **changes), capsys, status=0)
    assert not any("warning" in line for line in said)


def test_a_template_that_writes_the_date_writes_the_same_on_every_day(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows(own, [row(index) for index in range(24)])
    shutil.copytree(own / "processor", own / "dated")
    file, scenario = own / "dated" / "chat_template.jinja", write_scenario(own, processor="dated", train="train[:75%]")
    file.write_text("{{ strftime_now('%d %b %Y') }} " + own_images.TEMPLATE, encoding="utf-8")
    chat = in_order(own, processor="dated")._chat
    assert chat._render([], None).startswith("26 Jul 2024 <s>")
    said, _ = check(scenario, capsys, status=0)
    assert said[-1] == "  the chat template writes the date, which is 26 July 2024 in every sample"
    file.write_text("{{ strftime_now(format) }} " + own_images.TEMPLATE, encoding="utf-8")
    _, errors = check(scenario, capsys, status=2)
    assert "data.processor: 'dated': the chat template writes the date in a format that is no text" in errors[0]


IDLE = (
    "warning: no sample has an item for vision, which gets no gradient, so every layout fails parity; add it to "
    'training.freeze, as in freeze = ["vision"]'
)


def test_samples_without_any_image_are_a_warning_unless_the_encoder_is_frozen(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows(own, [row(2)] * 24)
    file = write_scenario(own, train="train[:75%]")
    for freeze, expected in (("", [IDLE]), ('[training]\nfreeze = ["vision"]\n', [])):
        file.write_text(file.read_text(encoding="utf-8") + freeze, encoding="utf-8")
        assert main(["check", str(file)]) == 0
        assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")] == expected


@pytest.mark.parametrize(
    ("data", "is_idle"),
    [
        ({"text_only_share": 1.0}, True),
        ({"items_per_sample": {"vision": (1.0,)}}, True),
        ({"items_per_sample": {"vision": (9.0, 1.0)}}, False),
    ],
)
def test_drawn_samples_without_any_image_are_a_warning_too(data: dict[str, Any], is_idle: bool) -> None:
    scenario = golden.scenario().model_copy(update={"data": SyntheticData(**data)})
    assert (IDLE in notes(scenario)) == is_idle
