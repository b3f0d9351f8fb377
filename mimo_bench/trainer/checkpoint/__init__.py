"""Checkpoints of a training: resumed bit for bit in the same layout, and with parity in any other.

A checkpoint holds canonical full tensors, not slices, so no layout is written into it:

    DIR/step-00000120/
        checkpoint.json                  what was trained, and how far; size and SHA-256 of each file below
        weights.json                     makes it a directory of weights as well: a scenario may start from it
        <module>.safetensors             weights by canonical name, fp32 where they are trained
        <module>.exp_avg.safetensors     Adam's first moments
        <module>.exp_avg_sq.safetensors  and second moments

It is written under a temporary name and renamed as a whole, so a directory of the final name is complete.

    save, load -> state (tensors on one rank), files (on disk)
"""
