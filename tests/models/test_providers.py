"""An encoder of another package: found by its entry point, checked by name, trained like our own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from mimo_bench.cli import app as cli
from mimo_bench.models import provider
from mimo_bench.models.cost import model_flops
from mimo_bench.models.hf.directory import Manifest, check_shape, read_manifest, write_manifest
from mimo_bench.models.hf.safetensors import read_header
from mimo_bench.models.llava.counterpart import missing_counterpart
from mimo_bench.predict.validate import contradictions
from mimo_bench.record import RunRecord
from mimo_bench.record.files import read_run
from mimo_bench.scenario.load import load_scenario
from mimo_bench.util.errors import ScenarioError, WeightsError
from tests.support.installed import installed as installed_from
from tests.support.pictures import write_folder

REPOSITORY = Path(__file__).parents[2]
EXAMPLE = REPOSITORY / "examples" / "depth_encoder"
SCENARIO = EXAMPLE / "scenario.toml"
OWN_MODEL = REPOSITORY / "examples" / "own_provider"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return what an installation of the example would put on the path."""
    return installed_from(EXAMPLE, tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def installed_model(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return what an installation of the example with a model would put on the path."""
    return installed_from(OWN_MODEL, tmp_path_factory.mktemp("site"))


@pytest.fixture
def on_path(installed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The example, importable in this process."""
    for place in installed:
        monkeypatch.syspath_prepend(place)


def run_example(installed: list[str], out: Path, *, modes: str, scenario: Path = SCENARIO) -> RunRecord:
    """Run a scenario on CPU ranks with the example installed; return the record."""
    command = [sys.executable, "-m", "mimo_bench", "run", str(scenario), "--device", "cpu", "--out", str(out)]
    ended = subprocess.run(
        [*command, "--modes", modes],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *installed])},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return read_run(out)


def test_the_example_trains_the_same_model_in_every_layout(installed: list[str], tmp_path: Path) -> None:
    record = run_example(installed, tmp_path / "out", modes="parity")
    assert [layout.status for layout in record.layouts] == ["passed"] * 3
    assert {len(layout.grad_norms["depth"]) for layout in record.layouts} == {3}


@pytest.mark.nightly
@pytest.mark.usefixtures("on_path")
def test_the_example_is_timed_and_its_calls_are_counted(installed: list[str], tmp_path: Path) -> None:
    record = run_example(installed, tmp_path / "out", modes="parity,timing,comm")
    (layout,) = (layout for layout in record.layouts if layout.communication and "depth-tp2" in layout.name)
    assert layout.timing is not None
    assert "depth.tp" in {row.role for row in layout.communication}
    # What is known of the other modules is held against shapes.
    assert list(contradictions(record)) == []


