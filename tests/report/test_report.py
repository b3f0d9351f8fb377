"""The report: what it must say, that it says it safely, and that it stays small and self-contained."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from mimo_bench.record import (
    Account,
    Communication,
    Comparison,
    DeviceState,
    Energy,
    HistoryComparison,
    Loading,
    Memory,
    ModuleGrid,
    ModuleMemory,
    ModuleTiming,
    RankEnergy,
    RankMemoryOf,
    RunRecord,
)
from mimo_bench.record.schema.communication import RankAccountOf
from mimo_bench.report import Change, Changes, render_html, render_markdown, skew, step_parts, words, write_report
from mimo_bench.report.changes import changes_of
from mimo_bench.report.charts import plots
from mimo_bench.report.charts.curves import grad_norm_differences, loss_differences
from mimo_bench.report.charts.ranks import rank_data
from mimo_bench.report.charts.scales import Decades, Linear
from mimo_bench.report.charts.trade import trade_chart, trade_points
from mimo_bench.report.definitions import DEFINITIONS, of_functions
from mimo_bench.report.html.selection import MOST_IN_FULL, Selection, select
from mimo_bench.report.markdown import SIZE_LIMIT
from mimo_bench.report.ranking import advice
from tests.support import golden, synthetic

HOSTILE = '<script>alert("x")</script> | cell\n& "quoted" `code`'
VOID = {"meta", "link", "br", "img", "hr", "input"}


class Page(HTMLParser):
    """A page taken apart: its text, its tags and attributes, and whether every tag is closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text = ""
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self._open: list[str] = []
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: D102
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: D102
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:  # noqa: D102
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:  # noqa: D102
        if self._open and self._open[-1] not in ("style", "script"):
            self.text += data


def with_layout(index: int, **update: object) -> RunRecord:
    """The golden record with one layout changed."""
    layouts = list(golden.record().layouts)
    layouts[index] = layouts[index].model_copy(update=update)
    return golden.record().model_copy(update={"layouts": tuple(layouts)})


def rank_numbers(html: str) -> Any:
    """What the page's script reads."""
    (said,) = re.findall('<script type="application/json" id="rank-data">(.*?)</script>', html, re.DOTALL)
    return json.loads(said)


# The page


def test_a_report_is_three_files_beside_the_record(tmp_path: Path) -> None:
    write_report(tmp_path, golden.record())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["junit.xml", "report.html", "report.md"]
    (tmp_path / "report.html").read_bytes().decode("ascii")


def test_the_page_names_question_layouts_counts_and_reasons() -> None:
    text = Page(render_html(golden.record())).text
    assert golden.record().question in text
    for layout in golden.record().layouts:
        assert text.count(layout.name) >= 3
        assert layout.reason in text
    for count in ("2 passed", "1 parity failed", "1 crashed"):
        assert count in text


def test_the_page_shows_what_was_measured() -> None:
    text = Page(render_html(golden.record())).text
    # 640 tokens a step over 0.85 s for four steps, and over 0.6 s.
    for number in ("3,012", "4,267", "205 ms", "145 ms", "2.0e-07", "5.0e-01", "12.5 %", "12.2 s"):
        assert number in text


def test_the_page_needs_nothing_from_elsewhere() -> None:
    html = render_html(golden.record())
    page = Page(html)
    assert not {"link", "img", "iframe", "object", "form"} & set(page.tags)
    assert not [value for name, value in page.attributes if name == "src" or "//" in value]
    assert all(re.match("#(m|layout-)[0-9]+$", value) for name, value in page.attributes if name == "href")
    # The one address is the name of SVG's elements, which nothing is fetched from.
    assert set(re.findall("https?:[^\"' ]*", html)) == {"http://www.w3.org/2000/svg"}
    assert "url(" not in html
    assert "@import" not in html


