"""Model providers: shapes in, megatron-core module specs out."""
