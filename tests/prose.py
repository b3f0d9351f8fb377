"""Denied words in docstrings, comments, messages and Markdown: `python -m tests.prose`.

A word is denied because the field has a better one (docs/contributing/index.md, docs/glossary.md). Tests are not read.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]

DENIED = {
    r"h[eo]ld(s|ing)? (\w+ ){0,3}against": "compare with",
    r"beside": "next to, besides",
    r"some(body|one)|no(body| one)|whoever|every(body|one)": "name the actor: the rank, the launcher, the user",
    r"(is|are|was|were|be|been|being) (told|asked for)": "let the subject act",
    r"tells? of|told apart|tells? apart": "say, list, distinguish",
    r"(lies?|lay|lain) (in|on|below|under|there|here|beside)": "is stored in, is in",
    r"stands? (in|on|there|here)": "is in, is on",
    r"(go|goes|going|gone|went) on with": "resume, continue",
    r"turn(s|ed)? (apart|together)": "rotate, split",
    r"so many|as many as (asked|wanted)": "name the number",
    r"of (its|one's|their|your) own accord": "by itself",
    r"come(s)? about": "happen",
    r"to one's|one's": "a user's, your",
    r"thereof|therein|wherein|whereof|thereby": "of it, in it",
    r"up to now|by now|as of now|for now": "say the version or the date",
    r"dealt out|deals? out|dealing out": "split, assign",
    r"in the way of": "prevent",
    r"put to their places": "scatter",
    r"taken for (dead|hung|news)": "counts as",
    r"by whatever hand": "however it ended",
}
"""Pattern -> what to write instead."""

OPENING = re.compile(r"(What|Where|Of|Whether|How|The same)\b(?! (kind|number|rank))")
"""First words that no index would use; a docstring begins with a verb phrase or a noun phrase."""

_PATTERN = re.compile("|".join(rf"(?P<w{index}>\b(?:{word})\b)" for index, word in enumerate(DENIED)), re.IGNORECASE)


def main(repository: Path = REPOSITORY) -> int:
    """Print every denied word with its place and remedy; return 1 if there is one."""
    found = [*_in_python(repository), *_in_markdown(repository)]
    print("\n".join(found) or "no denied word")
    return 1 if found else 0


def complaints(text: str) -> Iterator[tuple[int, str]]:
    """Yield the line in `text`, from 0, and a complaint for each denied word."""
    for match in _PATTERN.finditer(re.sub(r"\s", " ", text)):
        index = int(str(match.lastgroup)[1:]) if match.lastgroup and match.lastgroup.startswith("w") else 0
        yield text.count("\n", 0, match.start()), f"{match[0]!r}: {list(DENIED.values())[index]}"


def _in_python(repository: Path) -> Iterator[str]:
    for path in sorted((repository / "mimo_bench").rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        name = path.relative_to(repository)
        tree = ast.parse(source)
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
                for line, complaint in complaints(node.value):
                    yield f"{name}:{node.lineno + line}: {complaint}"
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                docstring = ast.get_docstring(node)
                if docstring and (opening := OPENING.match(docstring)):
                    line = getattr(node, "lineno", 1)
                    yield f"{name}:{line}: docstring begins with {opening[0]!r}: begin with a verb or a noun"
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT:
                for _, complaint in complaints(token.string):
                    yield f"{name}:{token.start[0]}: {complaint}"


def _in_markdown(repository: Path) -> Iterator[str]:
    for path in [repository / "README.md", *sorted((repository / "docs").rglob("*.md"))]:
        text = re.sub(
            r"^```.*?^```", lambda m: "\n" * m[0].count("\n"), path.read_text(encoding="utf-8"), flags=re.M | re.S
        )
        for line, complaint in complaints(text):
            yield f"{path.relative_to(repository)}:{line + 1}: {complaint}"


if __name__ == "__main__":
    sys.exit(main())
