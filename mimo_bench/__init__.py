"""mimo_bench: does every layout of a multimodal model train the same model, and which one is fastest?"""

__all__ = ["__version__"]

__version__ = "0.1.0"
