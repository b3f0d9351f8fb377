"""Needs of a layout, from integers alone: parameters, memory and bytes on the wire. No torch, no processes.

scenario -> layout -> [prediction] -> trainer -> meters -> record: `check` prints it, the record holds it next to
what was measured, and the tests compare it with the trainer.

    parameters -> state -+
    activations ---------+-> memory
    items ---------------+
           state, items ---> step -> calls -> communication
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
