"""The command line: one file a command. Nothing heavy is imported before a command is called."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
