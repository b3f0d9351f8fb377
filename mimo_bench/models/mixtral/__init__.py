"""Mixtral: experts in place of a decoder's MLPs."""
