"""Completion of trained weights to a directory like an imported one, which `mimo-bench export` takes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from mimo_bench.models.hf.checkpoint import CONFIG, copy_companions
from mimo_bench.models.hf.config import config_of
from mimo_bench.models.hf.directory import ASIDE, COMPANIONS, Manifest, read_manifest, tensors_of, write_manifest
from mimo_bench.models.registry import configured
from mimo_bench.util import write_atomically

_DTYPE_NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""What a config.json calls the dtypes of weights."""


def complete(directory: Path, *, start: Path | None, config: Path | None, processor: Path | None) -> None:
    """Add config.json, tokenizer and processor to trained weights, and the layers that are not built.

    Args:
        directory: files of the trainer and their manifest.
        start: the directory of weights that training started from: what is not built comes from there as it is.
        config: the model's config.json; without one, and without `start`, it is made from the shape.
        processor: the folder of tokenizer and processor that samples were made with; in place of those in `start`.
    """
    manifest = read_manifest(directory)
    if start is not None:
        manifest = _with_heritage(directory, manifest, start)
        config = config or (start / CONFIG if (start / CONFIG).is_file() else None)
    if processor is not None:
        copy_companions(processor, directory / COMPANIONS)
    content = config_of(manifest.shape)
    if content is not None and config is not None:
        content = json.loads(config.read_text(encoding="utf-8"))
    if content is not None:
        if ASIDE not in manifest.files:
            content = configured(content["model_type"]).as_built(content, manifest.shape)
        text = json.dumps(_with_dtype(content, _dtypes(directory, manifest)), indent=2) + "\n"
        write_atomically(directory / CONFIG, text.encode())
    write_manifest(directory, manifest)


def _with_heritage(directory: Path, manifest: Manifest, start: Path) -> Manifest:
    """Return the manifest with spelling and layers that are not built; copy those, tokenizer and processor."""
    before = read_manifest(start)
    files = dict(manifest.files)
    if ASIDE in before.files:
        shutil.copyfile(start / f"{ASIDE}.safetensors", directory / f"{ASIDE}.safetensors")
        files[ASIDE] = before.files[ASIDE]
    copy_companions(start / COMPANIONS, directory / COMPANIONS)
    kept = {"files": files, "spelling": before.spelling, "stores_tied_output_layer": before.stores_tied_output_layer}
    return manifest.model_copy(update=kept)


def _dtypes(directory: Path, manifest: Manifest) -> set[str]:
    return {one.spec.dtype for module in manifest.shape.modules for one in tensors_of(directory, module).values()}


def _with_dtype(content: dict[str, Any], dtypes: set[str]) -> dict[str, Any]:
    """Return a config.json with the dtype of the weights, to which `transformers` would round them."""
    if len(dtypes) > 1:
        return content
    name = _DTYPE_NAMES[next(iter(dtypes))]
    inner = {key: value for key, value in content.items() if isinstance(value, dict)}
    changed = {key: _with_dtype(value, dtypes) for key, value in inner.items() if key.endswith("_config")}
    keys = [key for key in ("dtype", "torch_dtype") if key in content] or ["dtype"]
    return {**content, **changed, **dict.fromkeys(keys, name)}
