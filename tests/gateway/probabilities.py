"""A reply's tokens: any pieces of its bytes, whose probabilities are those of the labels that they spell.

The pieces know nothing of labels, numbers or characters: they begin before one, end behind it, or hold a part of it.
"""

import json
import math
import random
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

# Shorter than what stands between two labels in any shape, so that no piece belongs to two of them
LONGEST_PIECE = 5


def log_probabilities(text: str, rows: Sequence[Any], sure: Sequence[float], *, seed: object = 0) -> dict[str, Any]:
    """The `logprobs` of a choice: the pieces that share a byte with the label of a row have the product `sure`.

    All others are certain, and so are those of records and of rows that `text` does not hold.
    """
    rng = random.Random(repr(seed))  # the very text takes the same pieces each time
    data = text.encode()
    cuts = [0]
    while cuts[-1] < len(data):
        cuts.append(min(len(data), cuts[-1] + rng.randint(1, LONGEST_PIECE)))
    weights = [0.0] * (len(cuts) - 1)
    for (start, end), probability in zip(_find_labels(data, rows), sure, strict=True):
        touching = [at for at, (left, right) in enumerate(pairwise(cuts)) if left < end and right > start]
        shares = [rng.random() + 0.01 for _ in touching]
        for at, share in zip(touching, shares, strict=True):
            weights[at] = math.log(max(probability, 1e-12)) * share / sum(shares)
    return {
        "content": [
            {
                "token": data[left:right].decode("utf-8", "replace"),
                "logprob": weight,
                "bytes": list(data[left:right]),
                "top_logprobs": [],
            }
            for (left, right), weight in zip(pairwise(cuts), weights, strict=True)
        ],
        "refusal": None,
    }


def _find_labels(data: bytes, rows: Sequence[Any]) -> list[tuple[int, int]]:
    """Where the label of each row stands, in bytes; nowhere for a record, and for a row that is not there."""
    found = []
    at = 0
    for number, row in enumerate(rows, 1):
        label = json.dumps(row, ensure_ascii=False)[1:-1].encode()
        heads = [f'"{number} ', f'[{number},"', f'{{"n":{number},"label":"']
        places = [
            data.find(head.encode() + label, at) + len(head) for head in heads if head.encode() + label in data[at:]
        ]
        if not isinstance(row, str) or not places:
            found.append((0, 0))
            continue
        at = min(places) + len(label)
        found.append((min(places), at))
    return found
