"""Parts of megatron-core that mimo_bench replaces, and the list of all of them.

`docs/contributing/megatron.md` is made from `REPLACED`; `tests/trainer/test_replaced.py` finds a replacement that the
list lacks. What megatron-core takes by specification or configuration (attention core, norms, gradient finalisation) is
no replacement. What it cannot train at all is in `mimo_bench/layout/limits.py`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Replacement:
    """One part of megatron-core, or of torch, that runs our code instead."""

    of: str
    """Full name of the part; `*` at its end for several."""
    by: str
    """Full name of our function or class."""
    why: str
    until: str
    """Condition under which the replacement can be deleted."""
    since: str = "0.19"
    """Release in which the reason was found, of megatron-core unless it says torch."""


_CPU = "mimo_bench.trainer.megatron.cpu"
_BRIDGE = "mimo_bench.trainer.megatron.bridge"
_PIPELINE = "mimo_bench.trainer.megatron.pipeline"
_LINEAR = "mimo_bench.models.kernels.linear"

REPLACED = (
    Replacement(
        of="megatron.core.models.mimo.comm.colocated_communicator.ColocatedBridgeCommunicator",
        by=f"{_BRIDGE}.ColocatedBridge",
        why="splits and gathers replicas as if all had the same number of rows",
        until="it takes the rows of each sample",
    ),
    Replacement(
        of="megatron.core.pipeline_parallel.bridge_communicator.BridgeCommunicator",
        by=f"{_BRIDGE}.UnevenBridge",
        why="assumes equal rows, sends each shape ahead and waits for the device, shares groups among bridges",
        until="it takes sizes from the caller and makes a group for each bridge",
    ),
    Replacement(
        of="megatron.core.pipeline_parallel.p2p_communication.P2PCommunicator",
        by=f"{_PIPELINE}.LanguagePipe",
        why="sends the shape of hidden states ahead, though all have the same",
        until="the multi-module schedule runs with variable_seq_lengths = False",
    ),
    Replacement(
        of="megatron.core.pipeline_parallel.multimodule_communicator.MultiModulePipelineCommunicator",
        by=f"{_PIPELINE}.Pipeline",
        why="counts stages from the first of each encoder: two of unlike depth deadlock; builds its own bridges",
        until="stages count from the last one, and bridges can be passed in",
    ),
    Replacement(
        of="megatron.core.models.mimo.model.base.MimoModel.align_embeddings_by_token_positions",
        by="mimo_bench.trainer.megatron.merge.Merge",
        why="finds positions on the device and waits for it: 80 of 780 ms a step on an H200",
        until="it takes positions from the caller; `get_text_embeddings` too",
    ),
    Replacement(
        of="megatron.core.models.mimo.submodules.vision.VisionModalitySubmodules",
        by="mimo_bench.models.modules.stages.EncoderStages",
        why="from the second pipeline stage on, an encoder skips its layers without an error",
        until="every stage runs its layers; the fault `encoder-stages-skipped` shows it",
    ),
    Replacement(
        of="megatron.core.models.gpt.gpt_model.GPTModel",
        by="mimo_bench.models.llama.module.LanguageModel",
        why="pads the vocabulary without masking it, knows no scaled rope of `transformers`, keeps fp32 probabilities",
        until="it masks padding, takes rope frequencies and a loss function",
    ),
    Replacement(
        of="megatron.core.transformer.attention.apply_rotary_pos_emb",
        by="mimo_bench.models.kernels.rope.install_rope",
        why="every layer computes cosine and sine again; the fused variant needs transformer-engine",
        until="cosine and sine are computed once a micro-batch",
    ),
    Replacement(
        of="megatron.core.transformer.mlp.bias_swiglu_impl",
        by="mimo_bench.models.kernels.swiglu.install_swiglu",
        why="compiled, its backward takes twice the time of its memory traffic: 0.89 ms for 16,384 x 22,016 on an H200",
        until="a kernel of its own reaches memory bandwidth",
    ),
    Replacement(
        of="megatron.core.tensor_parallel.layers.*",
        by=f"{_LINEAR}.install_accumulation",
        why="adding weight gradients inside the product needs a CUDA extension of apex",
        until="it uses `torch.addmm(out_dtype=torch.float32)`",
    ),
    Replacement(
        of="megatron.core.tensor_parallel.layers.ColumnParallelLinear",
        by=f"{_LINEAR}.ColumnLinear",
        why="torch.compile cannot look into its product that adds gradients",
        until="as above",
    ),
    Replacement(
        of="megatron.core.tensor_parallel.layers.RowParallelLinear",
        by=f"{_LINEAR}.RowLinear",
        why="torch.compile cannot look into its product that adds gradients",
        until="as above",
    ),
    Replacement(
        of="megatron.core.distributed.DistributedDataParallel",
        by=f"{_LINEAR}.Replica",
        why="forgets between steps which products add gradients themselves",
        until="as above",
    ),
    Replacement(
        of="megatron.core.models.mimo.optimizer.MimoOptimizer",
        by="mimo_bench.trainer.optimizer.ScheduledOptimizer",
        why="has no schedule and no norm by module; copies a norm of every gradient to the host and waits",
        until="it gives norms by module as tensors",
    ),
    Replacement(
        of="megatron.core.models.mimo.optimizer.get_mimo_optimizer",
        by="mimo_bench.trainer.optimizer.build_optimizer",
        why="gathers over the world once for each hosted module: ranks that host unlike numbers of them hang",
        until="it communicates in the groups of the module only",
    ),
    Replacement(
        of="megatron.core.parallel_state._GLOBAL_MEMORY_BUFFER",
        by="mimo_bench.trainer.device.join",
        why="sequence parallelism gathers into it, and only `initialize_model_parallel` makes it",
        until="it is made on first use",
    ),
    Replacement(
        of="torch._dynamo.config.disable",
        by=f"{_CPU}.install",
        why="CPU ranks: megatron-core compiles small functions, which takes minutes on the host",
        until="compilation can be switched off by configuration",
    ),
    Replacement(
        of="torch.Tensor.*",
        by=f"{_CPU}._redirect_tensors",
        why="CPU ranks: factory calls and moves name the device `cuda`; optimizers compare CUDA type names",
        until="megatron-core takes its device from the caller",
    ),
    Replacement(
        of="torch.cuda.*",
        by=f"{_CPU}._redirect_torch_cuda",
        why="CPU ranks: current device, streams and events of `torch.cuda` are used without a check",
        until="megatron-core takes its device from the caller",
    ),
    Replacement(
        of="torch.distributed.new_group",
        by=f"{_CPU}._redirect_process_groups",
        why='CPU ranks: groups are made with `backend="nccl"`',
        until="the backend is the world's",
    ),
    Replacement(
        of="torch.distributed.distributed_c10d.ProcessGroupGloo",
        by=f"{_CPU}._share_one_network_thread",
        why="CPU ranks: each gloo group polls in a thread of its own, a quarter of a core for 8 ranks of 30 groups",
        since="torch 2.11",
        until="gloo groups share a device",
    ),
    Replacement(
        of="megatron.core.tensor_parallel.random._get_cuda_rng_state",
        by=f"{_CPU}._redirect_rng_state",
        why="CPU ranks: activation recomputation saves and restores the CUDA generator; `_set_cuda_rng_state` too",
        until="it uses the generator of the tensors' device",
    ),
    Replacement(
        of="megatron.core.transformer.moe.token_dispatcher.maybe_move_tensor_to_cpu",
        by=f"{_CPU}._redirect_token_counts",
        why="CPU ranks: counts become numbers only if they are copied from a GPU",
        until="tensors on the host become numbers too",
    ),
)