def test_the_page_runs_no_script_and_applies_no_style_but_its_own() -> None:
    html = render_html(golden.record())
    (policy,) = re.findall('http-equiv="Content-Security-Policy" content="([^"]*)"', html)
    policy = unescape(policy)
    assert policy.startswith("default-src 'none'; ")
    for tag in ("script", "style"):
        (source,) = re.findall(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    # What a policy cannot tell from an attack would not work either.
    assert not [name for name, _ in Page(html).attributes if name == "style" or name.startswith("on")]


def test_hostile_text_is_shown_and_never_markup() -> None:
    record = with_layout(3, reason=HOSTILE, name="<b>x</b>")
    record = record.model_copy(update={"question": HOSTILE, "command": (HOSTILE,), "tainted": HOSTILE})
    record = record.model_copy(update={"ranking": (record.ranking[0].model_copy(update={"reason": HOSTILE}),)})
    html = render_html(record)
    assert html.count("<script") == 2
    assert "<b>x</b>" not in html
    assert Page(html).text.count('<script>alert("x")</script>') >= 5


def test_a_hostile_layout_name_is_escaped_inside_charts_too() -> None:
    hostile = '"></script><script>x</script>'
    html = render_html(with_layout(1, name=hostile))
    assert html.count("<script") == html.count("</script") == 2
    assert rank_numbers(html)["layouts"][1]["name"] == hostile


def test_no_name_can_end_the_script_that_holds_the_ranks() -> None:
    hostile = "</script><!--<script>\u2028&amp;"
    said = rank_data(with_layout(0, name=hostile), {hostile})
    assert not {"<", ">", "&"} & set(said)
    assert said.isascii()
    assert json.loads(said)["layouts"][0]["name"] == hostile


def test_unknown_prints_as_a_dash() -> None:
    html = render_html(with_layout(1, timing=None, evaluation=None, parity=None))
    row = next(row for row in html.split("<tr ") if golden.DISJOINT in row and 'class="grids"' in row)
    row = row.partition("</tr>")[0]
    # Loss, gradient norm, tokens per second, step and held-out samples; it keeps its place, which the record gives it.
    assert row.count(words.DASH) == 5
    assert "None" not in Page(html).text.partition("What the numbers mean")[0].replace("None: no layout", "")
    assert "nan" not in re.sub(r"<[^>]+>", " ", html).split()


def test_a_run_of_nothing_still_makes_a_page() -> None:
    text = Page(render_html(golden.record().model_copy(update={"layouts": (), "ranking": ()}))).text
    assert "Verdicts" in text
    assert "None: no layout passed and was timed." in text
    assert "The same training?" not in text


def test_a_run_that_was_not_timed_says_what_to_ask_for_and_has_no_columns_of_times() -> None:
    layouts = tuple(layout.model_copy(update={"timing": None}) for layout in golden.record().layouts)
    record = golden.record().model_copy(update={"modes": ("parity",), "layouts": layouts, "ranking": ()})
    html = render_html(record)
    text = Page(html).text
    assert "Not asked for: add timing to --modes." in text
    assert "Not asked for: add timing to --modes." in render_markdown(record)
    assert "None: no layout passed" not in text
    assert 'class="strip"' not in html
    assert "tokens/s per rank" not in text
    heads, cells = (re.search(f"<{part}>.*?</tr>", html, re.DOTALL) for part in ("thead", "tbody"))
    assert heads is not None
    assert cells is not None
    assert len(re.findall("<th ", heads.group())) == len(re.findall("<t[hd] ", cells.group()))


def test_one_layout_is_counted_as_one() -> None:
    record = golden.record().model_copy(update={"layouts": golden.record().layouts[:1]})
    assert "1 layouts" not in Page(render_html(record)).text
    assert "**1 layout: 1 passed**" in render_markdown(record)


def test_skipped_samples_are_counted_once_for_all_layouts_beside_the_verdicts() -> None:
    counts = {"train": 25, "validation": 6, "test": 0}
    layouts = tuple(layout.model_copy(update={"skipped_samples": counts}) for layout in golden.record().layouts[:3])
    record = golden.record().model_copy(update={"layouts": (*layouts, golden.record().layouts[3])})
    said = "Bad samples skipped: 25 of train, 6 of validation; the ranks' logs name them."
    assert said in Page(render_html(record)).text.partition("Verdicts")[2].partition("Layouts")[0]
    assert said in render_markdown(record)
    assert "skipped" not in Page(render_html(golden.record())).text.partition("What the numbers mean")[0]


def test_what_uneven_replicas_cost_is_the_surplus_of_the_busiest_one_in_the_encoders_time() -> None:
    vision = ModuleTiming(compute_seconds=None, idle_share=None, forward_seconds=0.02, backward_seconds=0.03)
    timing = golden.record().layouts[0].timing
    assert timing is not None
    loading = Loading(num_workers=2, samples_per_second_per_worker=50.0, stall_share=0.0)
    timed = {"timing": timing.model_copy(update={"modules": {"vision": vision}}), "loading": loading}
    uneven = with_layout(0, **timed, imbalance={"vision": 1.5})
    assert skew.skew_seconds(uneven.layouts[0], "vision") == pytest.approx(0.5 * (0.02 + 0.03))
    # Of a step of 205 ms, and 640 of 16 x 64 positions are text or images.
    for report in (Page(render_html(uneven)).text, render_markdown(uneven)):
        assert "1.50 x" in report
        assert "vision 25.0 ms, 12.2 %" in report
        assert "How uneven the items of encoder replicas are, by how much a step is at most longer for it" in report
        assert "37.5 % of all positions are padding" in report
    assert "### Samples" in render_markdown(uneven)

    even = with_layout(0, **timed, imbalance={"vision": 1.0})
    assert skew.cost(even.layouts[0]) == "nothing"
    assert "<summary>Samples" in render_markdown(even)
    untimed = with_layout(0, loading=loading, imbalance={"vision": 1.5})
    assert skew.cost(untimed.layouts[0]) == f"vision {words.DASH}"


def test_an_unfinished_run_says_so() -> None:
    record = golden.record().model_copy(update={"finished_at": None})
    assert "did not finish" in Page(render_html(record)).text
    assert "did not finish" in render_markdown(record)


def test_the_page_stays_small_for_a_dozen_layouts_over_many_steps() -> None:
    assert len(render_html(synthetic.run(num_layouts=12, num_steps=600))) < 250_000


def test_of_many_layouts_only_some_are_told_apart_by_eye() -> None:
    record = synthetic.run(num_layouts=60, num_ranks=4)
    found = plots.looks(record)
    apart = [name for name, look in found.items() if look not in ("base", plots.QUIET)]
    assert len(apart) == len({found[name] for name in apart}) == plots.MOST_LOOKS
    assert record.ranking[0].name in apart
    assert next(layout.name for layout in record.layouts if layout.status == "parity_failed") in apart
    assert len(found) == 60


def test_layouts_stand_in_the_order_of_their_places() -> None:
    record = synthetic.run(num_layouts=12)
    shown = re.findall(r'<tr class="[^"]*" data-index="(\d+)"', render_html(record))
    names = [record.layouts[int(index)].name for index in shown]
    assert names[: len(record.ranking)] == [place.name for place in record.ranking]
    assert len(names) == 12


def test_on_cpu_ranks_nothing_is_recommended() -> None:
    record = golden.record()
    said = f"{words.ON_CPU_RANKS} Fastest here: {golden.BASELINE} (2 ranks on 8 cores, 0.25 a core)"
    assert said in render_markdown(record)
    assert "| fastest here | layout |" in render_markdown(record)
    page = Page(render_html(record)).text
    assert said in " ".join(page.split())
    assert "fastest here" in page
    on_gpus = record.model_copy(update={"environment": record.environment.model_copy(update={"device_kind": "cuda"})})
    assert words.recommended(on_gpus) == record.ranking[0]
    assert "| place | layout |" in render_markdown(on_gpus)


def test_the_recommendation_says_why_what_it_costs_and_what_else() -> None:
    record = synthetic.run(num_layouts=12)
    text = " ".join(Page(render_html(record)).text.split())
    best = record.ranking[0]
    assert f"Take {best.name}" in text
    for part in best.reason.split("; "):
        assert part in text
    for said in advice(record.layouts):
        assert said in text
        assert said in render_markdown(record)


def test_the_ranks_of_a_layout_know_their_place_in_every_module() -> None:
    numbers = rank_numbers(render_html(golden.record()))
    disjoint = numbers["layouts"][1]
    assert disjoint["ranks"] == 4
    assert disjoint["modules"] == [
        {"name": "vision", "first": 0, "at": ["dp0", "dp1"]},
        {"name": "language", "first": 2, "at": ["tp0", "tp1"]},
    ]
    assert disjoint["memory"] is None


def test_the_ranks_of_a_layout_know_their_memory_and_the_devices_limit() -> None:
    record = synthetic.run(num_layouts=1, num_ranks=2)
    memory = record.layouts[0].memory
    assert memory is not None
    drawn = rank_numbers(render_html(record))["layouts"][0]["memory"]
    assert drawn["limit"] == 140.0
    names = ("parameters", "gradients", "optimizer", "activations", "workspace", "reserved beyond")
    assert tuple(part["name"] for part in drawn["parts"]) == names
    reserved = [rank.peak_reserved_bytes / 1024**3 for rank in memory.ranks]
    assert [sum(each) for each in zip(*(part["values"] for part in drawn["parts"]), strict=True)] == pytest.approx(
        reserved, rel=1e-3
    )


def test_memory_that_is_not_broken_down_is_drawn_as_one() -> None:
    record = synthetic.run(num_layouts=1, num_ranks=2)
    memory = record.layouts[0].memory
    assert memory is not None
    ranks = tuple(rank.model_copy(update={"parts": None}) for rank in memory.ranks)
    layout = record.layouts[0].model_copy(update={"memory": memory.model_copy(update={"ranks": ranks})})
    drawn = rank_numbers(render_html(record.model_copy(update={"layouts": (layout,)})))["layouts"][0]["memory"]
    assert [part["name"] for part in drawn["parts"]] == ["allocated", "reserved beyond"]
    assert drawn["parts"][0]["values"] == pytest.approx(
        [rank.peak_allocated_bytes / 1024**3 for rank in ranks], rel=1e-3
    )


def rank_account(rank: int, modules: tuple[str, ...], **seconds: float) -> RankAccountOf:
    known: dict[str, Any] = {f"{name}_seconds": value for name, value in seconds.items()}
    return RankAccountOf(
        rank=rank, host="bench-1", device="cpu", modules=modules, num_steps=3, step_seconds=1.0, **known
    )


def test_a_step_is_told_by_rank_and_by_module() -> None:
    ranks = (
        rank_account(0, ("vision",), compute=0.2, exposed_communication=0.1, idle=0.7, wait=0.6),
        rank_account(1, ("vision",), compute=0.4, exposed_communication=0.1, idle=0.5, wait=0.3),
        rank_account(2, ("language",), compute=0.9, exposed_communication=0.1, idle=0.0, wait=0.0),
    )
    record = with_layout(1, account=Account(ranks=ranks))
    parts = rank_numbers(render_html(record))["layouts"][1]["time"]["parts"]
    # Rank 3 is not in the account.
    assert {part["name"]: part["values"] for part in parts} == {
        "compute": [200.0, 400.0, 900.0, None],
        "exposed communication": [100.0, 100.0, 100.0, None],
        "wait": [600.0, 300.0, 0.0, None],
        "idle": [100.0, 200.0, 0.0, None],
    }
    account = record.layouts[1].account
    assert account is not None
    assert step_parts.of_module(account, "vision") == pytest.approx((0.3, 0.0, 0.1, 0.45, 0.15))
    assert step_parts.of_module(account, "audio") is None
    text = Page(render_html(record)).text
    assert "Where a step goes, by module" in text
    assert "vision, wait: 0.45 s" in text
    assert "Where a step goes" not in Page(render_html(golden.record())).text


def test_the_stages_of_a_pipeline_have_steps_of_their_own() -> None:
    ranks = (
        rank_account(0, ("vision",), compute=0.2, exposed_communication=0.1, idle=0.7, wait=0.6),
        rank_account(1, ("language",), compute=0.6, exposed_communication=0.1, idle=0.3, wait=0.25),
        rank_account(2, ("language",), compute=0.8, exposed_communication=0.1, idle=0.1, wait=0.05),
    )
    grids = {
        "vision": ModuleGrid(tp=1, cp=1, pp=1, dp=1, ranks=(0,)),
        "language": ModuleGrid(tp=1, cp=1, pp=2, dp=1, ranks=(1, 2)),
    }
    text = Page(render_html(with_layout(1, account=Account(ranks=ranks), modules=grids))).text
    assert "language, wait: 0.15 s" in text
    assert "language, stage 0, wait: 0.25 s" in text
    assert "language, stage 1, wait: 0.05 s" in text
    assert "vision, stage" not in text


def test_colocated_modules_share_a_step() -> None:
    shared = rank_account(0, ("vision", "language"), compute=0.8, exposed_communication=0.1, idle=0.1, wait=0.0)
    account = Account(
        ranks=(shared.model_copy(update={"compute_seconds_by_module": {"vision": 0.2, "language": 0.6}}),)
    )
    assert step_parts.of_module(account, "vision") == pytest.approx((0.2, 0.6, 0.1, 0.0, 0.1))


def test_energy_and_what_no_meter_could_tell_are_said() -> None:
    energy = Energy(joules_per_step=None, average_watts=None, reason="the window is shorter than 10 s")
    text = Page(render_html(with_layout(1, energy=energy, unmeasured={"memory": "no breakdown"}))).text
    assert "the window is shorter than 10 s" in text
    assert "not measured: memory" in text
    cool = DeviceState(temperature_celsius=34, sm_clock_mhz=1980, throttle_reasons=())
    hot = DeviceState(temperature_celsius=61, sm_clock_mhz=1755, throttle_reasons=("power cap by software",))
    devices = tuple(
        RankEnergy(device_uuid=f"GPU-{number}", window_seconds=12.0, joules=6144.0, before=cool, after=after)
        for number, after in enumerate((hot, cool))
    )
    known = Energy(joules_per_step=512.0, average_watts=1024.0, devices=devices)
    text = Page(render_html(with_layout(1, energy=known))).text
    assert "512 J a step, 1,024 W over all devices" in text
    assert "hottest 34 \N{DEGREE SIGN}C, slowest SM clock 1980 MHz, clocks held down by nothing" in text
    held = "clocks held down by power cap by software (1 of 2)"
    assert f"hottest 61 \N{DEGREE SIGN}C, slowest SM clock 1755 MHz, {held}" in text
    silent = devices[0].model_copy(update={"before": DeviceState(), "after": DeviceState()})
    text = Page(render_html(with_layout(1, energy=known.model_copy(update={"devices": (silent,)})))).text
    assert f"hottest {words.DASH} \N{DEGREE SIGN}C" in text
    assert f"clocks held down by {words.DASH}" in text


def test_only_ranked_layouts_are_drawn_for_speed_against_memory() -> None:
    record = synthetic.run(num_layouts=12)
    points = trade_points(record, plots.looks(record), in_full=select(record).in_full)
    assert [point.name for point in points] == [place.name for place in record.ranking]
    # What no other beats at both: leaner than all that are faster.
    for point in points:
        faster = [other for other in points if other.rate > point.rate]
        assert point.is_best == all(point.gib < other.gib for other in faster)
    assert "Speed against memory" not in Page(render_html(golden.record())).text


def test_a_devices_limit_is_drawn_where_it_is_near_and_told_where_it_is_far() -> None:
    record = synthetic.run(num_layouts=3)
    points = trade_points(record, plots.looks(record), in_full=select(record).in_full)
    assert "device 100.0 GiB" in trade_chart(points, limit_gib=100.0)
    assert "the device holds 999.0 GiB" in trade_chart(points, limit_gib=999.0)
    assert "device" not in trade_chart(points, limit_gib=None)


def test_every_definition_is_printed() -> None:
    text = Page(render_html(golden.record())).text
    assert len(DEFINITIONS) > 10
    for name, meaning in DEFINITIONS:
        assert name in text
        assert meaning in text


def test_a_definition_can_be_a_functions_docstring() -> None:
    assert dict(of_functions([words.size]))["size"] == "Bytes, in powers of 1024."


def test_communication_across_hosts_has_a_row_of_its_own() -> None:
    within = Communication(role="language.dp-cp", collective="all_reduce", calls_per_step=8, bytes_per_step=3072)
    across = within.model_copy(update={"spans_hosts": True, "bytes_per_step": 5120})
    text = Page(render_html(with_layout(1, communication=(within, across)))).text
    assert text.index("3.00 KiB") < text.index("language.dp-cp, across hosts") < text.index("5.00 KiB")


def test_memory_and_communication_are_shown_where_they_are_known() -> None:
    gib = 1024**3
    rank = RankMemoryOf(
        rank=0,
        modules=("vision",),
        device_uuid="GPU-0",
        device_used_bytes=6 * gib,
        peak_allocated_bytes=3 * gib,
        peak_reserved_bytes=5 * gib,
    )
    module = ModuleMemory(peak_allocated_bytes=3 * gib, peak_reserved_bytes=5 * gib)
    memory = Memory(modules={"vision": module}, ranks=(rank,))
    part = Communication(
        role="language.tp",
        collective="all_reduce",
        calls_per_step=24.0,
        bytes_per_step=3.0 * 1024,
        seconds_per_step=0.01,
    )
    text = Page(render_html(with_layout(1, memory=memory, communication=(part,)))).text
    for shown in ("3.00 GiB", "language.tp", "3.00 KiB", "24.0", "10.0 ms"):
        assert shown in text
    assert "peak memory" not in Page(render_html(golden.record())).text


# What changed


def test_changes_since_an_earlier_run_are_told_where_somebody_compared() -> None:
    found = Changes(since="2026-11-21", changes=(Change(layout=HOSTILE, direction="worse", said="+22 %"),))
    for shown in (
        Page(render_html(golden.record(), changes=found)).text,
        render_markdown(golden.record(), changes=found),
    ):
        assert "Since 2026-11-21" in shown
        assert "+22 %" in shown
    assert "<script" not in render_html(golden.record(), changes=found).partition("</style>")[2].partition("<main")[0]
    assert "<script" not in render_markdown(golden.record(), changes=found)


def test_without_a_comparison_the_report_does_not_speak_of_changes() -> None:
    assert "Since" not in render_html(golden.record()) + render_markdown(golden.record())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (Changes(since="x"), "Nothing moved beyond the noise."),
        (Changes(since="x", not_compared="another GPU"), "Not compared: another GPU"),
    ],
)
def test_no_change_says_whether_it_was_looked_for(changes: Changes, said: str) -> None:
    assert said in Page(render_html(golden.record(), changes=changes)).text
    assert said in render_markdown(golden.record(), changes=changes)


