"""Kernels of our own: rotation, SwiGLU, cross entropy, linear layers and counter-based random numbers."""
