"""`mimo-bench run` in a process of its own, on GPUs or on CPU ranks, and what both must agree in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from mimo_bench.parity.tolerance import PARITY_FLOOR
from mimo_bench.predict.validate import validate
from mimo_bench.record import LayoutRecord, RunRecord
from mimo_bench.record.files import read_run
from mimo_bench.util.diff import relative

REPOSITORY = Path(__file__).parents[2]

SCENARIO = """
question = "Does a GPU train what a CPU trains?"
model = "llava-tiny"
global_batch_size = 4
global_micro_batch_size = 2
seq_length = 32
baseline = "colocated"

[steps]
parity = 3
warmup = 1
timed = 2

[[layout]]
name = "colocated"
vision = { dp = 2 }
language = { dp = 2 }

[[layout]]
name = "fan-in"
vision = { dp = 2 }
language = { tp = 2 }
settings = { sequence_parallel = true, distributed_optimizer = true }

[[layout]]
name = "disjoint"
vision = {}
language = { rank_offset = 1 }
settings = { recompute_activations = true }

# Compiled code calls its collectives without Python: they have to be counted all the same.
[[layout]]
name = "compiled"
vision = { dp = 2 }
language = { tp = 2 }
settings = { compile_layers = true, fused_gradient_accumulation = true, fused_activation = true, fused_rope = true }
"""


def run(scenario: Path, out: Path, *options: str) -> tuple[int, RunRecord]:
    """Its exit status and its record."""
    command = [sys.executable, "-m", "mimo_bench", "run", str(scenario), "--out", str(out), *options]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=400, check=False)
    assert "Traceback" not in ended.stderr, ended.stderr
    validate(out)
    return ended.returncode, read_run(out)


def by_name(record: RunRecord) -> dict[str, LayoutRecord]:
    """Layouts by their names."""
    return {layout.name: layout for layout in record.layouts}


def hold_against_cpu(on_gpus: RunRecord, on_cpu: RunRecord) -> None:
    """Assert that every step of every layout has the loss and the gradient norms that it has on CPU ranks."""
    expected = by_name(on_cpu)
    for name, layout in by_name(on_gpus).items():
        assert relative_errors(layout.losses, expected[name].losses) <= PARITY_FLOOR.loss_rel, name
        for module, norms in layout.grad_norms.items():
            errors = relative_errors(norms, expected[name].grad_norms[module])
            assert PARITY_FLOOR.grad_norm_rel is not None
            assert errors <= PARITY_FLOOR.grad_norm_rel, (name, module)


def relative_errors(found: tuple[float | None, ...], expected: tuple[float | None, ...]) -> float:
    """The largest; infinite where one is unknown."""
    errors = [relative(one, other) for one, other in zip(found, expected, strict=True)]
    return max(float("inf") if error is None else error for error in errors)
