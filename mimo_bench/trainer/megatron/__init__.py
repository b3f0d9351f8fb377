"""Parts of megatron-core that the trainer replaces."""
