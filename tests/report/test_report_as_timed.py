"""What the report says where parity was not asked for: the evidence as timed, in the places of parity's."""

from __future__ import annotations

import re
from typing import Any

from mimo_bench.record import AsTimed, LayoutRecord, Parity, RunRecord, Tolerance
from mimo_bench.report import render_html, render_markdown, words
from mimo_bench.report.board import measured
from mimo_bench.report.junit import render_junit
from tests.support import golden

BAND = Tolerance(loss_rel=1e-5, grad_norm_rel=1e-4)
FAILED = "as timed, from step 0 on: the gradient norm of vision is 2 x the baseline's"


def timed_alone() -> RunRecord:
    """The golden run by timing mode alone: the third layout's loss meets its bound and a gradient norm does not."""
    baseline, disjoint, wrong, crashed = golden.record().layouts
    layouts = (
        held(baseline, AsTimed(verdict="baseline", reason="3 variants set the band", num_steps=3, band=BAND)),
        held(disjoint, as_timed("passed", "3 steps lie within the noise band", vision=5e-7)),
        failed(wrong, as_timed("failed", FAILED, vision=1.0)),
        crashed,
    )
    return golden.record().model_copy(update={"modes": ("timing",), "layouts": layouts, "ranking": ()})


def as_timed(verdict: Any, reason: str, *, vision: float) -> AsTimed:
    norms: dict[str, float | None] = {"vision": vision, "language": 1e-7}
    return AsTimed(verdict=verdict, reason=reason, num_steps=3, loss_rel_max=3e-7, grad_norm_rel=norms, band=BAND)


def held(layout: LayoutRecord, timed: AsTimed) -> LayoutRecord:
    """Its timed steps lie within the band."""
    reason = f"{timed.reason}; parity was not asked for"
    parity = Parity(verdict="unjudged", reason="parity was not asked for", as_timed=timed)
    return layout.model_copy(update={"status": "unjudged", "reason": reason, "losses": (), "parity": parity})


def failed(layout: LayoutRecord, timed: AsTimed, before: Parity | None = None) -> LayoutRecord:
    """Its timed steps do not; parity mode may have agreed before."""
    known = before or Parity(verdict="unjudged", reason="parity was not asked for")
    update = {"verdict": "failed", "reason": timed.reason, "failed_check": "as_timed", "as_timed": timed}
    parity = known.model_copy(update=update)
    return layout.model_copy(update={"reason": timed.reason, "losses": (), "parity": parity})


def row(name: str, markdown: str) -> str:
    """A layout's row in the table of all layouts."""
    (found,) = [line for line in markdown.splitlines() if re.match(rf"\| [^|]+ \| {name} \| (disjoint|coloc)", line)]
    return found


def text(html: str) -> str:
    """What a page says, without its tags."""
    return " ".join(re.sub(r"<[^>]+>", " ", html.partition("<main>")[2]).split())


def test_differences_as_timed_stand_in_the_tables_where_parity_was_not_asked_for() -> None:
    markdown, page = render_markdown(timed_alone()), render_html(timed_alone())
    assert "| 3.0e-07 of 1.0e-05, as timed | 5.0e-07 of 1.0e-04, as timed |" in row(golden.DISJOINT, markdown)
    # The one that failed is shown beside its bound, not only the loss that it met.
    assert "| 3.0e-07 of 1.0e-05, as timed | 1.0e+00 of 1.0e-04, as timed |" in row(golden.WRONG, markdown)
    assert "Each difference, and its bound" in markdown
    proof = markdown.partition("Each difference, and its bound")[2].partition("</details>")[0]
    assert "1.0e+00 of 1.0e-04 |" in proof
    assert "| layout | as timed: loss | as timed: gradient norm |" in proof
    shown = text(page).partition("Layout by layout")[0]
    assert "1.0e+00 of 1.0e-04, as timed" in shown
    assert measured(timed_alone().layouts[2])[:2] == ("3.0e-07", "1.0e+00")


def test_a_layout_that_parity_mode_let_pass_shows_the_timed_difference_that_failed() -> None:
    passed = golden.record().layouts[1]
    layout = failed(passed, as_timed("failed", FAILED, vision=1.0), before=passed.parity)
    markdown = render_markdown(golden.record().model_copy(update={"layouts": (layout,), "ranking": ()}))
    assert "| 3.0e-07 of 1.0e-05, as timed | 1.0e+00 of 1.0e-04, as timed |" in row(golden.DISJOINT, markdown)
    assert "| 2.0e-07 of 1.0e-06 |" in markdown.partition("Each difference, and its bound")[2]


def test_the_page_opens_a_layout_on_every_module_as_timed() -> None:
    page = text(render_html(timed_alone()))
    assert "as timed: loss 3.0e-07 of 1.0e-05" in page
    assert "as timed: vision gradient norm 1.0e+00 of 1.0e-04" in page
    assert "as timed: language gradient norm 1.0e-07 of 1.0e-04" in page
    # Nothing is said of checks that nobody asked for.
    assert "same start" not in page.partition("Layout by layout")[2]


def test_what_lies_within_the_band_as_timed_does_not_stand_among_what_failed() -> None:
    markdown, page = render_markdown(timed_alone()), text(render_html(timed_alone()))
    not_passed, _, rest = markdown.partition("### Not passed")[2].partition("### Held as timed only")
    assert golden.WRONG in not_passed
    assert golden.DISJOINT not in not_passed
    band = "loss 3.0e-07 of 1.0e-05, gradient norm of vision 5.0e-07 of 1.0e-04"
    assert f"- {golden.DISJOINT}: 3 steps lie within the noise band, {band}\n" in rest
    assert f"- {golden.BASELINE}: 3 variants set the band: within loss 1.0e-05, gradient norm 1.0e-04\n" in rest
    for report in (markdown, page):
        assert "2 as timed only" in report
        assert "not judged" not in report
    failures = page.partition("Verdicts")[2].partition("Layouts 4 layouts")[0]
    assert golden.DISJOINT not in failures.partition("Filter")[0]
    assert 'message="as timed only: 3 steps' in render_junit(timed_alone()).decode()


def test_what_was_only_timed_is_said_to_have_no_rank_and_why() -> None:
    why = "None is ranked: parity in fp32 was not asked for (add parity to --modes)."
    said = f"{why} Within the noise band as timed: 2 of 4."
    assert said in render_markdown(timed_alone())
    assert said in text(render_html(timed_alone()))


def test_a_verdict_says_once_what_failed_as_timed() -> None:
    baseline, disjoint, wrong, _ = timed_alone().layouts
    assert words.verdict(wrong) == (
        f"failed: {FAILED}; loss 3.0e-07 of 1.0e-05; gradient norm of vision 1.0e+00 of 1.0e-04"
    )
    assert words.verdict(disjoint).endswith("gradient norm of vision 5.0e-07 of 1.0e-04; parity was not asked for")
    assert words.verdict(baseline).startswith("as timed baseline: 3 variants set the band: within loss 1.0e-05")


def test_a_layout_beside_a_baseline_that_was_not_timed_is_still_not_judged() -> None:
    layout = golden.record().layouts[1]
    assert layout.parity is not None
    parity = layout.parity.model_copy(update={"as_timed": None})
    assert words.status(layout.model_copy(update={"status": "unjudged", "parity": parity})) == "not judged"
