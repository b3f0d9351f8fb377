"""A layout of a scenario, trained without the bench: torchrun --nproc-per-node N examples/train_scenario.py ...

FILE LAYOUT STEPS OUT    saves to OUT after every tenth step and goes on from what it finds there
"""

import sys
from pathlib import Path

from mimo_bench.scenario import load_scenario
from mimo_bench.trainer import Logging, Pretraining, Saving, Validation, pretrain

file, name, num_steps, out = sys.argv[1:]
scenario = load_scenario(Path(file))
run = Pretraining.of(
    scenario,
    name,
    num_steps=int(num_steps),
    validation=Validation(every=10, num_batches=1),
    saving=Saving(directory=Path(out), every=10, in_background=True),
    logging=Logging(directory=Path(out), module_grad_norms=True),
)
pretrain(run, layout=scenario.table(name).grids(), data=scenario.data)
