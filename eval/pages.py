"""Parts of reports that are one HTML file: the page, sections, tables, facts; no scripts, no external resources."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from importlib import resources

NOTHING = "\u2013"  # a dash, for what is not known

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{style}
</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


def page(title: str, parts: Sequence[str]) -> str:
    """A whole page with the stylesheet of all reports."""
    style = (resources.files("eval") / "report.css").read_text()
    return _PAGE.format(title=html.escape(title), style=style, body="\n".join(parts))


def section(title: str, content: str, note: str = "") -> str:
    """A headed part."""
    paragraph = f"<p>{html.escape(note)}</p>" if note else ""
    return f"<section><h2>{html.escape(title)}</h2>{paragraph}{content}</section>"


def table(head: Sequence[str], rows: Sequence[str]) -> str:
    """A table of finished rows (`<tr>...</tr>`)."""
    cells = "".join(f"<th scope=col>{html.escape(name)}</th>" for name in head)
    return f"<div class=scroll><table><thead><tr>{cells}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """A table of plain texts; the first row is the header, the first column names rows."""
    body = []
    for name, *cells in rows[1:]:
        told = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
        body.append(f"<tr><th scope=row>{html.escape(name)}</th>{told}</tr>")
    return table(rows[0], body)


def facts(values: Mapping[str, str]) -> str:
    """Names with their values, side by side."""
    cells = (f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd></div>" for name, text in values.items())
    return f"<dl class=facts>{''.join(cells)}</dl>"


def notes(lines: Sequence[str]) -> str:
    """Sentences as a list."""
    return f"<ul class=notes>{''.join(f'<li>{html.escape(line)}</li>' for line in lines)}</ul>"


def number(value: float | None, scale: float = 1, digits: int = 2) -> str:
    """A number as text, with a true minus sign; a dash for what is not known."""
    if value is None or not math.isfinite(value):
        return NOTHING
    return f"{scale * value:.{digits}f}".replace("-", "\u2212")
