"""LLaVA's two stages on handwritten digits, each resumed from its newest checkpoint, in any layout of two ranks.

torchrun --nproc-per-node 2 examples/digits_stages.py OUT 1 colocated
torchrun --nproc-per-node 2 examples/digits_stages.py OUT 2 colocated   # kill -9 it wherever you like,
torchrun --nproc-per-node 2 examples/digits_stages.py OUT 2 disjoint    # and go on in another layout
"""

import sys
from pathlib import Path

from mimo_bench.layout import Grid, Layout
from mimo_bench.models import PRESETS
from mimo_bench.scenario import Training
from mimo_bench.trainer import Logging, Outcome, Pretraining, Saving, Validation, pretrain

LAYOUTS = {
    "colocated": Layout(modules={"vision": Grid(dp=2), "language": Grid(dp=2)}),
    "disjoint": Layout(modules={"vision": Grid(), "language": Grid(rank_offset=1)}),
}
STAGES = {
    1: Training(learning_rate=1e-2, freeze=("vision.encoder", "language")),
    2: Training(learning_rate=1e-3, warmup_steps=4, decay="cosine", decay_steps=300, final_rate_share=0.1),
}


def run_stage(out: Path, stage: int, layout: str, *, num_steps: int, save_every: int) -> Outcome:
    """Train one stage to its end; the second starts from the weights that the first one left."""
    before = sorted((out / "stage1").glob("step-*"))
    run = Pretraining(
        shape=PRESETS["llava-tiny"],
        seq_length=24,
        global_batch_size=64,
        global_micro_batch_size=32,
        num_steps=num_steps,
        training=STAGES[stage],
        weights=before[-1] if stage == 2 else None,
        validation=Validation(every=save_every, num_batches=2),
        saving=Saving(directory=out / f"stage{stage}", every=save_every, in_background=True),
        logging=Logging(directory=out / f"stage{stage}", module_grad_norms=True),
    )
    return pretrain(run, layout=LAYOUTS[layout], data="digits", device="cpu")


if __name__ == "__main__":
    run_stage(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], num_steps=300, save_every=50)
