"""Tests that run real ranks, on gloo."""
