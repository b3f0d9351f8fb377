"""What the gradients of one step say, in words: by hand-made differences of a few parameters."""

from __future__ import annotations

import pytest

from mimo_bench.layout.grid import Grid
from mimo_bench.parity.compare import module_norms, relative_errors, worst_of
from mimo_bench.parity.diagnose import LayoutFacts, explain
from mimo_bench.record import ParameterDifference

FACTS = LayoutFacts(
    grids={"vision": Grid(dp=2), "language": Grid(tp=2, pp=2, rank_offset=2)},
    counts={"answer tokens of the global batch": 213},
)


def scaled(parameter: str, *, norm: float, scale: float, rest: float = 0.0) -> ParameterDifference:
    """A gradient that is `scale` x the baseline's of `norm`, plus something of norm `rest` at right angles to it."""
    return ParameterDifference(
        parameter=parameter,
        module=parameter.split(".")[0],
        norm=((scale * norm) ** 2 + rest**2) ** 0.5,
        baseline_norm=norm,
        error_norm=(((scale - 1) * norm) ** 2 + rest**2) ** 0.5,
        scale=scale if norm else None,
        unscaled_error_norm=rest if norm else None,
    )


LANGUAGE = scaled("language.embedding.weight", norm=4.0, scale=1.0)


def reason(*vision: ParameterDifference) -> str | None:
    return explain((*vision, LANGUAGE), bound=1e-4, facts=FACTS)


def test_equal_gradients_need_no_words() -> None:
    assert reason(scaled("vision.a", norm=3.0, scale=1.0), scaled("vision.b", norm=1.0, scale=1.00001)) is None


def test_a_uniform_scale_is_named_with_the_ratio_of_degrees_that_it_equals() -> None:
    half = reason(scaled("vision.a", norm=3.0, scale=0.5), scaled("vision.b", norm=1.0, scale=0.5))
    assert half == "gradients of vision.* are 0.5 x the baseline's, uniformly: language dp 1 / vision dp 2"
    third = reason(scaled("vision.a", norm=3.0, scale=0.3), scaled("vision.b", norm=1.0, scale=0.3))
    assert third == "gradients of vision.* are 0.3 x the baseline's, uniformly"


def test_a_scale_that_is_a_known_count_is_named_by_what_it_counts() -> None:
    tokens = reason(scaled("vision.a", norm=3.0, scale=213.0), scaled("vision.b", norm=1.0, scale=213.0))
    assert tokens == "gradients of vision.* are 213 x the baseline's, uniformly: 213 answer tokens of the global batch"


def test_wrong_gradients_on_one_pipeline_stage_are_told_with_the_stage() -> None:
    layers = [
        scaled(f"language.decoder.layers.{layer}.weight", norm=1.0, scale=2.0 if layer >= 2 else 1.0)
        for layer in range(4)
    ]
    words = explain(layers, bound=1e-4, facts=FACTS)
    assert words == (
        "2 of the gradients of language differ, most language.decoder.layers.2.weight by 1 of its norm, "
        "each 2 x the baseline's, all on pipeline stage 1 of 2"
    )


def test_an_error_in_one_slice_is_told_with_the_rank_that_holds_it() -> None:
    halves = [
        scaled(name, norm=1.0, scale=0.5, rest=0.5).model_copy(update={"slice_error_norms": (0.0, 0.7)})
        for name in ("language.decoder.layers.0.a", "language.decoder.layers.3.b")
    ]
    words = explain(halves, bound=1e-4, facts=FACTS)
    assert words is not None
    assert words.endswith(", all in the shard of tensor-parallel rank 1")
    both = [one.model_copy(update={"slice_error_norms": (0.3, 0.7)}) for one in halves]
    words = explain(both, bound=1e-4, facts=FACTS)
    assert words is not None
    assert "slice" not in words


def test_factors_that_differ_between_parameters_are_no_uniform_scale() -> None:
    words = reason(scaled("vision.a", norm=3.0, scale=0.5), scaled("vision.b", norm=1.0, scale=0.9))
    assert words == "2 of the gradients of vision differ, most vision.a by 0.5 of its norm"


def test_missing_gradients_are_counted_and_the_first_is_named() -> None:
    one = reason(scaled("vision.a", norm=3.0, scale=1.0), scaled("vision.b", norm=1.0, scale=0.0))
    assert one == "1 of 2 gradients of vision is zero, first vision.b"
    both = reason(scaled("vision.a", norm=3.0, scale=0.0), scaled("vision.b", norm=1.0, scale=0.0))
    assert both == "every gradient of vision is zero, first vision.a"


def test_a_parameter_without_a_gradient_of_its_own_is_judged_against_its_module() -> None:
    # The module's norm is 3: rounding of 3e-8 on a true zero is 1e-5 of the floor of 3e-3, and 3e-6 is 1e-3 of it.
    bias = scaled("vision.bias", norm=0.0, scale=0.0, rest=3e-8)
    assert relative_errors((scaled("vision.a", norm=3.0, scale=1.0), bias))["vision.bias"] == pytest.approx(1e-5)
    assert reason(scaled("vision.a", norm=3.0, scale=1.0), bias) is None
    wrong = scaled("vision.bias", norm=0.0, scale=0.0, rest=3e-6)
    assert reason(scaled("vision.a", norm=3.0, scale=1.0), wrong) == (
        "1 of the gradients of vision differ, most vision.bias by 0.001 of its norm"
    )


def test_a_gradient_that_is_not_finite_is_the_worst_of_all() -> None:
    broken = scaled("vision.b", norm=1.0, scale=1.0).model_copy(update={"norm": None, "error_norm": None})
    gradients = (scaled("vision.a", norm=3.0, scale=5.0), broken)
    worst = worst_of(gradients)
    assert worst is not None
    assert (worst.parameter, worst.rel) == ("vision.b", None)


def test_one_wrong_element_of_a_million_counts_by_its_own_size() -> None:
    # Of a million elements of 1.0 one is off by 0.05: 5e-5 of the norm of 1000, and 0.05 of the largest element.
    wrong = scaled("vision.a", norm=1000.0, scale=1.0, rest=0.05).model_copy(
        update={"baseline_max": 1.0, "error_max": 0.05}
    )
    assert relative_errors((wrong,))["vision.a"] == pytest.approx(0.05)
    assert relative_errors((wrong,), elementwise=False)["vision.a"] == pytest.approx(5e-5)
    # A largest element below a thousandth of the module's is judged against that: 1e-9 over 1e-3.
    silent = scaled("vision.b", norm=1e-6, scale=1.0).model_copy(update={"baseline_max": 1e-7, "error_max": 1e-9})
    assert relative_errors((wrong, silent))["vision.b"] == pytest.approx(1e-6)


def test_a_modules_norm_is_over_all_its_parameters() -> None:
    gradients = (scaled("vision.a", norm=3.0, scale=1.0), scaled("vision.b", norm=4.0, scale=1.0), LANGUAGE)
    assert module_norms(gradients) == {"vision": 5.0, "language": 4.0}
