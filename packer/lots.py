"""What is drawn by lot for a request: a name for its pack, and canaries anywhere among its items."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from packer.canaries import Canaries, Canary

_NONCE_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"  # none that is mistaken for another


def draw_nonce(rng: random.Random) -> str:
    """A name for a pack, short enough to be echoed without a mistake."""
    return "".join(rng.choices(_NONCE_LETTERS, k=4))


def draw_canaries(known: Mapping[str, Sequence[Canary]], count: int, *, items: int, rng: random.Random) -> Canaries:
    """So many of the `known` ones, of different labels, at any numbers of a prompt for a pack of `items`."""
    if not count:
        return Canaries()
    labels = rng.sample(list(known), count)
    numbers = rng.sample(range(1, items + count + 1), count)
    drawn = [rng.choice(known[label]) for label in labels]
    return Canaries(dict(zip(numbers, drawn, strict=True)))
