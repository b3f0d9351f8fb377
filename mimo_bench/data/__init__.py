"""Samples: synthetic, digits, or a user's own files."""
