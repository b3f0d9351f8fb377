"""Steps taken by hand instead of by `pretrain`: torchrun --nproc-per-node 2 examples/own_loop.py

Whoever writes this loop also evaluates and saves; `train` does both, and goes on from a checkpoint.
"""

from contextlib import closing

from mimo_bench.layout import Grid, Layout, Settings
from mimo_bench.models import PRESETS
from mimo_bench.scenario import Training
from mimo_bench.trainer import Pretraining, evaluate, join, set_up

run = Pretraining(
    shape=PRESETS["llava-tiny"],
    seq_length=48,
    global_batch_size=8,
    global_micro_batch_size=4,
    num_steps=4,
    training=Training(learning_rate=1e-3),
    settings=Settings(distributed_optimizer=True, fused_optimizer=True),  # how it trains; precision="bf16" on GPUs
)
layout = Layout(modules={"vision": Grid(), "language": Grid(rank_offset=1)})
trainer = set_up(run, layout=layout, data="synthetic", device=join("auto"))
taken = []
with closing(trainer.loader.batches("train", stop=run.num_steps)) as batches:
    for batch in batches:
        taken.append(trainer.train_step(batch))
losses = [step.result().loss for step in taken]  # read behind the loop, so that a GPU never waits for the host
held_out = evaluate(trainer, "validation", num_batches=1)
if trainer.topology.rank == 0:
    print(f"losses {losses}, held out {held_out.loss:.4f} over {held_out.num_samples} samples")
