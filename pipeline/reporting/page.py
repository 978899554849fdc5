"""A page that is one file: templates, style and script put together, and a policy that lets nothing else in."""

from __future__ import annotations

import base64
import functools
import hashlib
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pipeline.data.kinds import kind_of
from pipeline.reporting import style, text
from pipeline.reporting.colours import MISSING_COLOUR

HERE = Path(__file__).parent


def render_page(template: str, **context: Any) -> str:
    """A page made of `templates/TEMPLATE`, which extends `page.html.jinja`.

    The page's content security policy names the script by its hash: no other runs, not even one that a name from
    the data smuggled in.
    """
    script = _asset("script.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return (
        _environment()
        .get_template(template)
        .render(
            light=style.LIGHT,
            dark=style.DARK,
            missing_colour=MISSING_COLOUR,
            stylesheet=_asset("style.css"),
            script=script,
            script_hash=f"sha256-{digest}",
            **context,
        )
    )


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=text.number,
        signed=text.signed,
        percent=text.percent,
        count=text.count,
        thousands=text.thousands,
        interval=text.interval,
        value=text.shown_value,
        source_name=lambda source: kind_of(source).name,
    )
    return environment


@functools.cache
def _asset(name: str) -> str:
    return (HERE / "assets" / name).read_text(encoding="utf-8")
