"""The page in a real browser: what is there, what it does, and what it never does."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from mimo_bench.record import RunRecord
from mimo_bench.record.files import read_run
from mimo_bench.report import HTML_FILE, words, write_report
from tests.browser.conftest import OpenReport
from tests.support import golden, synthetic

REPORTS = Path(__file__).parents[2] / "reports"
HOSTILE = '"></script><img src=x onerror="window.hit=1"><script>window.hit=1;alert(1)</script>'


@pytest.fixture(scope="module")
def record() -> RunRecord:
    return synthetic.run(num_layouts=24, num_ranks=8)


def rows(page: Page) -> list[str]:
    """Names of the rows that are shown, from top to bottom."""
    return page.locator("#layouts-table tbody tr:visible th").all_inner_texts()


def column(page: Page, number: int) -> list[float | None]:
    """What a column is sorted by, from top to bottom."""
    said = page.locator(f"#layouts-table tbody tr:visible > :nth-child({number})").evaluate_all(
        "cells => cells.map(cell => cell.dataset.v ?? null)"
    )
    return [None if each is None else float(each) for each in said]


def head(page: Page, said: str) -> tuple[int, str | None]:
    """Press a column's head; its number from one, and how it says it is sorted."""
    button = page.get_by_role("columnheader").filter(has_text=said).get_by_role("button")
    button.click()
    found = button.locator("xpath=..")
    return found.evaluate("cell => cell.cellIndex + 1"), found.get_attribute("aria-sort")


# What is there


def test_everything_a_reader_looks_for_is_there(open_report: OpenReport, record: RunRecord) -> None:
    page = open_report(record)
    for title in ("Take", "Verdicts", "Layouts", "Speed against memory", "The same training?", "Layout by layout"):
        expect(page.get_by_role("heading", name=title, exact=True)).to_be_visible()
    expect(page.locator("#recommendation .best")).to_have_text(record.ranking[0].name)
    expect(page.locator("#layouts-table tbody tr")).to_have_count(24)
    expect(page.locator("#trade .point")).to_have_count(len(record.ranking))
    expect(page.locator("#curves figure")).to_have_count(3)
    expect(page.locator("details.layout")).to_have_count(24)


def test_the_only_chart_is_no_larger_than_one_of_three(open_report: OpenReport) -> None:
    alone = golden.record().model_copy(update={"layouts": golden.record().layouts[:1]})
    widths = []
    for record, num_charts in ((golden.record(), 3), (alone, 1)):
        figures = open_report(record).locator("#curves figure")
        expect(figures).to_have_count(num_charts)
        widths.append(figures.first.evaluate("figure => figure.getBoundingClientRect().width"))
    assert widths[0] == widths[1] < 500


@pytest.mark.parametrize(
    "directory", sorted(path.parent for path in REPORTS.glob("*/run.json")), ids=lambda path: path.name
)
def test_committed_records_still_make_a_page(open_report: OpenReport, directory: Path) -> None:
    committed = read_run(directory)
    page = open_report(committed)
    expect(page.locator("#layouts-table tbody tr")).to_have_count(len(committed.layouts))
    if (best := words.recommended(committed)) is not None:
        expect(page.locator("#recommendation .best")).to_have_text(best.name)
    else:
        expect(page.locator("#recommendation p")).to_have_text(words.none_to_take(committed))


def test_without_scripts_the_page_says_all_but_the_ranks(open_report: OpenReport) -> None:
    page = open_report(golden.record(), java_script_enabled=False)
    expect(page.locator("#filter")).to_be_hidden()
    expect(page.locator("#layouts-table tbody tr")).to_have_count(4)
    page.locator("#layout-2 summary").click()
    expect(page.locator("#layout-2 .reason").first).to_contain_text("vision gradient norm is 0.5 times")


# Sorting


def test_a_column_sorts_by_value_in_both_directions_and_leaves_the_unknown_last(
    open_report: OpenReport, record: RunRecord
) -> None:
    page = open_report(record)
    number, order = head(page, "tokens/s per")
    known = sorted(place.tokens_per_second_per_gpu or 0.0 for place in record.ranking)
    unknown = [None] * (24 - len(known))
    assert order == "descending"
    assert column(page, number) == [*reversed(known), *unknown]
    number, order = head(page, "tokens/s per")
    assert order == "ascending"
    assert column(page, number) == [*known, *unknown]


def test_names_sort_as_people_count(open_report: OpenReport, record: RunRecord) -> None:
    page = open_report(record)
    head(page, "layout")
    shown = rows(page)
    family = [name for name in shown if name.startswith("vision-dp2--language-tp3dp2-")]
    assert family == sorted(family, key=lambda name: int(name.rpartition("-")[2]))
    assert len(family) > 3


def test_only_the_column_that_is_sorted_says_so(open_report: OpenReport, record: RunRecord) -> None:
    page = open_report(record)
    expect(page.locator("th[aria-sort]")).to_contain_text("place")
    head(page, "loss")
    expect(page.locator("th[aria-sort]")).to_have_count(1)
    expect(page.locator("th[aria-sort]")).to_contain_text("loss")


