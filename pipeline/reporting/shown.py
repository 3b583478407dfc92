"""Sections of measurements as HTML and as Markdown: the sentence, the table, the figure, where it is from."""

from base64 import b64encode
from html import escape
from io import BytesIO
from pathlib import Path

from PIL import Image

from pipeline.reporting.measured import Measured, Source

FOLDED = 40
"""A table of more rows is folded away."""
COLOURS = 48
"""Colours that are kept of a figure: plots have few, and the page stays light."""


def html(found: Measured) -> str:
    """Return the body of the section; the page needs no file beside it."""
    section = found.section
    says = f"<p>{escape(section.says)}</p>"
    if not found.sources:
        return says + _unmade(found)
    table = found.table.html()
    if len(found.table.rows) > FOLDED:
        table = f"<details><summary>All {len(found.table.rows)} rows</summary>{table}</details>"
    told = [text for source in found.sources for text in source.says]
    listed = f"<ul>{''.join(f'<li>{escape(text)}.</li>' for text in told)}</ul>" if told else ""
    pictures = "".join(
        f'<figure><img alt="Figure of {escape(source.path)}" src="{embedded(source.picture)}">'
        f"<figcaption>{escape(source.path.removesuffix('.json'))}.png</figcaption></figure>"
        for source in found.sources
        if source.picture
    )
    lines = "".join(f"<li>{_from(source)}</li>" for source in found.sources)
    return f'{says}{table}{listed}{pictures}<ul class="source">{lines}</ul>'


def markdown(found: Measured) -> str:
    """Return the section for report.md; figures and files are links."""
    lines = [f"## {found.section.title}", found.section.says]
    if not found.sources:
        lines.append(f"_Not measured yet: `{found.section.made_by}` measures it, for {found.section.place}._")
        return "\n\n".join(lines)
    lines.append(found.table.markdown())
    lines += [f"- {text}." for source in found.sources for text in source.says]
    for source in found.sources:
        figure = f" ([figure]({source.path.removesuffix('.json')}.png))" if source.picture else ""
        lines.append(f"From [{source.path}]({source.path}){figure}: `{source.made}`.")
    return "\n\n".join(lines)


def embedded(picture: Path) -> str:
    """Return a PNG with fewer colours, as an address that holds it whole."""
    with Image.open(picture) as opened:
        reduced = opened.convert("RGB").quantize(COLOURS)
    buffer = BytesIO()
    reduced.save(buffer, "png", optimize=True)
    return f"data:image/png;base64,{b64encode(buffer.getvalue()).decode('ascii')}"


def _from(source: Source) -> str:
    return f'<a href="{escape(source.path)}">{escape(source.path)}</a>: <code>{escape(source.made)}</code>'


def _unmade(found: Measured) -> str:
    return (
        f'<p class="soft">Not measured yet: <code>{escape(found.section.made_by)}</code> measures '
        f"it, for {escape(found.section.place)}.</p>"
    )
