"""Layouts: which module is on which ranks, with which degrees and settings. Arithmetic only, no torch."""
