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
from mimo_bench.predict.validate import contradictions
from mimo_bench.record.files import read_run
from mimo_bench.record.schema import RunRecord
from mimo_bench.scenario.load import load_scenario
from mimo_bench.util.errors import ScenarioError
from tests.support.installed import installed

REPOSITORY = Path(__file__).parents[2]
EXAMPLE = REPOSITORY / "examples" / "depth_encoder"
SCENARIO = EXAMPLE / "scenario.toml"


@pytest.fixture(scope="module", name="installed")
def installed_example(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return what an installation of the example would put on the path."""
    return installed(EXAMPLE, tmp_path_factory.mktemp("site"))


@pytest.fixture
def on_path(installed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The example, importable in this process."""
    for place in installed:
        monkeypatch.syspath_prepend(place)


def run_example(installed: list[str], out: Path, *, modes: str) -> RunRecord:
    """Run the example's scenario on CPU ranks as its user would; return the record."""
    command = [sys.executable, "-m", "mimo_bench", "run", str(SCENARIO), "--device", "cpu", "--out", str(out)]
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
        ("[encoders.depth]", "[encoders.vision]", r"encoders\.vision: 'vision' is the name of a module of our own"),
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
