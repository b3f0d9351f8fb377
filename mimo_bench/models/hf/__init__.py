"""Weights as files, from and to `transformers`: bytes are moved, no number is computed. No torch.

A directory of weights holds

    weights.json            what is in it: the model's shape; size and SHA-256 of each file below
    <module>.safetensors    one file a module: whole tensors by canonical name, as the trainer names its parameters
    aside.safetensors       what `transformers` has and the trainer does not build, by its names there; if there is any
    config.json             the model as `transformers` describes it
    companions/             tokenizer and processor files, as they came; if there are any

    convert -> checkpoint, directory, streams -> safetensors; spelling: names in checkpoints
    config -> config_section; saving: what a training adds to its weights
"""