def held(layout: str, verdict: str, reason: str) -> Comparison:
    return Comparison.model_validate(
        {"layout": layout, "quantity": "step_seconds", "verdict": verdict, "reason": reason, "value": 0.2}
    )


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ((), "Not compared: no layout has a step time or a peak of memory to compare"),
        (
            (held("one", "unknown", "1 comparable run and 8 are needed"), held("two", "unknown", "0 comparable runs")),
            "Not compared: one: 1 comparable run and 8 are needed",
        ),
        (
            (held("one", "unknown", "1 comparable run and 8 are needed"), held("two", "steady", "within the noise")),
            "Nothing moved beyond the noise.",
        ),
    ],
)
def test_a_run_with_too_little_to_compare_with_is_not_called_steady(found: tuple[Comparison, ...], said: str) -> None:
    against = HistoryComparison(directory="history", num_runs=1, since="2025-11-03", held=found)
    record = golden.record().model_copy(update={"history": against})
    assert said in Page(render_html(record, changes=changes_of(record))).text
    assert said in render_markdown(record, changes=changes_of(record))


# Charts


def test_a_tooltip_names_layout_step_and_value() -> None:
    html = render_html(golden.record())
    assert f"<title>{golden.WRONG}, step 1: 3.00e-04</title>" in html
    assert f"<title>{golden.BASELINE}, step 0: 5.54782</title>" in html
    assert f"<title>{golden.DISJOINT}, median: 0.145 s</title>" in html