@pytest.mark.usefixtures("on_path")
def test_check_says_of_another_packages_encoder_what_it_cannot_predict(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", str(SCENARIO)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("memory is not predicted, as the parameters of depth are another package's") == 3
    assert "as the layers of depth are another package's: depth.tp" in printed
    assert "vision.dp-cp" in printed


@pytest.mark.usefixtures("on_path")
def test_an_encoder_of_another_package_is_a_module_like_ours() -> None:
    scenario = load_scenario(SCENARIO)
    assert list(scenario.shape.modules) == ["vision", "depth", "language"]
    assert scenario.shape.special_tokens == {"vision": 255, "depth": 254}
    # Four patches of 8 x 8 to width 32, forward and for the weights; the MLP 32 -> 128 -> 32, forward and backward;
    # the projector 32 -> 64 -> 64.
    flops = model_flops(scenario.shape, num_items={"vision": 0, "depth": 1}, num_tokens=0, num_token_pairs=0)
    assert flops["depth"] == 2 * 4 * 2 * 64 * 32 + 3 * 4 * 2 * 2 * 32 * 128 + 3 * 4 * 2 * (32 * 64 + 64 * 64)


@pytest.mark.usefixtures("on_path")
@pytest.mark.parametrize(
    ("line", "changed", "complaint"),
    [
        ("token_id = 254", "token_id = 255", r"encoders\.depth\.token_id = 255: use one .* taken: 255 by vision"),
        ("patch_size = 8", "patch_size = 5", r"encoders\.depth\.options: patch_size = 5 does not divide map_size = 16"),
        ("map_size = 16", 'map_size = "big"', r"encoders\.depth\.options\.map_size: Input should be a valid integer"),
        ("hidden_size", "hiden_size", r"encoders\.depth\.options\.hiden_size: unknown; did you mean 'hidden_size'"),
        ("[encoders.depth]", "[encoders.deepth]", r"encoders\.deepth: no installed package .* did you mean 'depth'"),
        (
            "[encoders.depth]",
            "[encoders.vision]",
            r"encoders\.vision: no installed package provides it; name the encoder that takes its place with provider",
        ),
        ("[encoders.depth]", "[encoders.language]", r"encoders\.language: the language model is no encoder"),
        ("token_id = 254", 'provider = "deepth"', r"encoders\.depth\.provider: 'deepth': no installed .* mean 'depth'"),
        ("token_id = 254", "", r"encoders\.depth\.token_id is missing; add it"),
        ("encoders.depth = {}", "", r"layout 'one-rank': module 'depth' has no grid"),
    ],
)
def test_what_cannot_be_is_refused_with_its_place_and_a_remedy(
    line: str, changed: str, complaint: str, tmp_path: Path
) -> None:
    path = tmp_path / "scenario.toml"
    text = SCENARIO.read_text(encoding="utf-8")
    assert line in text
    path.write_text(text.replace(line, changed, 1), encoding="utf-8")
    with pytest.raises(ScenarioError, match=complaint):
        load_scenario(path)


REPLACED = """
question = "Does an encoder of another package train in place of vision?"
model = "llava-tiny"
global_batch_size = 8
global_micro_batch_size = 4
seq_length = 64
baseline = "one"
steps = { parity = 2 }

[data]
provider = "huggingface"
path = "train.jsonl"
validation = "train[20:]"
processor = "processor"

[encoders.vision]
provider = "depth"
options = { num_channels = 3, map_size = 16, patch_size = 4 }

[[layout]]
name = "one"
vision = {}
language = {}

[[layout]]
name = "vision-1--language-tp2"
vision = {}
language = { tp = 2, rank_offset = 1 }
"""


@pytest.mark.usefixtures("on_path")
def test_an_encoder_of_another_package_takes_the_place_of_vision_on_own_files(
    installed: list[str], installed_model: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_folder(tmp_path)
    scenario = tmp_path / "own.toml"
    scenario.write_text(REPLACED, encoding="utf-8")
    shape = load_scenario(scenario).shape
    assert type(shape.encoders["vision"]).__name__ == "DepthProvider"
    assert (list(shape.modules), shape.special_tokens, shape.vision) == (["vision", "language"], {"vision": 255}, None)
    assert cli.main(["check", str(scenario)]) == 0
    assert "memory is not predicted, as the parameters of vision are another package's" in capsys.readouterr().out
    # Built by another package as well, it is judged like any model.
    scenario.write_text(f'provider = "adapted-projector"\n{REPLACED}', encoding="utf-8")
    record = run_example([*installed, *installed_model], tmp_path / "out", modes="parity", scenario=scenario)
    assert [layout.status for layout in record.layouts] == ["passed"] * 2


@pytest.mark.usefixtures("on_path")
def test_an_encoder_in_the_place_of_vision_must_read_what_the_data_has(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    start, rest = REPLACED.split("[data]")
    text = f'data = "digits"\n{start}[encoders.vision]{rest.split("[encoders.vision]")[1]}'
    path.write_text(text.replace("num_channels = 3, ", ""), encoding="utf-8")
    with pytest.raises(ScenarioError, match=r"square images of 3 channels, and vision reads \[1, 16, 16\]"):
        load_scenario(path)
    path.write_text(text, encoding="utf-8")
    assert load_scenario(path).shape.encoders["vision"].item_shape == (3, 16, 16)


@pytest.mark.usefixtures("on_path")
def test_weights_of_such_a_model_are_known_by_class_and_options(tmp_path: Path) -> None:
    shape = load_scenario(SCENARIO).shape
    write_manifest(tmp_path, Manifest(shape=shape, foreign=shape.foreign, files={}))
    manifest = read_manifest(tmp_path)
    check_shape(tmp_path, manifest, shape)
    text = SCENARIO.read_text(encoding="utf-8").replace("hidden_size = 32", "hidden_size = 64")
    (tmp_path / "other.toml").write_text(text, encoding="utf-8")
    complaint = r"encoders\.depth\.options\.hidden_size = 32, and the scenario's has 64"
    with pytest.raises(WeightsError, match=complaint):
        check_shape(tmp_path, manifest, load_scenario(tmp_path / "other.toml").shape)


@pytest.fixture
def model_on_path(installed_model: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The example with a model, importable in this process."""
    for place in installed_model:
        monkeypatch.syspath_prepend(place)


def test_check_says_of_another_packages_model_what_it_cannot_predict(
    model_on_path: None, capsys: pytest.CaptureFixture[str]
) -> None:
    scenario = OWN_MODEL / "scenario.toml"
    assert cli.main(["check", str(scenario)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("memory is not predicted, as the parameters of vision and language are another package's") == 3
    assert "as 'adapted-projector' of another package builds the model: vision.dp-cp, language.tp" in printed
    reason = missing_counterpart(load_scenario(scenario).shape)
    assert reason == "the model is what 'adapted-projector' of another package builds"


@pytest.mark.nightly
def test_a_model_of_another_package_is_judged_timed_trained_and_exported(
    installed_model: list[str], model_on_path: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scenario = OWN_MODEL / "scenario.toml"
    record = run_example(installed_model, tmp_path / "out", modes="parity,timing", scenario=scenario)
    assert [layout.status for layout in record.layouts] == ["passed"] * 3
    assert record.layouts[0].timing is not None
    assert record.layouts[0].timing.model_flops_per_step is None
    assert list(contradictions(record)) == []
    trained = tmp_path / "trained"
    arguments = ["--layout", "one-rank", "--steps", "1", "--device", "cpu", "--save", str(trained)]
    ended = subprocess.run(
        [sys.executable, "-m", "mimo_bench", "train", str(scenario), *arguments, "--out", str(tmp_path / "log")],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *installed_model])},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    saved = read_header(trained / "vision.safetensors")
    assert "vision.projector.adapter.0.weight" in saved
    assert cli.main(["export", str(trained), str(tmp_path / "exported")]) == 0
    said = capsys.readouterr().out
    assert "left out: vision.projector.adapter.0.bias, " in said
    assert "left out: the model's code: 'adapted-projector' built it" in said


def test_a_provider_that_no_package_has_is_refused(tmp_path: Path) -> None:
    text = (OWN_MODEL / "scenario.toml").read_text(encoding="utf-8")
    (tmp_path / "own.toml").write_text(text, encoding="utf-8")
    with pytest.raises(ScenarioError, match="provider: 'adapted-projector': no installed package provides it; install"):
        load_scenario(tmp_path / "own.toml")


class Painter:
    """What makes images: nothing that megatron-core could train."""

    def decoder_spec(self) -> None:
        """Not an encoder's."""


class Undecided:
    """An encoder's method on a class that is no dataclass."""

    def encoder_spec(self, build: object) -> None:
        """Nothing."""


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        (["tests.models.test_providers:Painter"], "Painter makes no encoder: .* no output side"),
        (["tests.models.test_providers:Undecided"], "is no dataclass; make its options the fields"),
        (["nowhere:Provider"], "nowhere:Provider cannot be imported"),
        (["a:A", "b:B"], "two packages provide it, a:A and b:B; uninstall one"),
    ],
)
def test_a_package_that_provides_no_encoder_is_refused(
    values: list[str], complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(value: str) -> object:
        module, _, name = value.partition(":")
        return getattr(__import__(module, fromlist=[name]), name)

    entries = [SimpleNamespace(name="depth", value=value, load=lambda value=value: load(value)) for value in values]
    monkeypatch.setattr(provider, "entry_points", lambda group: entries)
    with pytest.raises(ScenarioError, match=complaint):
        load_scenario(SCENARIO)