# Filtering


def test_the_filter_keeps_rows_that_hold_every_word(open_report: OpenReport, record: RunRecord) -> None:
    page = open_report(record)
    page.locator("#filter").fill("tp3 crashed")
    shown = rows(page)
    wanted = [layout.name for layout in record.layouts if "tp3" in layout.name and layout.status == "crashed"]
    assert shown == wanted != []
    expect(page.locator("#shown")).to_have_text(f"{len(wanted)} of 24 layouts")
    # What the table leaves out is not opened or pointed at by mistake.
    expect(page.locator("details.layout:visible")).to_have_count(len(wanted))
    page.keyboard.press("Escape")
    expect(page.locator("#shown")).to_have_text("24 layouts")
    expect(page.locator("details.layout:visible")).to_have_count(24)


def test_settings_and_reasons_are_searched_too(open_report: OpenReport, record: RunRecord) -> None:
    page = open_report(record)
    page.locator("#filter").fill("compile_layers")
    assert len(rows(page)) == sum(layout.settings["compile_layers"] is True for layout in record.layouts)
    page.locator("#filter").fill("0.50 x the baseline")
    assert len(rows(page)) == sum(layout.status == "parity_failed" for layout in record.layouts)


def test_a_verdict_count_shows_its_layouts_and_again_all(open_report: OpenReport, record: RunRecord) -> None:
    page = open_report(record)
    button = page.get_by_role("button", name="parity failed")
    button.click()
    expect(button).to_have_attribute("aria-pressed", "true")
    assert len(rows(page)) == sum(layout.status == "parity_failed" for layout in record.layouts)
    button.click()
    assert len(rows(page)) == 24


# Keys


def test_a_reader_gets_from_the_filter_to_a_layout_by_keys_alone(open_report: OpenReport, record: RunRecord) -> None:
    page = open_report(record)
    page.keyboard.press("/")
    expect(page.locator("#filter")).to_be_focused()
    page.keyboard.type("tp3")
    page.keyboard.press("ArrowDown")
    names = rows(page)

    def focused() -> str:
        return str(page.evaluate("document.activeElement.closest('tr').cells[1].innerText"))

    assert focused() == names[0]
    page.keyboard.press("ArrowDown")
    assert focused() == names[1]
    page.keyboard.press("End")
    assert focused() == names[-1]
    page.keyboard.press("Home")
    page.keyboard.press("ArrowUp")
    assert focused() == names[0]
    page.keyboard.press("Enter")
    index = next(index for index, layout in enumerate(record.layouts) if layout.name == names[0])
    expect(page.locator(f"#layout-{index}")).to_have_attribute("open", "")
    expect(page.locator(f"#layout-{index} > summary")).to_be_focused()


def test_every_control_can_be_reached_and_shows_that_it_was(open_report: OpenReport) -> None:
    page = open_report(golden.record())
    reached: list[str] = []
    for _ in range(30):
        page.keyboard.press("Tab")
        found = page.evaluate(
            "() => { const e = document.activeElement; return [e.tagName, e.id || e.textContent.trim().slice(0, 20),"
            " getComputedStyle(e).outlineStyle] }"
        )
        assert found[0] == "BODY" or found[2] != "none", found
        reached.append(found[1])
    assert {"filter", "fastest here", "loss", golden.BASELINE} <= set(reached)


# One layout


def test_a_layout_opens_down_to_its_ranks(open_report: OpenReport, record: RunRecord) -> None:
    page = open_report(record)
    index, layout = next(
        (i, each) for i, each in enumerate(record.layouts) if each.placement == "disjoint" and each.timing
    )
    details = page.locator(f"#layout-{index}")
    expect(details.locator(".ranks li")).to_have_count(0)
    details.locator("summary").first.click()
    expect(details.locator(".ranks li")).to_have_count(8)
    first = details.locator(".ranks li").first
    expect(first).to_contain_text("vision dp0")
    expect(details.locator(".ranks li").last).to_contain_text("language")
    for title in ("Where a step goes, by rank", "Peak memory, by rank"):
        chart = details.get_by_role("img", name=title)
        expect(chart).to_be_visible()
        # Four parts of every rank's step, and six of its memory, unless one is nothing.
        assert chart.locator("rect").count() >= 8 * 3
    assert layout.memory is not None
    expect(details.locator("text.bound", has_text="device 140 GiB")).to_have_count(1)
    details.get_by_text("as a table").last.click()
    parts = layout.memory.ranks[0].parts
    assert parts is not None
    row = details.locator(".numbers tbody tr").last
    expect(row).to_be_visible()
    assert (
        f"{parts.parameters_bytes / 1024**3:.3g}"
        in details.locator(".numbers").last.locator("tbody tr").first.inner_text()
    )


def test_opening_a_layout_again_draws_nothing_twice(open_report: OpenReport, record: RunRecord) -> None:
    page = open_report(record)
    for _ in range(3):
        page.locator("#layout-1 summary").first.click()
    expect(page.locator("#layout-1 .rank-map")).to_have_count(1)


