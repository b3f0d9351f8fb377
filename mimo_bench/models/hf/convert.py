"""`transformers` checkpoints in and out: each tensor goes from file to file in chunks, and no bit of it changes.

[convert] -> transformers_files, directory, streams -> safetensors_file; mapping
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mimo_bench.models.hf.checkpoint import (
    CONFIG,
    INDEX,
    SHARD_BYTES,
    copy_companions,
    deal_out,
    index_of,
    read_checkpoint,
)
from mimo_bench.models.hf.config import read_model_shape
from mimo_bench.models.hf.directory import (
    ASIDE,
    COMPANIONS,
    Manifest,
    check_content,
    check_new,
    read_manifest,
    tensors_of,
    write_manifest,
)
from mimo_bench.models.hf.safetensors import StoredTensor, TensorSpec
from mimo_bench.models.hf.spelling import (
    PREFIXES,
    Spelling,
    find_spelling,
    is_known_beyond,
    refuse_wrapped,
    unread,
)
from mimo_bench.models.hf.streams import Stream, are_equal, as_it_is, stack, unstack, write
from mimo_bench.models.parameters import parameters
from mimo_bench.models.shape import ModelShape
from mimo_bench.models.table import EMBEDDING, Row
from mimo_bench.util import WeightsError, new_directory

Tensors = Mapping[str, StoredTensor]

_OUTPUT_LAYER = "weight"
"""The name of the output layer's one tensor, without its prefix."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Converted:
    """Result of an import or export, counted in tensors of `transformers`."""

    num_tensors: int
    """Of the model that is built."""
    num_aside: int
    """Of layers that are not built, unchanged."""
    num_bytes: int
    remarks: tuple[str, ...] = ()
    """Sentences about what an export leaves out, and about what it does not have."""

    @classmethod
    def of(cls, tensors: Iterable[TensorSpec], *, num_aside: int, remarks: Iterable[str] = ()) -> Converted:
        """Return the count of all `tensors`, of which `num_aside` are not built."""
        sizes = [spec.num_bytes for spec in tensors]
        return cls(
            num_tensors=len(sizes) - num_aside, num_aside=num_aside, num_bytes=sum(sizes), remarks=tuple(remarks)
        )


def import_weights(source: Path, target: Path) -> Converted:
    """Make a directory of weights of the checkpoint in `source`.

    Raises:
        WeightsError: a file or tensor is missing, broken, of another shape or unknown, or `target` is not empty.
        ScenarioError: its config.json asks for what is not built.
    """
    tensors = read_checkpoint(source)
    shape = read_model_shape(source / CONFIG)
    rows = parameters(shape)
    try:
        refuse_wrapped(tensors)
        spelling, is_stored = _spelling_of(tensors, rows, shape)
        parts = {row.name: _parts(row, tensors, spelling) for row in rows}
        aside = _aside(tensors, rows, shape=shape, spelling=spelling)
    except WeightsError as error:
        raise WeightsError(f"{source}: {error}") from None
    check_new(target)
    with new_directory(target) as temporary:
        files = {
            module: write(
                temporary / f"{module}.safetensors",
                [stack(row, parts[row.name]) for row in rows if row.module == module],
            )
            for module in shape.modules
        }
        if aside:
            files[ASIDE] = write(temporary / f"{ASIDE}.safetensors", map(as_it_is, aside))
        shutil.copyfile(source / CONFIG, temporary / CONFIG)
        copy_companions(source, temporary / COMPANIONS)
        write_manifest(
            temporary, Manifest(shape=shape, files=files, spelling=spelling, stores_tied_output_layer=is_stored)
        )
    return Converted.of((tensor.spec for tensor in tensors.values()), num_aside=len(aside))


def export_weights(source: Path, target: Path, *, shard_bytes: int = SHARD_BYTES) -> Converted:
    """Write the weights in `source` as a checkpoint that `transformers` loads with `from_pretrained`.

    Raises:
        WeightsError: a file is missing, broken or not what was written, or `target` is not empty.
    """
    manifest = read_manifest(source)
    if not (source / CONFIG).is_file():
        raise WeightsError(f"{source / CONFIG}: no such file; without it `transformers` cannot tell what model it is")
    check_content(source, manifest)
    aside = tensors_of(source, ASIDE).values() if ASIDE in manifest.files else ()
    streams = [*_unstack_all(source, manifest), *map(as_it_is, aside)]
    dealt = deal_out([stream.spec for stream in streams], shard_bytes=shard_bytes)
    check_new(target)
    with new_directory(target) as temporary:
        for file, specs in dealt.items():
            names = {spec.name for spec in specs}
            write(temporary / file, [one for one in streams if one.spec.name in names], metadata={"format": "pt"})
        if len(dealt) > 1:
            (temporary / INDEX).write_text(index_of(dealt), encoding="utf-8")
        shutil.copyfile(source / CONFIG, temporary / CONFIG)
        copy_companions(source / COMPANIONS, temporary)
    specs = [stream.spec for stream in streams]
    return Converted.of(specs, num_aside=len(aside), remarks=_remarks(source, manifest, specs))


