"""A model and samples of your own, on two ranks: torchrun --nproc-per-node 2 examples/own_model.py OUT"""

import sys
from pathlib import Path

import torch

from mimo_bench.layout import Grid, Layout
from mimo_bench.models import PRESETS
from mimo_bench.trainer import Logging, Pretraining, Saving, Text, Validation, build_model, pretrain

SHAPE = PRESETS["llava-tiny"]


class BrightImages:  # images of one grey, and the question how bright they are
    def num_items(self, module, split, sample_id):
        return 1

    def encoder_inputs(self, module, split, sample_id, device="cpu"):
        return torch.full((1, 3, 16, 16), (sample_id % 9) / 9, device=device)

    def text(self, split, sample_id):
        tokens = torch.tensor([*[SHAPE.language.image_token_id] * SHAPE.vision.num_tokens, 10, 11, 1 + sample_id % 9])
        return Text(tokens=tokens, is_answer=torch.arange(len(tokens)) == len(tokens) - 1)


def provider(shape, **build):  # LLaVA with another activation in its projector
    model = build_model(shape, **build)
    for module in model.modality_submodules.values():
        module.input_projections[0].encoder.activation_func = torch.tanh
    return model


run = Pretraining(shape=SHAPE, seq_length=32, global_batch_size=18, global_micro_batch_size=9, num_steps=20,
                  validation=Validation(every=10, num_batches=1), logging=Logging(directory=Path(sys.argv[1])),
                  saving=Saving(directory=Path(sys.argv[1], "checkpoints"), every=10))  # fmt: skip
layout = Layout(modules={"vision": Grid(), "language": Grid(rank_offset=1)})
pretrain(run, layout=layout, data=BrightImages(), provider=provider)
