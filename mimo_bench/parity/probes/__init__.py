"""Probes that run on ranks and write what parity compares."""
