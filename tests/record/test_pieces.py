"""A JSON file piece by piece: the same values as read at once, wherever reading stops, and the same complaints."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from mimo_bench.record.pieces import pieces
from mimo_bench.util.errors import RecordError

PATH = Path("run.json")


class Trickle(io.StringIO):
    """A file that gives a few characters at a time, however many are asked for."""

    def __init__(self, text: str, *, num_chars: int) -> None:
        super().__init__(text)
        self._num_chars = num_chars

    def read(self, size: int | None = -1, /) -> str:
        """Fewer than asked for."""
        return super().read(self._num_chars)


def put_together(text: str, *, num_chars: int = 1) -> dict[str, Any]:
    """The object in `text`, from its pieces; the array `long` is split."""
    whole: dict[str, Any] = {}
    for place, piece in pieces(PATH, Trickle(text, num_chars=num_chars), split="long"):
        if len(place) == 1:
            whole[place[0]] = json.loads(piece)
        else:
            assert place == ("long", len(whole["long"]))
            whole["long"].append(json.loads(piece))
    return whole


TEXT = some.text('a1e-.,:"\\[]{} \n\u00e9\u2028', max_size=5)
VALUES = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@given(
    members=some.dictionaries(some.sampled_from(["long", "short", "", '"', "][", "lo\\ng"]), VALUES),
    indent=some.sampled_from([None, 0, 2]),
    num_chars=some.integers(1, 9),
    ensure_ascii=some.booleans(),
)
def test_pieces_are_the_object_wherever_reading_stops(
    members: dict[str, Any], indent: int | None, num_chars: int, ensure_ascii: bool
) -> None:
    text = json.dumps(members, indent=indent, ensure_ascii=ensure_ascii)
    assert put_together(text, num_chars=num_chars) == members


@pytest.mark.parametrize("number", ["0", "-12", "1.5", "1e5", "2E+07", "-3.25e-10"])
def test_a_number_is_never_cut_in_two(number: str) -> None:
    assert put_together(f'{{"long": [{number}], "short": {number}}}') == {
        "long": [float(number)],
        "short": float(number),
    }


def test_the_text_of_a_piece_is_that_of_the_file() -> None:
    text = ' {"short" : {"a":  0.10} ,\n"long":[ "\\u00e9" , [1 , 2]\t] } \n'
    assert list(pieces(PATH, io.StringIO(text), split="long")) == [
        (("short",), '{"a":  0.10}'),
        (("long",), "[]"),
        (("long", 0), '"\\u00e9"'),
        (("long", 1), "[1 , 2]"),
    ]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", r"not valid JSON: Expecting value: line 1 \(char 0\)"),
        ("{", r"not valid JSON: Expecting a name in double quotes: line 1 \(char 1\)"),
        ('{"a"', r"not valid JSON: Expecting ':': line 1 \(char 4\)"),
        ('{"a": 1,\n}', r"not valid JSON: Expecting a name in double quotes: line 2 \(char 9\)"),
        ('{"a": 1\n "b": 2}', r"not valid JSON: Expecting ',' or '}': line 2 \(char 9\)"),
        ('{"long": [1,\n2\n3]}', r"not valid JSON: Expecting ',' or '\]': line 3 \(char 15\)"),
        ('{"long": [{"a": [1, 2', r"not valid JSON: Expecting ',' delimiter: line 1 \(char 21\)"),
        ('{"long": [1, "cut sh', r"not valid JSON: Unterminated string starting at: line 1 \(char 13\)"),
        ('{"a": 1}}', r"not valid JSON: Extra data: line 1 \(char 8\)"),
        ('{"a": {"b": [1.5, -Infinity]}}', "holds -Infinity, which is not JSON; an unknown number is null"),
        ('{"long": [NaN]}', "holds NaN, which is not JSON"),
        ("[1]", "holds list where an object is expected"),
        ("12", "holds int where an object is expected"),
    ],
)
@pytest.mark.parametrize("num_chars", [1, 100])
def test_what_is_no_json_object_is_refused_with_the_place(text: str, complaint: str, num_chars: int) -> None:
    with pytest.raises(RecordError, match=rf"^run\.json: {complaint}"):
        put_together(text, num_chars=num_chars)
