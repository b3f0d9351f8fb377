"""The report: what a record says, for people. HTML for the desk, Markdown and JUnit for CI.

scenario -> layout -> trainer -> meters -> record -> parity -> [report]

Everything here is read from the record and from nothing else, so `mimo-bench report DIR` can render it again.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
