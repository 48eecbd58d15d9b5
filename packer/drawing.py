"""A chart is data in, SVG out: no script, no reference, no style sheet, and strangers' words only ever as text.

Vega-Lite draws it, offline, at two widths; colours are the page's CSS variables, so that one drawing serves light and
dark. What comes back is taken apart and only known elements and attributes are kept; what Vega says of a mark becomes
its title, which a browser shows on hovering.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias
from xml.etree import ElementTree as ET

from packer.errors import CallError
from packer.shown import show_text

WIDE, HALF, NARROW = 1_060, 505, 330  # pixels
COUNT, RATE = ",d", ",.3~r"  # d3's formats
_LABEL_CUT = 26  # characters
_TAGS = {"svg", "g", "path", "line", "rect", "text", "tspan", "title"}
_ATTRIBUTES = {"d", "transform", "fill", "stroke", "opacity", "fill-opacity", "stroke-opacity", "stroke-width"} | {
    "stroke-dasharray",
    "stroke-linecap",
    "stroke-linejoin",
    "stroke-miterlimit",
    "text-anchor",
    "font-size",
    "font-weight",
    "x",
    "y",
    "x1",
    "x2",
    "y1",
    "y2",
    "width",
    "height",
    "viewBox",
}
_GUARD = "\u2060"  # a word joiner, which `shown` lets nobody else write
_INVISIBLE = re.compile("[\ufffe\uffff]")  # which XML forbids, and a terminal does not mind
_AXIS = {
    "aria": False,
    "domainColor": "var(--axis)",
    "gridColor": "var(--line)",
    "labelColor": "var(--muted)",
    "labelFontSize": 12,
    "labelPadding": 6,
    "ticks": False,
    "title": None,
    "titleColor": "var(--muted)",
    "titleFontSize": 12,
    "titleFontWeight": "normal",
}
_CONFIG = {
    "background": None,
    "font": "sans-serif",
    "axis": _AXIS,
    "view": {"stroke": None},
    "title": {"anchor": "start", "color": "var(--ink)", "fontSize": 13, "fontWeight": "normal", "offset": 8},
    "concat": {"spacing": 22},
}
Spec: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing at two widths. `alt` says what it shows, for who cannot see it; `keys` are colours and their meaning.

    `scrolls`: at its one width it is wider than a telephone.
    """

    title: str
    alt: str
    wide: str
    narrow: str
    keys: Sequence[tuple[str, str]] = ()
    note: str = ""
    scrolls: bool = False


def shown(text: str) -> str:
    """A stranger's text on one line, with what is invisible as escapes."""
    return _INVISIBLE.sub(lambda found: f"\\u{ord(found[0]):04x}", show_text(text))


def cut(text: str, most: int = _LABEL_CUT) -> str:
    """A stranger's text in at most `most` characters."""
    line = shown(text)
    return line if len(line) <= most else f"{line[: most - 1]}…"


def percent(share: float) -> str:
    """A share in words; what is not all of it is not called 100 %, nor what is something 0 %."""
    number = round(100 * share, 1 if 0.005 <= share < 0.995 else 2)
    if 0 < share < 1:
        number = min(max(number, 0.01), 99.99)
    return f"{number:g}\N{NO-BREAK SPACE}%"


def distinct(names: Iterable[str]) -> list[str]:
    """The names as an axis takes them: a number behind those that would be the same, a guard before all.

    Without it, `__proto__` is no key for Vega. `render` takes it away again.
    """
    seen: dict[str, int] = {}
    chosen = []
    for name in names:
        unique = name
        while unique in seen:
            seen[name] += 1
            unique = f"{name} ({seen[name]})"
        seen[unique] = 1
        chosen.append(_GUARD + unique)
    return chosen


def mark(kind: str, **properties: Any) -> Spec:
    """A mark of Vega-Lite's."""
    return {"type": kind, **properties}


def layer(drawn: Spec, **encoding: Any) -> Spec:
    """A mark with its channels; one without a description has no title either."""
    return {"mark": drawn if "description" in encoding else drawn | {"aria": False}, "encoding": encoding}


def y_axis(form: str) -> Spec:
    """A vertical axis of numbers, in d3's format."""
    # the same room in every panel, so that their time axes stand below each other
    room = {"minExtent": 58, "maxExtent": 58, "labelLimit": 54}
    return {"format": form, "tickCount": 4, "domain": False} | room | ({"tickMinStep": 1} if form == COUNT else {})


def own_colour() -> Spec:
    """Each row's colour is its own `colour`."""
    return {"field": "colour", "type": "nominal", "scale": None}


def render(spec: Mapping[str, Any]) -> str:
    """The drawing as an SVG element. Raises `CallError`."""
    import vl_convert  # noqa: PLC0415  an extra

    try:
        svg = vl_convert.vegalite_to_svg({"padding": 4, **spec, "config": _CONFIG}, allowed_base_urls=[])
        root = ET.fromstring(svg)  # noqa: S314  written by the line above
    except (ValueError, ET.ParseError) as error:
        raise CallError(f"a chart cannot be drawn: {cut(str(error), 200)}") from error
    return ET.tostring(_keep_known(root), encoding="unicode")


def _keep_known(old: ET.Element) -> ET.Element:
    """The element without what is not on the lists, and without what shows nothing."""
    tag = old.tag.rpartition("}")[2]
    new = ET.Element(tag, {name: value for name, value in old.items() if name in _ATTRIBUTES})
    new.text, new.tail = (old.text or "").replace(_GUARD, ""), None
    if said := old.get("aria-label") if len(old) == 0 else None:
        title = ET.SubElement(new, "title")
        title.text, title.tail, new.text = said.replace(_GUARD, ""), new.text, None
    for inner in old:
        if (
            inner.tag.rpartition("}")[2] in _TAGS
            and inner.get("display") != "none"
            and "background" not in inner.get("class", "")
        ):
            new.append(_keep_known(inner))
    return new
