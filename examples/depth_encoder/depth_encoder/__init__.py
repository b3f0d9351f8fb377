"""An encoder for depth maps, as a package that mimo-bench finds by its entry point."""