def test_an_address_with_a_layout_opens_it(open_report: OpenReport, record: RunRecord) -> None:
    page = open_report(record, at="#layout-7")
    expect(page.locator("#layout-7")).to_have_attribute("open", "")
    expect(page.locator("#layout-7 .ranks li")).to_have_count(8)


def test_a_point_leads_to_its_layout(open_report: OpenReport, record: RunRecord) -> None:
    page = open_report(record)
    best = next(index for index, layout in enumerate(record.layouts) if layout.name == record.ranking[0].name)
    page.locator(f'.point[data-layout="{best}"]').click()
    expect(page.locator(f"#layout-{best}")).to_have_attribute("open", "")


def test_pointing_at_a_row_shows_its_curve(open_report: OpenReport, record: RunRecord) -> None:
    page = open_report(record)
    row = page.locator("#layouts-table tbody tr").nth(3)
    row.hover()
    index = row.get_attribute("data-index")
    assert page.locator(f'#curves g.lit[data-layout="{index}"]').count() >= 1
    assert page.locator("#curves g.lit").count() == page.locator(f'#curves g[data-layout="{index}"]').count()


# What it never does


def test_hostile_names_and_reasons_stay_text(open_report: OpenReport) -> None:
    hostile = synthetic.run(num_layouts=3, num_ranks=2)
    layouts = tuple(
        layout.model_copy(update={"name": f"{HOSTILE}{index}", "reason": HOSTILE})
        for index, layout in enumerate(hostile.layouts)
    )
    modules = {HOSTILE: layouts[1].modules["vision"], "language": layouts[1].modules["language"]}
    layouts = (layouts[0], layouts[1].model_copy(update={"modules": modules}), layouts[2])
    page = open_report(hostile.model_copy(update={"layouts": layouts, "question": HOSTILE, "ranking": ()}))
    for index in range(3):
        page.locator(f"#layout-{index} summary").first.click()
    expect(page.locator("#layout-1 .ranks li").first).to_contain_text(HOSTILE)
    assert page.evaluate("window.hit") is None
    expect(page.locator("img")).to_have_count(0)
    expect(page.locator("script")).to_have_count(2)


def test_even_markup_that_got_in_could_not_run_or_fetch(browser: Browser, tmp_path: Path) -> None:
    write_report(tmp_path, golden.record())
    page = browser.new_page()
    refused: list[str | None] = []
    page.goto((tmp_path / HTML_FILE).as_uri())
    page.on("requestfailed", lambda request: refused.append(request.failure))
    page.evaluate(
        "html => document.body.insertAdjacentHTML('beforeend', html)",
        '<img src="https://example.invalid/x.png" onerror="window.hit=1"><button onclick="window.hit=1">press</button>',
    )
    page.get_by_role("button", name="press").click()
    assert page.evaluate("window.hit") is None
    assert refused == ["csp"]
    page.close()


# How it looks


def luminance(colour: str) -> float:
    """Relative luminance of an `rgb(r, g, b)` (WCAG 2)."""
    parts = [int(each) / 255 for each in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    linear = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(page: Page, selector: str) -> float:
    """Between the colour of an element's text and the paper."""
    colour, paper = page.locator(selector).first.evaluate(
        "e => [getComputedStyle(e).color, getComputedStyle(document.body).backgroundColor]"
    )
    light, dark = sorted((luminance(colour), luminance(paper)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_on_light_and_on_dark_paper(open_report: OpenReport, record: RunRecord, scheme: str) -> None:
    page = open_report(record, color_scheme=scheme)
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (luminance(paper) > 0.5) == (scheme == "light")
    for selector in ("h1", ".note", ".status.passed", ".status.crashed", "thead button", "#shown"):
        assert contrast(page, selector) >= 4.5, selector


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_sticks_out_of_the_window(open_report: OpenReport, record: RunRecord, width: int) -> None:
    page = open_report(record, width=width, at="#layout-4")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_it_prints_without_its_controls(open_report: OpenReport, record: RunRecord) -> None:
    page = open_report(record, color_scheme="dark", at="#layout-4")
    page.emulate_media(media="print")
    expect(page.locator("#filter")).to_be_hidden()
    expect(page.locator("#layout-4 .ranks li")).to_have_count(8)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.pdf(format="A4").startswith(b"%PDF")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_night_of_the_committed_trend_can_be_seen_on_its_paper(browser: Browser, scheme: str) -> None:
    page = browser.new_context(color_scheme=scheme).new_page()  # type: ignore[arg-type]
    page.goto((REPORTS / "trend.html").as_uri())
    nights = page.locator(".night, .outside")
    assert nights.count() >= len(list(REPORTS.glob("*/run.json")))
    fill, paper = nights.first.evaluate(
        "e => [getComputedStyle(e).fill, getComputedStyle(document.body).backgroundColor]"
    )
    light, dark = sorted((luminance(fill), luminance(paper)), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 3.0
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280
    page.context.close()
