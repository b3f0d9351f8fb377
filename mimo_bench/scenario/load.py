"""Read and check a scenario file."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mimo_bench.data import HuggingFaceData, Split, locate, read_contents, read_fingerprint
from mimo_bench.models import Manifest, ModelShape, check_shape, read_manifest, read_model_shape
from mimo_bench.scenario.scenario import Scenario, StoredContent
from mimo_bench.util import DataError, ScenarioError, WeightsError, explain


def load_scenario(path: Path, *, with_fingerprint: bool = False) -> Scenario:
    """Read and check a scenario file.

    Args:
        path: the file.
        with_fingerprint: whether to add that of the data, for recording, resuming and comparing. Reads all bytes
            of a user's own files except images, and looks names up on the hub.

    Raises:
        ScenarioError: with file, key or layout, value and remedy.
    """
    content = _read(path)
    for key, source in (("configured", "model"), ("stored", "weights")):
        if key in content:
            raise ScenarioError(f"{path}: {key}: is filled in from what {source} names; remove it")
    if isinstance(model := content.get("model"), str) and model.endswith(".json"):
        content["configured"] = _configured(path, model)
    manifest, directory = None, Path()
    if isinstance(weights := content.get("weights"), str):
        manifest, directory = _stored(path, weights)
        content["stored"] = StoredContent(content_hash=manifest.content_hash, directory=str(directory))
    if "data" in content:
        content["data"] = _located(path, content["data"])
    try:
        scenario = Scenario.model_validate(content)
    except ValidationError as error:
        problems = explain(error.errors(), content=content, root=Scenario)
        raise ScenarioError("\n".join(f"{path}: {problem}" for problem in problems)) from None
    try:
        scenario.check()
        if manifest is not None:
            check_shape(directory, manifest, scenario.shape)
        if isinstance(scenario.data, HuggingFaceData):
            scenario = _with_contents(scenario, scenario.data, with_fingerprint=with_fingerprint)
    except DataError as error:
        raise ScenarioError(f"{path}: {error}") from None
    except ScenarioError as error:
        raise type(error)("\n".join(f"{path}: {line}" for line in str(error).splitlines())) from None
    except WeightsError as error:
        raise ScenarioError(f"{path}: weights: {error}") from None
    return scenario


def _with_contents(scenario: Scenario, data: HuggingFaceData, *, with_fingerprint: bool) -> Scenario:
    """Return the scenario with counts and digest of its files.

    Raises:
        DataError: they cannot be read.
    """
    splits: tuple[Split, ...] = ("train", "validation") if scenario.evaluation.num_batches else ("train",)
    # A sequence has room for something else than images, which the loss scores.
    most_images = (scenario.seq_length - 1) // scenario.shape.encoders["vision"].num_tokens
    found: dict[str, Any] = {"contents": read_contents(data, splits, most_images=most_images)}
    if with_fingerprint:
        found["fingerprint"] = read_fingerprint(data)
    return scenario.model_copy(update={"data": data.model_copy(update=found)})


def _stored(path: Path, weights: str) -> tuple[Manifest, Path]:
    """Return manifest and path of the directory `weights`, next to the scenario or from the working directory."""
    places = (path.parent / weights, Path(weights))
    if (found := next((place for place in places if place.is_dir()), None)) is None:
        looked = " or ".join(dict.fromkeys(map(str, places)))
        raise ScenarioError(
            f"{path}: weights: {weights!r}: no such directory; `mimo-bench import` makes one at {looked}"
        )
    try:
        return read_manifest(found), found.absolute()
    except WeightsError as error:
        raise ScenarioError(f"{path}: weights: {error}") from None


def _configured(path: Path, model: str) -> ModelShape:
    """Return the shape of the config.json `model`, next to the scenario or from the working directory."""
    found = find_config(path, model)
    try:
        return read_model_shape(found)
    except ScenarioError as error:
        raise ScenarioError("\n".join(f"{path}: model: {line}" for line in str(error).splitlines())) from None


def find_config(path: Path, model: str) -> Path:
    """Return the path of the config.json that the scenario at `path` names `model`.

    Raises:
        ScenarioError: it is neither next to the scenario nor in the working directory.
    """
    places = (path.parent / model, Path(model))
    if (found := next((place for place in places if place.is_file()), None)) is None:
        looked = " or ".join(dict.fromkeys(map(str, places)))
        raise ScenarioError(f"{path}: model: {model!r}: no such file; put it at {looked}")
    return found


def _located(path: Path, data: Any) -> Any:
    try:
        return locate(data, folder=path.parent)
    except ScenarioError as error:
        raise ScenarioError(f"{path}: {error}") from None


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ScenarioError(f"{path}: no such file; `ls scenarios/` shows those that ship") from None
    except IsADirectoryError:
        raise ScenarioError(f"{path}: is a directory; name a scenario file in it") from None
    except UnicodeDecodeError as error:
        raise ScenarioError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    except OSError as error:
        raise ScenarioError(f"{path}: cannot be read: {error.strerror}") from None
    except tomllib.TOMLDecodeError as error:
        raise ScenarioError(f"{path}: not valid TOML: {error}; correct it there") from None
