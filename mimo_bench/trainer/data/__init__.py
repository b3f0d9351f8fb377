"""Samples by global id, and the loaders that deal them out to the modules of a layout."""
