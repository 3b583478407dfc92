"""A plot as an SVG inside the page, light and in the colours of the page."""

import re
from io import BytesIO

import matplotlib
from matplotlib.figure import Figure

from pipeline.reporting.figures import INK, LINES, STYLE

SPARED = {
    r"<!--.*?-->": "",
    r"<metadata>.*?</metadata>": "",
    r"font-family: [^;\"]*;? ?": "",
    r'<g id="[^"]*"': "<g",
    r"\n\s*": " ",
    r"> <": "><",
}
"""What an SVG inside the page can do without: the page sets the font, and no one refers to groups."""


def svg(figure: Figure, name: str) -> str:
    """Return the figure as an SVG element whose text and grid take the colours of the page around it.

    Coordinates keep two decimals of a point, to be light.

    Args:
        figure: what is drawn.
        name: makes the ids inside differ from those of other figures on the page.
    """
    buffer = BytesIO()
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue().decode("utf-8")
    element = text[text.index("<svg") :].replace(INK, "currentColor").replace(LINES, "var(--line)")
    for pattern, kept in SPARED.items():
        element = re.sub(pattern, kept, element, flags=re.DOTALL)
    element = re.sub(r'="[^"]*"', lambda found: re.sub(r"(\d\.\d\d)\d+", r"\1", found[0]), element)
    return element.replace("<svg ", f'<svg role="img" aria-label="{name}" class="figure" ', 1)
