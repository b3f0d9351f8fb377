"""Rotation by cosines and sines that are ready gives megatron-core's own bits."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from megatron.core.models.common.embeddings.rope_utils import _apply_rotary_pos_emb_bshd
from megatron.core.transformer.transformer_config import TransformerConfig

from mimo_bench.launch import Launcher
from mimo_bench.models.kernels.rope import rotate, rotate_fused_qkv
from tests.support.ranks import on_ranks


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_queries_are_rotated_to_the_bit_as_megatron_core_rotates_them(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    angles = torch.rand(9, 1, 1, 4, generator=generator).mul(100).repeat(1, 1, 1, 2)
    heads = torch.randn(9, 2, 3, 8, generator=generator).to(dtype)
    cos_sin = torch.stack([angles.cos(), angles.sin()]).to(dtype)
    config = SimpleNamespace(rotary_interleaved=False)
    assert torch.equal(rotate(heads, cos_sin, config), _apply_rotary_pos_emb_bshd(heads, angles))


@on_ranks(1, environment={"TRITON_INTERPRET": "1"})
def rotate_by_kernel() -> None:
    from mimo_bench.models.kernels.rope import split_qkv_and_rotate, split_qkv_and_rotate_backward
    from mimo_bench.models.kernels.triton import launch_rotation

    length, samples, groups, per_group, size = 5, 2, 3, 4, 12
    mixed_qkv = torch.randn(length, samples, groups, (per_group + 2) * size)
    angles = torch.rand(length, 1, 1, size // 2).repeat(1, 1, 1, 2)
    cos_sin = torch.stack([angles.cos(), angles.sin()])
    expected = split_qkv_and_rotate(mixed_qkv, cos_sin, per_group)
    query, key, value = (torch.empty_like(part) for part in expected)
    parts = query, key, value
    launch_rotation(mixed_qkv, parts, cos_sin, is_backward=False)
    torch.testing.assert_close(parts, expected)
    back = torch.empty_like(mixed_qkv)
    launch_rotation(back, parts, cos_sin, is_backward=True)
    torch.testing.assert_close(back, split_qkv_and_rotate_backward(*parts, cos_sin))
    torch.testing.assert_close(back, mixed_qkv)


def test_the_kernel_rotates_as_the_formula_does_and_back(launcher: Launcher, tmp_path: Path) -> None:
    rotate_by_kernel(launcher, tmp_path)


def test_rotation_at_once_is_that_of_queries_and_keys_alone_and_so_is_its_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    angles = torch.rand(9, 1, 1, 4, generator=generator).mul(100).repeat(1, 1, 1, 2)
    cos_sin, config = torch.stack([angles.cos(), angles.sin()]), SimpleNamespace(rotary_interleaved=False)
    mixed_qkv = torch.randn(9, 2, 3, 4 * 8, generator=generator).requires_grad_()
    weights = [torch.randn(9, 2, heads, 8, generator=generator) for heads in (6, 3, 3)]
    query, key, value = mixed_qkv.split([16, 8, 8], dim=-1)
    expected = rotate(query.reshape(9, 2, 6, 8), cos_sin, config), rotate(key, cos_sin, config), value
    found = rotate_fused_qkv(mixed_qkv, cos_sin, cos_sin, [16, 8, 8])
    gradients = []
    for parts in (expected, found):
        total = sum((part * weight).sum() for part, weight in zip(parts, weights, strict=True))
        gradients.append(torch.autograd.grad(total, mixed_qkv)[0])
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients[1], gradients[0])


@pytest.mark.filterwarnings("ignore:full scope is deprecated:UserWarning")
def test_angles_of_another_model_are_rotated_by_megatron_core_itself() -> None:
    generator = torch.Generator().manual_seed(0)
    angles = torch.rand(9, 1, 1, 4, generator=generator).repeat(1, 1, 1, 2)
    heads = torch.randn(9, 2, 3, 8, generator=generator)
    config = TransformerConfig(num_layers=1, hidden_size=24, num_attention_heads=3, use_cpu_initialization=True)
    assert torch.equal(rotate(heads, angles, config, cp_group=object()), _apply_rotary_pos_emb_bshd(heads, angles))
