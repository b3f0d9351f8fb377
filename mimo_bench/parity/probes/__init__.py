"""What the gate takes from a trainer, in every rank; only here and in `faults` does parity import torch."""
