"""LLaVA: a vision encoder, a projector and a decoder."""
