"""The record of a run, which people and programs read: `run.json` and the series next to it."""
