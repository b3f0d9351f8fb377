"""A full MIMO trainer on megatron-core: it trains any checked layout independent of the bench.

    from mimo_bench.trainer import Pretraining, pretrain

Names below import torch and megatron-core on first use.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
