"""Whether two layouts trained the same model, with reasons."""
