"""A fault as a package that mimo-bench finds by its entry point."""
