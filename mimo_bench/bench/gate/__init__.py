"""Proofs of the gate: planted faults, mutated collectives, false alarms and the reference implementation."""
