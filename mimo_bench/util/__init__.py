"""Helpers that every room may use: errors, texts, files and tables of a scenario file."""
