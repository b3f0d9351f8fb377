"""A test file that became slow fails the session; a slow machine does not."""

from __future__ import annotations

from pathlib import Path

from tests.support.budget import exceeded, pace, read_budgets

REPOSITORY = Path(__file__).parents[1]
BUDGETS = {f"tests/test_{index}.py": 20.0 for index in range(9)}


def test_a_file_that_takes_more_than_half_above_its_budget_is_named() -> None:
    (line,) = exceeded(BUDGETS | {"tests/test_3.py": 41.0}, BUDGETS)
    assert line == (
        "tests/test_3.py: 41 s: more than 40 s, which its budget of 20 s allows at a pace of 1.0; "
        "make it faster, or raise it in tests/budget.toml"
    )
    assert exceeded(BUDGETS | {"tests/test_3.py": 39.0}, BUDGETS) == []


def test_a_machine_of_half_the_speed_exceeds_nothing_and_hides_nothing() -> None:
    slow = {file: 2 * seconds for file, seconds in BUDGETS.items()}
    assert pace(slow, BUDGETS) == 2.0
    assert exceeded(slow, BUDGETS) == []
    assert [line.split(":")[0] for line in exceeded(slow | {"tests/test_8.py": 71.0}, BUDGETS)] == ["tests/test_8.py"]


def test_a_fast_machine_lowers_no_limit() -> None:
    fast = {file: 0.25 * seconds for file, seconds in BUDGETS.items()}
    assert exceeded(fast | {"tests/test_8.py": 39.0}, BUDGETS) == []


def test_a_file_without_a_budget_has_a_small_one() -> None:
    assert exceeded(BUDGETS | {"tests/test_new.py": 14.0}, BUDGETS) == []
    (line,) = exceeded(BUDGETS | {"tests/test_new.py": 15.0}, BUDGETS)
    assert line.startswith("tests/test_new.py: 15 s: more than 14 s, which its budget of 3 s allows")


def test_a_few_files_on_their_own_are_not_judged() -> None:
    assert exceeded({"tests/test_3.py": 900.0}, BUDGETS) == []


def test_every_file_with_a_budget_exists() -> None:
    assert [file for file in read_budgets() if not (REPOSITORY / file).is_file()] == []