def _remarks(source: Path, manifest: Manifest, specs: Sequence[TensorSpec]) -> Iterator[str]:
    known = {row.name for row in parameters(manifest.shape)}
    own = sorted(name for module in manifest.shape.modules for name in tensors_of(source, module) if name not in known)
    if own:
        yield (
            f"left out: {', '.join(own)}: parameters of your own have no place in a model of `transformers`, which "
            "computes something else without them"
        )
    if manifest.builder is not None:
        yield f"left out: the model's code: {manifest.builder!r} built it, and `transformers` builds its own"
    for module in manifest.foreign:
        yield f"left out: {module}.safetensors: `transformers` has no place for the encoder of another package"
    if others := sorted(path.name for path in source.glob("*.safetensors") if path.stem not in manifest.files):
        yield f"left out: {', '.join(others)}: the state of the optimizer"
    if drawn := [name for name in unread(manifest.shape, manifest.spelling) if name not in {one.name for one in specs}]:
        yield f"not stored: {', '.join(drawn)}: from_pretrained draws them and the model does not read them"
    if not (source / COMPANIONS).is_dir():
        yield "not stored: tokenizer and processor; save them with save_pretrained of your processor"


def _spelling_of(tensors: Tensors, rows: Sequence[Row], shape: ModelShape) -> tuple[Spelling, bool]:
    """Return the checkpoint's spelling, and whether it stores an output layer that is the word embedding."""
    spelling = find_spelling(((part.component, part.name) for row in rows for part in row.parts), set(tensors))
    if not shape.language.tied_embeddings:
        return spelling, False
    stored = [prefix for prefix in PREFIXES["lm_head"] if prefix + _OUTPUT_LAYER in tensors]
    if not stored:
        return spelling, False
    spelling = {**spelling, "lm_head": stored[0]}
    component, name = EMBEDDING
    output, embedding = tensors[stored[0] + _OUTPUT_LAYER], tensors[spelling[component] + name]
    if not are_equal(output, embedding):
        raise WeightsError(
            f"{output.spec.name} differs from {embedding.spec.name}, and the config.json ties them; set "
            "tie_word_embeddings to false there, or remove the one that is not meant"
        )
    return spelling, True


def _parts(row: Row, tensors: Tensors, spelling: Spelling) -> list[StoredTensor]:
    """The tensors that are stacked in a parameter."""
    found = []
    for part in row.parts:
        name = part.spelled(spelling)
        if (tensor := tensors.get(name)) is None:
            raise WeightsError(f"tensor {name} is missing; name a checkpoint that is complete")
        if tensor.spec.shape != part.shape:
            raise WeightsError(
                f"tensor {name} has shape {list(tensor.spec.shape)}, and config.json makes it {list(part.shape)}; "
                "take both from the same model"
            )
        found.append(tensor)
    if len(dtypes := {tensor.spec.dtype for tensor in found}) > 1:
        names = ", ".join(tensor.spec.name for tensor in found)
        raise WeightsError(f"tensors {names} are one parameter here, of dtypes {sorted(dtypes)}; give them one dtype")
    return found


def _aside(tensors: Tensors, rows: Sequence[Row], *, shape: ModelShape, spelling: Spelling) -> list[StoredTensor]:
    """Return the tensors beyond the parameters, if all of them are known not to be built."""
    used = {part.spelled(spelling) for row in rows for part in row.parts} | {spelling["lm_head"] + _OUTPUT_LAYER}
    beyond = [tensor for name, tensor in tensors.items() if name not in used]
    for tensor in beyond:
        if not is_known_beyond(tensor.spec.name, shape=shape, spelling=spelling):
            raise WeightsError(
                f"tensor {tensor.spec.name} belongs to nothing that config.json describes; remove it if the model "
                "is the same without it"
            )
    return beyond


def _unstack_all(source: Path, manifest: Manifest) -> Iterator[Stream]:
    """Every tensor of the model that is built, under the names of `transformers`."""
    stored = {module: tensors_of(source, module) for module in manifest.shape.modules}
    for row in parameters(manifest.shape):
        whole = stored[row.module].get(row.name)
        if whole is None or whole.spec.shape != row.shape:
            raise WeightsError(
                f"{source}: {row.name} is missing or of another shape: these are not the weights of a model that "
                "`transformers` has"
            )
        yield from unstack(row, whole, manifest.spelling)
        if manifest.stores_tied_output_layer and (row.parts[0].component, row.parts[0].name) == EMBEDDING:
            name = manifest.spelling["lm_head"] + _OUTPUT_LAYER
            yield Stream(
                spec=TensorSpec(name=name, dtype=whole.spec.dtype, shape=whole.spec.shape), chunks=whole.read()
            )
