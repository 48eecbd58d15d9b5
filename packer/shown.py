"""What people are shown of strangers' texts is printed and never obeyed: by a terminal, by a notebook, by a page.

Texts, labels and errors come from strangers and from models: control, bidi and other invisible characters are shown as
escapes, so that a terminal prints them and does nothing else; in HTML they are text besides.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

_SPACE = re.compile(r"[ \t\n\r\v\f\x85\u2028\u2029]+")
_UNSHOWN = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e0fff]"
)
_MOST_HTML = 200  # characters of a text in a cell
# Notebooks set what stands between two dollar signs as a formula, unless one of these classes is there
_NO_FORMULAS = "tex2jax_ignore mathjax_ignore"


def show_text(text: str) -> str:
    """`text` on one line that a terminal prints and does not obey."""
    return _UNSHOWN.sub(_escape, _SPACE.sub(" ", text))


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def cut_text(text: str, width: int) -> str:
    """`text` in at most `width` terminal cells, cut with an ellipsis; a full-width character takes two."""
    from rich.cells import cell_len, set_cell_size  # noqa: PLC0415  a bad call does not wait for rich

    if len(text) * 2 <= width or cell_len(text) <= width:
        return text
    return set_cell_size(text, width - 1).rstrip() + "…" if width > 0 else ""


def pad_text(text: str, width: int) -> str:
    """`text` in exactly `width` terminal cells, cut like `cut_text`."""
    from rich.cells import cell_len  # noqa: PLC0415  as above

    cut = cut_text(text, width)
    return cut + " " * (width - cell_len(cut))


def count_of(number: int, one: str, many: str = "") -> str:
    """`number` things, in words."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def cut_shown(text: str, most: int) -> str:
    """`text` with nothing invisible, `most` characters at most."""
    # cut before as well: a text of a megabyte is not looked through for its beginning
    shown = show_text(text[: most + 1])
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"


def html_text(text: str) -> str:
    """`text` as the content of an element: no tag, no entity, nothing invisible, 200 characters at most."""
    return html.escape(cut_shown(text, _MOST_HTML))


def html_table(above: Iterable[str], head: Sequence[str], rows: Iterable[Sequence[str]], below: str = "") -> str:
    """Lines, a table and a line as HTML for a notebook; everything given is text, and becomes `html_text`."""
    left = ' style="text-align: left"'
    heads = "".join(f"<th{left}>{html_text(name)}</th>" for name in head)
    body = "".join(f"<tr>{''.join(f'<td{left}>{html_text(cell)}</td>' for cell in row)}</tr>\n" for row in rows)
    lines = "".join(f"<p>{html_text(line)}</p>\n" for line in above)
    end = f"<p>{html_text(below)}</p>\n" if below else ""
    table = f"<table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>\n"
    return f'<div class="{_NO_FORMULAS}">\n{lines}{table}{end}</div>'
