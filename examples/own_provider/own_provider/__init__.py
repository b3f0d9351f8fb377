"""A model of its own, as a package that mimo-bench finds by its entry point."""
