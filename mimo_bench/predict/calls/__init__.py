"""Collective calls of one training step, by kind of parallelism."""
