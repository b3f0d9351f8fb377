"""Scenarios: TOML files in, checked and frozen models out."""
