"""Processes of this machine: starter, fork server, supervisors and ranks."""
