"""One file per module; `tests/distributed/` starts real ranks, `tests/gpu/` needs GPUs."""