def test_the_tolerance_is_drawn() -> None:
    assert "tolerance 1.0e-06" in render_html(golden.record())


def test_a_curve_breaks_where_a_value_is_unknown() -> None:
    curve = plots.Curve(name="x", index=0, look="base", values=(1.0, 2.0, None, 3.0, 4.0))
    drawn = re.search(r'class="line" d="([^"]*)"', plots.loss_chart([curve]))
    assert drawn is not None
    assert re.findall("[ML]", drawn.group(1)) == ["M", "L", "M", "L"]


def test_thinning_a_long_curve_keeps_its_spike() -> None:
    values = [1e-7] * 1000
    values[777] = 0.5
    chart = plots.difference_chart([plots.Curve(name="x", index=0, look="base", values=values)], [], label="rel")
    assert "step 777: 5.00e-01" in chart
    assert chart.count("<use") <= plots.MOST_MARKERS


def test_differences_are_relative_to_the_baseline_step_by_step() -> None:
    assert loss_differences(golden.record())[golden.WRONG] == pytest.approx([0.0, 3e-4, 2e-3])
    assert grad_norm_differences(golden.record())[golden.WRONG] == [0.5, 0.5, 0.5]


def test_a_step_whose_loss_is_unknown_has_no_difference() -> None:
    differences = loss_differences(with_layout(1, losses=(None, *golden.LOSSES[1:])))
    assert differences[golden.DISJOINT] == [None, 0.0, 0.0]


