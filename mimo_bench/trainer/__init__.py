"""A full MIMO trainer on megatron-core: it trains any checked layout and knows nothing of what watches it.

    from mimo_bench.trainer import Pretraining, pretrain

What is listed here comes with torch and megatron-core, so it is imported only where somebody asks for it.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
