"""Entries that run on a rank, one for each kind of job. They import torch, and neither pandas, rich nor typer."""
