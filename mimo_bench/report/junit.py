"""The verdicts as JUnit XML, one case a layout, for the test tab of a CI system.

A layout that failed parity or regressed is a failure, one that ended without a record is an error, and one that was not
judged is skipped.
"""

from __future__ import annotations

import re
from pathlib import PurePath
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from mimo_bench.record import LayoutRecord, RunRecord, Status
from mimo_bench.report import words
from mimo_bench.report.history.judgement import regressions

KINDS: dict[Status, str | None] = {
    "passed": None,
    "parity_failed": "failure",
    "unjudged": "skipped",
    "oom": "error",
    "timeout": "error",
    "crashed": "error",
    "interrupted": "error",
    "not_run": "error",
}
"""The element that says how a layout ended; a passed one needs none."""

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render_junit(record: RunRecord) -> bytes:
    """A whole `junit.xml`; what XML cannot hold, such as a terminal's escape codes, is left out."""
    name = PurePath(record.scenario_file).stem
    slower = {each.layout: f"regressed: {each.reason}" for each in regressions(record.history)}
    cases = [_case(layout, name, slower.get(layout.name)) for layout in record.layouts]
    kinds = [child.tag for case in cases for child in case]
    suite = Element(
        "testsuite",
        name=_text(name),
        timestamp=record.started_at.isoformat(timespec="seconds"),
        time=f"{sum(map(_seconds, record.layouts)):.3f}",
        tests=str(len(cases)),
        failures=str(kinds.count("failure")),
        errors=str(kinds.count("error")),
        skipped=str(kinds.count("skipped")),
    )
    suite.extend(cases)
    suites = Element("testsuites", name="mimo_bench")
    suites.append(suite)
    indent(suites)
    return f"<?xml version='1.0' encoding='utf-8'?>\n{tostring(suites, encoding='unicode')}\n".encode()


def _case(layout: LayoutRecord, scenario: str, slower: str | None) -> Element:
    case = Element("testcase", classname=_text(scenario), name=_text(layout.name), time=f"{_seconds(layout):.3f}")
    kind = KINDS[layout.status]
    if kind in (None, "skipped") and slower is not None:
        SubElement(case, "failure", type="regressed", message=_text(slower)).text = _text(slower)
    elif kind is not None:
        message = f"{words.status(layout)}: {words.first_line(layout.reason)}"
        SubElement(case, kind, type=layout.status, message=_text(message)).text = _text(layout.reason)
    return case


def _seconds(layout: LayoutRecord) -> float:
    """Return the known part of a layout's time: its launches' start-up and its timed steps."""
    startup = sum(launch.start_seconds + launch.setup_seconds for launch in layout.launches)
    return startup + (sum(layout.timing.step_seconds) if layout.timing else 0.0)


def _text(said: str) -> str:
    return _NOT_XML.sub("", said)
