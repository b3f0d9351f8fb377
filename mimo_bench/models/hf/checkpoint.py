"""A checkpoint as `transformers` saves it: config.json and safetensors, in one file or in shards with an index."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mimo_bench.models.hf.safetensors import StoredTensor, TensorSpec, read_header, refuse_pointer
from mimo_bench.util import WeightsError

CONFIG = "config.json"
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

SHARD_BYTES = 5 << 30
"""The size up to which tensors share a file; what the hub recommends."""

_ADAPTER = "adapter_config.json"
_PICKLED = (".bin", ".pt", ".pth", ".ckpt")
_COMPANIONS = (".jinja", ".json", ".model", ".txt")


def read_checkpoint(directory: Path) -> dict[str, StoredTensor]:
    """Return every tensor of the checkpoint in `directory` by name, without its content.

    Raises:
        WeightsError: a file is missing, broken or pickled, contradicts the index, or is not of a whole model.
    """
    if not directory.is_dir():
        raise WeightsError(f"{directory}: no such directory; name one that holds {CONFIG} and safetensors")
    if (directory / _ADAPTER).is_file():
        raise WeightsError(
            f"{directory / _ADAPTER}: the directory holds an adapter of PEFT; load it with its base model, and save "
            "what merge_and_unload() returns"
        )
    if not (directory / CONFIG).is_file():
        raise WeightsError(f"{directory / CONFIG}: no such file; copy it from where the weights come from")
    if (directory / INDEX).is_file():
        return _read_shards(directory)
    if (directory / SINGLE).is_file():
        return read_header(directory / SINGLE)
    if pickled := sorted(path for path in directory.iterdir() if path.suffix in _PICKLED):
        raise WeightsError(
            f"{pickled[0]}: a pickled file can run any code when it is read, so it is not; load it with "
            "`transformers` where you trust it, and save_pretrained writes safetensors"
        )
    raise WeightsError(f"{directory}: holds neither {SINGLE} nor {INDEX}; save_pretrained of `transformers` writes one")


def copy_companions(source: Path, target: Path) -> None:
    """Copy the files of tokenizer, processor and generation from the directory of a checkpoint, if there are any."""
    for path in (*source.glob("*"), *source.glob("additional_chat_templates/*")):
        is_other = path.name == CONFIG or path.name.endswith(".index.json") or path.name.startswith(".")
        if path.is_file() and path.suffix in _COMPANIONS and not is_other:
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)


def deal_out(specs: Iterable[TensorSpec], *, shard_bytes: int = SHARD_BYTES) -> dict[str, list[TensorSpec]]:
    """Which file each tensor goes to: one if all fit in `shard_bytes`, else shards, named as `transformers` does."""
    shards: list[list[TensorSpec]] = [[]]
    room = shard_bytes
    for spec in specs:
        if shards[-1] and spec.num_bytes > room:
            shards.append([])
            room = shard_bytes
        shards[-1].append(spec)
        room -= spec.num_bytes
    if len(shards) == 1:
        return {SINGLE: shards[0]}
    return {f"model-{k:05d}-of-{len(shards):05d}.safetensors": shard for k, shard in enumerate(shards, start=1)}


def index_of(files: dict[str, list[TensorSpec]]) -> str:
    """The content of the index of shards."""
    total = sum(spec.num_bytes for shard in files.values() for spec in shard)
    weight_map = {spec.name: name for name, shard in files.items() for spec in shard}
    return json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=2, sort_keys=True) + "\n"


def _read_shards(directory: Path) -> dict[str, StoredTensor]:
    path = directory / INDEX
    places = _weight_map(path)
    if (directory / SINGLE).is_file() and SINGLE not in places.values():
        raise WeightsError(
            f"{directory / SINGLE}: the directory also holds {INDEX}, and from_pretrained reads {SINGLE} alone; remove "
            "the one that is of another save"
        )
    headers = {file: read_header(directory / file) for file in sorted(set(places.values()))}
    for name, file in places.items():
        if name not in headers[file]:
            raise WeightsError(f"{path}: {name}: is not in {file}; fetch both files again")
    return {name: headers[file][name] for name, file in places.items()}


def _weight_map(path: Path) -> dict[str, str]:
    refuse_pointer(path)
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise WeightsError(f"{path}: not valid JSON: {error}; fetch it again") from None
    places = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(places, dict) or not places:
        raise WeightsError(f"{path}: weight_map is missing; fetch the file again")
    for name, file in places.items():
        if not isinstance(file, str) or Path(file).name != file:
            raise WeightsError(
                f"{path}: weight_map.{name} = {file!r}: shards are next to their index; correct the name"
            )
        if not file.endswith(".safetensors"):
            raise WeightsError(f"{path}: weight_map.{name} = {file!r}: only safetensors are read; convert the file")
    return places
