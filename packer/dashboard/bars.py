"""A whole and its parts as one bar: its parts lie side by side, and never beyond its end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Share:
    """A part of a whole: from where to where it is drawn in per cent, and its tone."""

    start: float
    width: float
    tone: str


def line_up(parts: Iterable[tuple[int, str]], whole: int) -> Iterator[Share]:
    """Counts and their tones as parts of `whole`; where they are more, they are the whole."""
    counted = [(count, tone) for count, tone in parts if count > 0]
    whole = max(whole, sum(count for count, _ in counted))
    start = 0.0
    for count, tone in counted:
        width = 100 * count / whole
        yield Share(start, width, tone)
        start += width
