"""Whisper's audio encoder."""
