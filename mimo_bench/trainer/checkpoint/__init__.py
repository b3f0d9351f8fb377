"""Saves what a training has become, so that it goes on in this layout bit for bit, and in any other with parity.

scenario -> layout -> [trainer] -> meters -> record -> parity -> report

A checkpoint holds canonical full tensors, not slices, so no layout is written into it:

    DIR/step-00000120/
        checkpoint.json                  what was trained how far; size and SHA-256 of each file below
        weights.json                     makes it a directory of weights as well: a scenario may start from it
        <module>.safetensors             weights by canonical name, fp32 where they are trained
        <module>.exp_avg.safetensors     Adam's first moments
        <module>.exp_avg_sq.safetensors  and second moments

It is written beside its place and moved there as a whole, so that a directory of that name is a finished one.

    save, load -> state (what a rank holds of each tensor), files (what lies on disk)
"""
