"""Meters: one quantity each. They watch the trainer, which does not know them."""
