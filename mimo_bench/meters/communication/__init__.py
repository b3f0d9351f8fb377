"""Meters of communication: calls, bytes, transfer, waiting and exposed time by process group."""
