from .context import FaultContext, replace_attribute

__all__ = ["FaultContext", "replace_attribute"]
