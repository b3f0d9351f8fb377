"""The bench: run a scenario's matrix, judge every layout, and prove the gate.

    scenario -> layout -> trainer -> meters -> record -> parity -> report

`matrix.py` shows the flow on one screen. `ranks/` holds what runs on a rank; nothing else imports it: a job names its
entry.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
