"""Vision transformers: CLIP and SigLIP."""
