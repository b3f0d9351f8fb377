"""Selection of layouts by name: globs of `--layout`, and expressions of `-k` as pytest has them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

from mimo_bench.util import UsageError, choices

REMEDY = "write parts of names with and, or, not and parentheses, such as 'tp2 and not pp2'"


def match_globs(names: Sequence[str], patterns: Sequence[str], *, option: str) -> tuple[str, ...]:
    """Return the names that any pattern matches, in their order.

    Raises:
        UsageError: a pattern matches none.
    """
    for pattern in patterns:
        if not any(_matches(name, pattern) for name in names):
            raise UsageError(f"{option}: no layout is called {pattern!r}; {choices(pattern, names)}")
    return tuple(name for name in names if any(_matches(name, pattern) for pattern in patterns))


def _matches(name: str, pattern: str) -> bool:
    return name == pattern or fnmatchcase(name, pattern)


def match_expression(names: Sequence[str], expression: str) -> tuple[str, ...]:
    """Return the names for which `expression` is true: each word of it is, if the name contains it.

    Raises:
        UsageError: it cannot be read, or is true for none.
    """
    found = tuple(name for name in names if _Evaluation(expression, name).result())
    if not found:
        raise UsageError(f"-k: {expression!r} matches no layout; the layouts are {', '.join(names)}")
    return found


class _Evaluation:
    """Recursive descent over an expression, for one name; `or` binds loosest, `not` tightest."""

    def __init__(self, expression: str, name: str) -> None:
        self._expression, self._name = expression, name
        self._left = re.findall(r"[()]|[^\s()]+", expression)

    def result(self) -> bool:
        value = self._any_of()
        if self._left:
            raise UsageError(f"-k: {self._expression!r}: {self._left[0]!r} is not expected there; {REMEDY}")
        return value

    def _any_of(self) -> bool:
        value = self._all_of()
        while self._take("or"):
            # Both sides are read, whatever the first is.
            value = self._all_of() or value
        return value

    def _all_of(self) -> bool:
        value = self._one()
        while self._take("and"):
            value = self._one() and value
        return value

    def _one(self) -> bool:
        if self._take("not"):
            return not self._one()
        if self._take("("):
            value = self._any_of()
            if not self._take(")"):
                raise UsageError(f"-k: {self._expression!r}: ')' is missing; {REMEDY}")
            return value
        if not self._left or self._left[0] in (")", "and", "or"):
            raise UsageError(f"-k: {self._expression!r}: a part of a name is missing; {REMEDY}")
        return self._left.pop(0).lower() in self._name.lower()

    def _take(self, token: str) -> bool:
        if self._left[:1] != [token]:
            return False
        self._left.pop(0)
        return True
