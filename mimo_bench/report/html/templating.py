"""Templates of the report's page and the trend page."""

from __future__ import annotations

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template


@cache
def template(name: str) -> Template:
    """The template called `name`: it escapes all that it shows, and refuses what it was not given."""
    environment = Environment(
        loader=PackageLoader("mimo_bench.report.html"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)