def test_without_a_baseline_there_are_no_differences() -> None:
    record = golden.record().model_copy(update={"baseline": "nowhere"})
    assert loss_differences(record) == grad_norm_differences(record) == {}


def test_a_linear_scale_has_round_ticks() -> None:
    places, numbers = zip(*Linear(low=0.0, high=0.26, start=0.0, stop=26.0).ticks, strict=True)
    assert numbers == ("0.00", "0.05", "0.10", "0.15", "0.20", "0.25")
    assert places == pytest.approx((0.0, 5.0, 10.0, 15.0, 20.0, 25.0))
    assert [text for _, text in Linear(low=0, high=2, start=0, stop=1, whole=True).ticks] == ["0", "1", "2"]


def test_a_scale_over_equal_values_does_not_divide_by_zero() -> None:
    for values in ([3.0, 3.0], [0.0], []):
        scale = Linear.over(values, start=0.0, stop=10.0)
        assert 0.0 < scale((scale.low + scale.high) / 2.0) < 10.0


def test_zero_has_a_place_of_its_own_on_a_logarithmic_scale() -> None:
    scale = Decades.over([0.0, 1e-7, 2e-3], start=100.0, stop=0.0, zero=120.0)
    assert scale(0.0) == 120.0
    assert scale(1e-7) == pytest.approx(100.0)
    assert scale(1e-2) == pytest.approx(0.0)
    assert [text for _, text in scale.ticks] == ["0", "1e-2", "1e-3", "1e-4", "1e-5", "1e-6", "1e-7"]


