"""A sample hangs on the texts and the seed only, and a larger one begins with the smaller one.

Each distinct text has a rank, which is a digest of the seed and the text; the sample is the texts of the lowest ranks,
in their order (bottom-k sampling). So a text that comes twice counts once, the order of rows says nothing, and what was
asked for a small sample is not bought again for a large one. Memory takes the sample, whatever the table has.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable
from dataclasses import dataclass

from packer.items import normalise_text


@dataclass(frozen=True, slots=True)
class Sample:
    """`texts` as they are asked, with their `extras`; `items` is how many rows there were, the empty ones included."""

    texts: tuple[str, ...]
    extras: tuple[str | None, ...]
    items: int


def draw_sample(rows: Iterable[tuple[str, str | None]], *, size: int, seed: int) -> Sample:
    """At most `size` distinct texts of `rows`, each with what stands beside it where it comes first."""
    # a heap has its smallest on top: here the rank that is the next to leave
    held: list[tuple[int, str, str | None]] = []
    ranks: set[int] = set()
    items = 0
    for given, extra in rows:
        items += 1
        text = normalise_text(given)
        if not text:
            continue
        rank = _rank(text, seed)
        if rank in ranks or (len(held) == size and rank > -held[0][0]):
            continue
        ranks.add(rank)
        heapq.heappush(held, (-rank, text, extra))
        if len(held) > size:
            ranks.discard(-heapq.heappop(held)[0])
    drawn = sorted(held, key=lambda entry: -entry[0])
    return Sample(tuple(text for _, text, _ in drawn), tuple(extra for _, _, extra in drawn), items)


def _rank(text: str, seed: int) -> int:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16, key=str(seed).encode())
    return int.from_bytes(digest.digest(), "big")
