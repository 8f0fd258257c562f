"""Formulas of the site as MathML, which browsers draw themselves: no script, no font, nothing from elsewhere."""

from __future__ import annotations

import html
import re
from typing import Any

from latex2mathml.converter import convert

_SPAN = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)


def on_page_content(content: str, **_: Any) -> str:
    """Called by mkdocs with each page: put MathML where `pymdownx.arithmatex` has left LaTeX."""
    return _SPAN.sub(_mathml, content)


def _mathml(found: re.Match[str]) -> str:
    display = "inline" if found[2] == "(" else "block"
    formula: str = convert(html.unescape(found[3]).strip(), display=display)
    formula = formula.replace(
        '<mi mathvariant="script">M</mi>', "<mi>\N{SCRIPT CAPITAL M}</mi>"
    )  # browsers know no variant
    return re.sub(r"<mi>(ln|arg|max)</mi>(?=<m[ins])", r'<mi>\1</mi><mspace width="0.17em"/>', formula)