# Markdown


def test_the_markdown_table_has_a_row_for_every_layout() -> None:
    lines = render_markdown(golden.record()).splitlines()
    for layout in golden.record().layouts:
        rows = [line for line in lines if f"| {layout.name} | {layout.placement} |" in line]
        assert len(rows) == 1
        assert len(re.findall(r"(?<!\\)\|", rows[0])) == 11
    assert any(r"vision dp2 @0-1 \| language tp2 @2-3" in line for line in lines)


def test_the_rows_of_the_markdown_stand_by_place_and_behind_them_in_the_order_of_the_run() -> None:
    record = golden.record()
    best, *others = record.ranking
    turned = record.model_copy(update={"ranking": (*others, best), "layouts": record.layouts[::-1]})
    ranked = [place.name for place in turned.ranking]
    rest = [layout.name for layout in turned.layouts if layout.name not in ranked]
    assert min(len(ranked), len(rest)) > 1
    rows = re.findall(r"^\| (\S+) \| (\S+) \| (?:colocated|disjoint) \|", render_markdown(turned), re.MULTILINE)
    assert rows == [*zip(("1", "2"), ranked, strict=True), *((words.DASH, name) for name in rest)]


def test_the_markdown_says_verdicts_reasons_and_ranking() -> None:
    markdown = render_markdown(golden.record())
    assert "**4 layouts: 2 passed, 1 parity failed, 1 crashed**" in markdown
    assert f"- {golden.CRASHED}, crashed: rank 2 ended with exit code 1" in markdown
    assert f"1. {golden.BASELINE}: 1,506 tokens/s" in markdown
    assert f"| {golden.DISJOINT} | timing | 6.50 s | 2.25 s | 12.2 s |" in markdown


