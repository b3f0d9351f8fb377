"""The deny list of words, which `nox -s lint` applies to docstrings, comments, messages and pages."""

from pathlib import Path

import pytest

from tests import prose


def test_no_denied_word_is_in_the_package_or_its_pages() -> None:
    assert prose.main() == 0


@pytest.mark.parametrize(
    ("planted", "complaint"),
    [
        ('"""What a layout needs."""\n', "docstring begins with 'What': begin with a verb or a noun"),
        ("# Nobody reads this.\n", "'Nobody': name the actor: the rank, the launcher, the user"),
        ('reason = "the layout is held\\nagainst the baseline"\n', "'held against': compare with"),
    ],
)
def test_a_planted_word_is_found(
    planted: str, complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mimo_bench").mkdir()
    (tmp_path / "mimo_bench" / "planted.py").write_text(planted, encoding="utf-8")
    (tmp_path / "README.md").write_text("Layouts.\n", encoding="utf-8")
    assert prose.main(tmp_path) == 1
    assert f"mimo_bench/planted.py:1: {complaint}" in capsys.readouterr().out


def test_a_planted_word_on_a_page_is_found_and_one_in_its_code_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "README.md").write_text("```\nbeside\n```\nThe rank lies in a group.\n", encoding="utf-8")
    assert prose.main(tmp_path) == 1
    assert capsys.readouterr().out == "README.md:4: 'lies in': is stored in, is in\n"
