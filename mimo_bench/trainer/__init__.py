"""A full MIMO trainer on megatron-core: it trains any checked layout and knows nothing of what watches it."""
