"""Collectives that ranks call, by the methods of torch's process groups."""

from __future__ import annotations

_FIRST, _SECOND = 0, 1
METHODS = {
    "allreduce": ("all_reduce", _FIRST),
    "allreduce_coalesced": ("all_reduce", _FIRST),
    "_allgather_base": ("all_gather", _SECOND),
    "allgather": ("all_gather", _SECOND),
    "allgather_coalesced": ("all_gather", _SECOND),
    "allgather_into_tensor_coalesced": ("all_gather", _SECOND),
    "_reduce_scatter_base": ("reduce_scatter", _SECOND),
    "reduce_scatter": ("reduce_scatter", _SECOND),
    "reduce_scatter_tensor_coalesced": ("reduce_scatter", _SECOND),
    "alltoall_base": ("all_to_all", _SECOND),
    "alltoall": ("all_to_all", _SECOND),
    "broadcast": ("broadcast", _FIRST),
    "reduce": ("reduce", _FIRST),
    "gather": ("gather", _SECOND),
    "scatter": ("scatter", _SECOND),
    "send": ("send", _FIRST),
    "recv": ("recv", _FIRST),
    "barrier": ("barrier", None),
}
"""What each method of a process group is called here, and which argument holds what the rank puts in."""
