"""Standard output and standard error that end no command: closed, full, or without a character that is printed."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Buffer, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import TextIO


class Output(io.FileIO):
    """A stream of the process; after the first write that fails, what is written is dropped."""

    error: OSError | None = None
    """Why output is missing."""

    def write(self, content: Buffer, /) -> int:
        """Write `content`, and return how many bytes are done with."""
        if self.error is None:
            try:
                return super().write(content)
            except OSError as error:
                self.error = error
        return memoryview(content).nbytes


@contextmanager
def lasting_output() -> Iterator[Output]:
    """Replace the process's own standard streams in the block; yield the one that is standard output."""
    # A file that is opened later must not take the number of a closed stream: what is printed would go there.
    while (spare := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(spare)
    output, errors = (Output(descriptor, "w", closefd=False) for descriptor in (1, 2))
    with redirect_stdout(_lasting(sys.stdout, output)), redirect_stderr(_lasting(sys.stderr, errors)):
        yield output
        sys.stdout.flush()
        # A reader that closes its pipe, such as `head`, has what it wants.
        if output.error is not None and output.error.errno != errno.EPIPE:
            print(f"mimo-bench: standard output: {output.error.strerror}; the rest is not shown", file=sys.stderr)
        sys.stderr.flush()


def _lasting(stream: TextIO | None, output: Output) -> TextIO:
    """Return a stream over `output` in place of the process's own `stream`; another, as a test's, stays."""
    if stream is not None and stream not in (sys.__stdout__, sys.__stderr__):
        return stream
    encoding = stream.encoding if stream is not None else "utf-8"
    return io.TextIOWrapper(io.BufferedWriter(output), encoding, errors="replace", line_buffering=output.isatty())
