"""matplotlib's figures as SVG whose colours a style sheet sets, so that one figure serves light and dark pages."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

# What figures are drawn with; each stands for the CSS variable that `render` puts in its place.
INK, QUIET, RULE, PAGE = "#010101", "#020202", "#030303", "#040404"
SERIES = ("#050501", "#050502", "#050503", "#050504", "#050505", "#050506", "#050507", "#050508")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")  # a second way to tell series apart, for those who see no colour
_VARIABLES = {INK: "ink", QUIET: "quiet", RULE: "rule", PAGE: "page"} | {
    colour: f"series-{index}" for index, colour in enumerate(SERIES)
}
# Okabe and Ito's colours, made darker for a white page and lighter for a dark one: 3 : 1 or more against either.
_LIGHT = ("#0060a8", "#b84a00", "#00795a", "#a0508a", "#8a6500", "#2b7fa8", "#555555", "#b00020")
_DARK = ("#62b5ff", "#ff9a4d", "#3ccf9f", "#e39acb", "#e5bd3f", "#8fd3f5", "#b8b8b8", "#ff8080")
_PLAIN = {
    "light": {"ink": "#1b1f24", "quiet": "#57606a", "rule": "#d4d8dd", "page": "#ffffff"},
    "dark": {"ink": "#e8eaed", "quiet": "#a4adb8", "rule": "#3a424c", "page": "#15181c"},
}

_STYLE: dict[Any, Any] = {  # matplotlib's own keys, of which its types list every one
    "svg.fonttype": "none",  # text stays text: it is read aloud, searched, and drawn in the page's own font
    "text.parse_math": False,  # a name may hold a dollar sign
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": QUIET,
    "axes.edgecolor": RULE,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": QUIET,
    "ytick.labelcolor": QUIET,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "legend.handlelength": 1.6,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
}


def colours() -> str:
    """The CSS rules that give the variables their values on a light page and on a dark one."""
    light, dark = (
        "".join(f"--{name}:{value};" for name, value in (_PLAIN[mode] | _numbered(series)).items())
        for mode, series in (("light", _LIGHT), ("dark", _DARK))
    )
    return f":root{{{light}}}@media (prefers-color-scheme:dark){{:root{{{dark}}}}}"


def _numbered(series: tuple[str, ...]) -> dict[str, str]:
    return {f"series-{index}": colour for index, colour in enumerate(series)}


@contextmanager
def style(name: str) -> Iterator[None]:
    """Draw figures in the reports' style while the block lasts; `name` makes their ids their own, and the same anew."""
    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}):
        yield


def render(figure: Figure, name: str, description: str) -> str:
    """A figure as an `<svg>` element for a page that has `colours()`; `description` is what is read aloud."""
    stream = io.StringIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # the reader's own fonts will draw it
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'(\bid="|url\(#|xlink:href="#)', rf"\g<1>{name}-", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    text = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', lambda match: _opening(match[1], name), text, count=1)
    return text.replace(">", f'><title id="{name}-title">{_escaped(description)}</title>', 1)


def alone(svg: str) -> str:
    """A rendered figure as a file of its own, with a page's colours behind it."""
    style_element = f"<style>{colours()}svg{{background:var(--page)}}</style>"
    width, height = svg.split('viewBox="', 1)[1].split('"', 1)[0].split()[2:]
    sized = svg.replace("<svg ", f'<svg width="{width}pt" height="{height}pt" ', 1)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{sized.replace("</title>", f"</title>{style_element}", 1)}'


def _opening(view_box: str, name: str) -> str:
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {spaces} viewBox="{view_box}" role="img" aria-labelledby="{name}-title">'


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
