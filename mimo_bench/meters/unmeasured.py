"""Meters without a result, and the reason: a meter that fails gives nothing and says so, and the training goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any


class Unmeasured:
    """Reasons by meter."""

    def __init__(self) -> None:
        """Nothing has failed yet."""
        self.reasons: dict[str, str] = {}

    def attempt[Value](self, meter: str, read: Callable[[], Value]) -> Value | None:
        """Return what `read` returns, or None and a reason where it fails.

        Only for what touches no other rank: a rank that gave up a collective would leave its peers hanging.
        """
        try:
            return read()
        except Exception as error:  # whatever a driver, a file or a format may come up with
            self.reasons.setdefault(meter, f"{type(error).__name__}: {error}".partition("\n")[0])
            return None

    @contextmanager
    def entered(self, meter: str, watch: AbstractContextManager[Any]) -> Iterator[None]:
        """Run the block inside of `watch`, or without it where it cannot be entered."""
        with ExitStack() as stack:
            self.attempt(meter, lambda: stack.enter_context(watch))
            yield

    def guarded[**Arguments](self, meter: str, tell: Callable[Arguments, None]) -> Callable[Arguments, None]:
        """`tell` as something that never raises, for those whom the training calls."""

        def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
            self.attempt(meter, lambda: tell(*args, **kwargs))

        return call