def test_the_band_stands_beside_every_verdict() -> None:
    markdown = render_markdown(golden.record())
    (row,) = [line for line in markdown.splitlines() if f"| {golden.DISJOINT} | disjoint |" in line]
    assert "| 2.0e-07 of 1.0e-06 | 4.0e-07 of 1.0e-05 |" in row
    assert f"- {golden.DISJOINT}: passed: 3 steps agree" in markdown
    timed = "loss 3.0e-07 of 1.0e-06, gradient norm of vision 5.0e-07 of 1.0e-05"
    assert f"as timed passed: 3 steps lie within the noise band, {timed}\n" in markdown


def test_declared_settings_stand_in_the_summary_and_in_the_pages_table() -> None:
    chosen = golden.SETTINGS | {"distributed_optimizer": True, "attention": "flash"}
    record = with_layout(1, settings=chosen)
    said = "distributed_optimizer, attention = flash"
    (table,) = re.findall("<summary>Settings</summary>(.*?)</details>", render_markdown(record), re.DOTALL)
    assert f"| {golden.DISJOINT} | {said} |" in table
    assert golden.BASELINE not in table
    assert "<summary>Settings</summary>" not in render_markdown(golden.record())
    assert said in Page(render_html(record)).text.partition("Layout by layout")[0]


def test_the_verdicts_say_which_declared_settings_parity_mode_leaves_off() -> None:
    chosen = golden.SETTINGS | {"distributed_optimizer": True, "compile_layers": True, "attention": "flash"}
    record = with_layout(1, settings=chosen)
    said = "Left off in parity mode and judged as timed: compile_layers, attention = flash."
    assert said in render_markdown(record).partition("Every verdict")[2].partition("</details>")[0]
    assert "left off in parity modecompile_layers, attention = flash\n" in Page(render_html(record)).text
    without = record.model_copy(update={"modes": ("parity",)})
    assert "Left off in parity mode and not judged here: compile_layers" in render_markdown(without)
    for other in (golden.record(), record.model_copy(update={"modes": ("timing",)})):
        assert "Left off" not in render_markdown(other)


def test_a_long_reason_does_not_cut_the_bounds_from_a_verdict() -> None:
    parity = golden.record().layouts[2].parity
    assert parity is not None
    said = "vision differs, " * 40 + "and language does not"
    markdown = render_markdown(with_layout(2, parity=parity.model_copy(update={"reason": f"{said}\nmore"})))
    assert f"- {golden.WRONG}: failed: {said}; within loss 1.0e-06, gradient norm 1.0e-05\n" in markdown


def test_the_markdown_of_200_layouts_is_whole() -> None:
    markdown = render_markdown(synthetic.run(num_layouts=200, num_ranks=4))
    assert len(markdown.encode()) < SIZE_LIMIT
    assert "Cut here" not in markdown
    assert "### Take" in markdown.partition("| place |")[0]


