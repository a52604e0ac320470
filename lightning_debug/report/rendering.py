"""Pages from templates: everything from a run is escaped, cleaned and bounded on its way."""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

MOST_CHARACTERS = 2000
HERE = Path(__file__).parent
WHOLE = 10**15
# Between backticks; a call; or a name in one of the usual modules.
CODE = re.compile(
    r"`[^`\n]{1,200}`"
    r"|\b[A-Za-z_][\w.]*\((?:[^()]|\([^()]*\)){0,200}\)"
    r"|\b(?:torch|nn|F|self|optimizer|trainer)\.[\w.]*\w"
)
ENDS = re.compile(r"</(?=script|style)", re.IGNORECASE)
# What would end a script early, or a line of it.
ESCAPES = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


def render(template: str, **values: Any) -> str:
    """Return a page; text is escaped wherever a template puts it."""
    return _environment().get_template(template).render(**values)


def embedded(data: Any) -> Markup:
    """Return data as JSON for a ``<script type="application/json">``.

    Numbers that JSON lacks become null, and texts are cleaned and cut like all others.
    """
    text = json.dumps(_bare(data), allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    return Markup(text.translate(ESCAPES))


def clean(text: object, most: int = MOST_CHARACTERS) -> str:
    """Return a text without control characters and lone surrogates, cut with a note if long."""
    words = str(text)
    left_out = len(words) - most
    words = words[:most]
    if not words.isprintable():
        words = "".join(c if c.isprintable() or c in "\n\t" else " " for c in words)
    return f"{words} … ({left_out} more characters)" if left_out > 0 else words


def number(value: float) -> str:
    """Return a number as people read it: four digits that count, or a whole number."""
    if isinstance(value, int):
        # Some are too large to be made a float.
        return f"{value:,}" if abs(value) < WHOLE else f"{Decimal(value):.3e}"
    if math.isfinite(value) and value == int(value) and abs(value) < WHOLE:
        return f"{int(value):,}"
    return f"{value:.4g}"


def sentence(text: str) -> str:
    """Return a text with its first letter large."""
    return text[:1].upper() + text[1:]


def marked(text: object) -> Markup:
    """Return a text with what is to be typed in it marked as code."""
    return Markup(
        CODE.sub(lambda match: f"<code>{match[0].strip('`')}</code>", escape(clean(text)))
    )


def static(name: str) -> Markup:
    """Return a file of ours to be put into a ``<style>`` or a ``<script>``."""
    text = (HERE / "static" / name).read_text(encoding="utf-8")
    return Markup(ENDS.sub(r"<\\/", text))


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"cut": clean, "marked": marked, "number": number, "sentence": sentence}
    environment.globals |= {"static": static, "embedded": embedded}
    return environment


def _shown(value: Any) -> Any:
    """Return what a template puts into a page: markup of ours as it is, all else cleaned."""
    return value if isinstance(value, (Markup, int)) else clean(value)


def _bare(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {clean(key): _bare(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_bare(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int)):
        return value
    return clean(value)
