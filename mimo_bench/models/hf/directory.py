"""A directory of weights: what its manifest says, whether its files are whole, and how a new one comes to be."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from mimo_bench.models.hf.safetensors import StoredTensor, read_header
from mimo_bench.models.hf.spelling import DEFAULT_SPELLING, Spelling
from mimo_bench.models.shape import ModelShape
from mimo_bench.util import WeightsError, first_difference, write_atomically

MANIFEST = "weights.json"
ASIDE = "aside"
COMPANIONS = "companions"
FORMAT_VERSION = 1


class StoredFile(BaseModel):
    """A file as it was when it was written."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_bytes: int
    sha256: str


class Manifest(BaseModel):
    """Content of `weights.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1] = 1
    shape: ModelShape
    """Of the model that the weights are for."""
    foreign: dict[str, Any] = {}
    """Class and options of each encoder of another package, by module."""
    builder: str | None = None
    """The registered name of the function of another package that built the model."""
    files: dict[str, StoredFile]
    """By the name of the module without its suffix; `aside` for what is not built."""
    spelling: Spelling = DEFAULT_SPELLING
    """The names that an export gives to the parts of the model: those of the checkpoint that was imported."""
    stores_tied_output_layer: bool = False
    """Whether that checkpoint held the word embedding a second time, as its output layer."""

    @property
    def content_hash(self) -> str:
        """SHA-256 over the modules' own hashes: equal weights have equal hashes, wherever they lie."""
        hashes = {name: file.sha256 for name, file in self.files.items() if name != ASIDE}
        return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()


def manifest_of(shape: ModelShape, files: dict[str, StoredFile]) -> Manifest:
    """Return the manifest of weights that were trained."""
    return Manifest(shape=shape, foreign=shape.foreign, builder=shape.builder, files=files)


def read_manifest(directory: Path) -> Manifest:
    """The manifest of a directory whose files are all there, in full size and in the order that they were written.

    What the files hold is not read again: sizes and headers are checked, hashes are those of the day of writing.

    Raises:
        WeightsError: the directory or a file is missing, cut short or of an unknown version.
    """
    path = directory / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        inner = sorted(directory.glob(f"*/{MANIFEST}"))
        remedy = f"name {inner[-1].parent}" if inner else "`mimo-bench import HF_DIR OUT` makes a directory of weights"
        raise WeightsError(f"{path}: no such file; {remedy}") from None
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise WeightsError(f"{path}: not valid JSON: {error}; import the weights again") from None
    version = content.get("format_version") if isinstance(content, dict) else None
    if version != FORMAT_VERSION:
        raise WeightsError(f"{path}: format_version = {version}: this mimo_bench reads {FORMAT_VERSION}; import again")
    try:
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise WeightsError(f"{path}: {key}: {first['msg']}; import the weights again") from None
    for name, stored in manifest.files.items():
        _check_size(directory / f"{name}.safetensors", stored)
    return manifest


def check_content(directory: Path, manifest: Manifest) -> None:
    """Refuse files that are not what was written, by their hashes; each is read once, a buffer at a time.

    Raises:
        WeightsError: naming the first file that was changed.
    """
    for name, stored in manifest.files.items():
        path = directory / f"{name}.safetensors"
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != stored.sha256:
                raise WeightsError(
                    f"{path}: its SHA-256 is not the one in {MANIFEST}: the file was changed or damaged; import or "
                    "save the weights again"
                )


def tensors_of(directory: Path, name: str) -> dict[str, StoredTensor]:
    """The tensors of one file of a directory of weights.

    Raises:
        WeightsError: the file is missing or broken.
    """
    return read_header(directory / f"{name}.safetensors")


def check_shape(directory: Path, manifest: Manifest, shape: ModelShape) -> None:
    """Refuse weights that are for another model.

    Raises:
        WeightsError: naming the first field that differs, with both values.
    """
    own = {field.name for field in fields(ModelShape)}
    both = (
        {**{key: value for key, value in asdict(each).items() if key in own}, "encoders": foreign, "provider": builder}
        for each, foreign, builder in (
            (manifest.shape, manifest.foreign, manifest.builder),
            (shape, shape.foreign, shape.builder),
        )
    )
    if (found := first_difference(*both)) is not None:
        raise WeightsError(
            f"{directory} is for a model with {found.key} = {found.before}, and the scenario's has {found.now}; set "
            f"model to the {directory / 'config.json'} of these weights, or name weights of the scenario's model"
        )


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write `weights.json`, which comes last: a directory without it is none."""
    content = json.dumps(manifest.model_dump(mode="json"), indent=2) + "\n"
    write_atomically(directory / MANIFEST, content.encode())


def check_new(directory: Path) -> None:
    """Refuse to write where something is already, or where nothing can be.

    Raises:
        WeightsError: naming the directory.
    """
    if directory.exists() and not directory.is_dir():
        raise WeightsError(f"{directory}: is a file; name a directory that is new or empty")
    if directory.is_dir() and any(directory.iterdir()):
        raise WeightsError(f"{directory}: is not empty; name a new directory, or remove what is in it")
    existing = next(parent for parent in directory.absolute().parents if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise WeightsError(f"{directory}: cannot be made, {existing} is no writable directory; name another")


def _check_size(path: Path, stored: StoredFile) -> None:
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise WeightsError(f"{path}: no such file; import the weights again") from None
    if size != stored.num_bytes:
        raise WeightsError(
            f"{path}: has {size} bytes of {stored.num_bytes}; it was cut short, import the weights again"
        )