def test_hostile_text_stays_text_in_markdown() -> None:
    record = with_layout(3, reason=HOSTILE).model_copy(update={"question": HOSTILE})
    markdown = render_markdown(record)
    assert "<script" not in markdown
    assert r"&lt;script&gt;alert(" in markdown
    assert r"\| cell" in markdown


def test_the_markdown_is_cut_at_a_line_when_it_would_be_too_long() -> None:
    layouts = golden.record().layouts * 2000
    markdown = render_markdown(golden.record().model_copy(update={"layouts": layouts}))
    assert len(markdown.encode()) < SIZE_LIMIT
    assert markdown.endswith("|\n\n*Cut here: the whole report is in `report.html`.*\n")


# Words


def test_numbers_read_well() -> None:
    assert [words.seconds(value) for value in (None, 0.0, 0.00912, 0.145, 2.25, 321.0)] == [
        words.DASH,
        "0 ms",
        "9.12 ms",
        "145 ms",
        "2.25 s",
        "321 s",
    ]
    assert [words.rate(value) for value in (None, 7.5, 1234567.0)] == [words.DASH, "7.50", "1,234,567"]
    assert [words.relative(value) for value in (None, 0.0, 2e-7)] == [words.DASH, "0", "2.0e-07"]


def test_a_grid_reads_by_its_degrees_and_ranks() -> None:
    grids = [words.grids(layout) for layout in golden.record().layouts]
    assert grids[1:3] == ["vision dp2 @0-1 | language tp2 @2-3", "vision tp1 @0 | language dp2 @1-2"]


def test_a_drift_to_one_side_stands_beside_the_spread() -> None:
    known = golden.record().layouts[1].parity
    assert known is not None
    assert known.as_timed is not None
    parity = known.model_copy(
        update={
            "loss_rel_mean": -1e-8,
            "grad_norm_rel_mean": {"vision": 3e-7, "language": 0.0},
            "as_timed": known.as_timed.model_copy(update={"loss_rel_mean": 2e-7}),
        }
    )
    record = with_layout(1, parity=parity)
    page, markdown = Page(render_html(record)).text, render_markdown(record)
    for said in ("2.0e-07 of 1.0e-06, mean -1.0e-08", "3.0e-07 of 1.0e-06, mean +2.0e-07"):
        assert said in page
        assert said in markdown
    assert "4.0e-07 of 1.0e-05, mean +3.0e-07" in page
    assert "mean 0" in page
    assert ", mean " not in render_markdown(golden.record())


def test_a_long_reason_is_cut_for_a_summary() -> None:
    assert words.first_line("one\ntwo") == "one"
    assert words.first_line("x" * 300) == "x" * 237 + "..."


def test_of_very_many_layouts_the_page_opens_the_baseline_the_unhappy_and_the_best() -> None:
    record = synthetic.run(num_layouts=MOST_IN_FULL + 30, num_ranks=256)
    shown = select(record)
    unhappy = [layout.name for layout in record.layouts if layout.status != "passed"]
    assert len(unhappy) < MOST_IN_FULL // 2
    assert len(shown.in_full) == MOST_IN_FULL
    assert {record.baseline, *unhappy, *(place.name for place in record.ranking[:100])} <= shown.in_full
    # 25,600 ranks: a hundred layouts of 256.
    assert len(shown.drawn) == 100
    assert shown.drawn < shown.in_full
    html = render_html(record)
    assert f"{MOST_IN_FULL} of {len(record.layouts)} layouts open here" in html
    assert "The ranks of 100 of them are drawn." in html
    assert html.count('<details class="layout"') == MOST_IN_FULL
    assert html.count('<div class="drawn"') == 100
    assert [layout is not None for layout in rank_numbers(html)["layouts"]] == [
        layout.name in shown.drawn for layout in record.layouts
    ]
    # Every layout is in the table, and no link leads nowhere.
    assert html.count("<tr class=") == len(record.layouts)
    assert set(re.findall('href="#(layout-[0-9]+)"', html)) <= set(re.findall('id="(layout-[0-9]+)"', html))


def test_of_few_layouts_the_page_opens_every_one_and_says_nothing_of_it() -> None:
    record = golden.record()
    names = {layout.name for layout in record.layouts}
    assert select(record) == Selection(in_full=frozenset(names), drawn=frozenset(names))
    assert "open here" not in render_html(record)


def test_a_run_whose_numbers_are_not_to_be_compared_recommends_nothing() -> None:
    shared = golden.record().model_copy(update={"tainted": "up to 4 ranks shared a GPU"})
    assert shared.ranking
    said = "None: numbers of this run are not to be compared: up to 4 ranks shared a GPU."
    assert said in render_markdown(shared)
    page = render_html(shared)
    assert said in page
    assert 'class="best"' not in page
