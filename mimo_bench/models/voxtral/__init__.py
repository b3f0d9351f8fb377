"""Voxtral: an audio encoder, a projector and a decoder."""
