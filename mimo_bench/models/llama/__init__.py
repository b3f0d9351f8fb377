"""The LLaMA family of language models."""
