"""Digests of a user's own files, so that no run is resumed or compared after rows were edited.

Tables are read to the last byte. Images are only looked at from outside, by name and size: there may be 100,000.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from stat import S_ISREG
from typing import Final

from mimo_bench.data.columns import columns_of, holds_paths
from mimo_bench.data.config import FILE_KINDS, DataFingerprint, FileDigest, HuggingFaceData, ImagesDigest
from mimo_bench.data.source import Rows, be_quiet, images_of_messages, load, source_of
from mimo_bench.util import DataError

_HIDDEN: Final = (".", "__")
"""How names begin that `datasets` passes over."""
_PROCESSOR: Final = (
    *("tokenizer*", "vocab*", "merges.txt", "*.model", "*.tiktoken", "added_tokens.json", "special_tokens_map.json"),
    *("*processor_config.json", "chat_template*", "additional_chat_templates/*"),
)
_ROWS_AT_ONCE: Final = 1000

_Named = dict[str, Path]
"""Files by their names from the data's folder on."""


def read_fingerprint(data: HuggingFaceData) -> DataFingerprint:
    """Return the digests of tables and processor by bytes, of images by name and size, of hub datasets by commit.

    Raises:
        DataError: it cannot be read, or the hub cannot be reached; the message names file or dataset.
    """
    be_quiet()
    place = data.place("path")
    try:
        if place is None:
            return DataFingerprint(revision=_revision(data), processor=_of_processor(data))
        tables, images = _inside(data, place) if place.is_dir() else _of_table(data, place)
        return DataFingerprint(
            files={name: _digest(path) for name, path in sorted(tables.items())},
            images=_digest_of_images(images),
            processor=_of_processor(data),
        )
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        remedy = "look at the name and the network" if place is None else "mend it"
        raise DataError(f"data.path: {data.path!r}: its content cannot be read: {reason}; {remedy}") from None


def _of_processor(data: HuggingFaceData) -> dict[str, FileDigest]:
    """Digests of the files that `transformers` makes a processor of, without weights and notes in the same folder."""
    folder = data.place("processor")
    found = sorted({path for kind in _PROCESSOR for path in folder.glob(kind) if path.is_file()}) if folder else ()
    return {path.relative_to(data.located["processor"]).as_posix(): _digest(path) for path in found}


def _revision(data: HuggingFaceData) -> str:
    # Imported here: it brings pandas along, which ranks that train on anything else should not pay for.
    import datasets

    # The commit; without a network, that of what `datasets` keeps.
    return str(datasets.load_dataset_builder(**source_of(data)).hash)


def _of_table(data: HuggingFaceData, file: Path) -> tuple[_Named, _Named]:
    """A table and the images that its rows name."""
    return {file.name: file}, _images_in_rows(data, file.parent)


def _inside(data: HuggingFaceData, folder: Path) -> tuple[_Named, _Named]:
    """The tables of a folder and its images; `datasets` reads no other file of it."""
    from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

    # A walk of our own: that of `datasets` takes minutes where there are 100,000.
    found, kinds = dict(_files_below(folder)), frozenset(ImageFolder.EXTENSIONS)
    images = {name: path for name, path in found.items() if path.suffix.lower() in kinds}
    others = {name: path for name, path in found.items() if name not in images}
    tables = {name: path for name, path in others.items() if path.suffix in FILE_KINDS} or others
    # As `datasets` tells them apart: by what there is more of.
    if len(images) <= len(tables):
        return tables, _images_in_rows(data, folder)
    metadata = {name: path for name, path in tables.items() if path.name in ImageFolder.METADATA_FILENAMES}
    return metadata or tables, images


def _files_below(folder: Path) -> Iterator[tuple[str, Path]]:
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(_HIDDEN)]
        inside = Path(parent)
        inner = inside.relative_to(folder).as_posix()
        for name in files:
            if not name.startswith(_HIDDEN):
                yield name if inner == "." else f"{inner}/{name}", inside / name


def _images_in_rows(data: HuggingFaceData, folder: Path) -> _Named:
    """The images that rows name by their paths, in whatever split; none where they hold the images themselves."""
    loaded = load(data)
    columns = columns_of(data, loaded.features)
    found = (name for table in loaded.rows.values() for name in _paths(Rows(table=table, columns=columns)))
    return {name: folder / name for name in found}


def _paths(rows: Rows) -> Iterator[str]:
    column = rows.columns.get("images")
    if column is not None and holds_paths(rows.table.features.get(column)):
        for batch in rows.table.select_columns([column]).iter(batch_size=_ROWS_AT_ONCE):
            for value in batch[column]:
                several: Iterable[str | None] = value if isinstance(value, list) else [value]
                # A value that is no path is a bad sample, reported when it is read.
                yield from filter(None, several)
    for values in images_of_messages(rows):
        yield from (value for value in values if isinstance(value, str) and not value.startswith("data:"))


def _digest(path: Path) -> FileDigest:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256")
        return FileDigest(num_bytes=file.tell(), sha256=found.hexdigest())


def _digest_of_images(images: Mapping[str, Path]) -> ImagesDigest | None:
    """By names and sizes; one that is missing counts without a size."""
    if not images:
        return None
    sizes = {name: _size(images[name]) for name in sorted(images)}
    found = hashlib.sha256()
    for name, size in sizes.items():
        found.update(os.fsencode(f"{name}\0{size}\n"))
    return ImagesDigest(
        num_files=len(sizes), num_bytes=sum(size or 0 for size in sizes.values()), sha256=found.hexdigest()
    )


def _size(path: Path) -> int | None:
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return found.st_size if S_ISREG(found.st_mode) else None
