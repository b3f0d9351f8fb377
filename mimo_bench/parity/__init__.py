"""Parity: does a layout train the same model as the baseline? Verdicts with reasons."""
