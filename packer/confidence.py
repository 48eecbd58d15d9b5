"""How sure a model was of an answer: the probability of the tokens that spell it, or nothing; never a guess.

By the chain rule the probability of an answer is the product of its tokens' probabilities, each given all before it
(Malinin and Gales, "Uncertainty Estimation in Autoregressive Structured Prediction", ICLR 2021, section 2). Its tokens
are those that share a byte with it, so that one which begins before it (` spam`, `1 sp`) counts whole: what stands
before it, a number or a quote, is all but certain. Tokens that a schema forced have a log-probability of about 0 and
change nothing. Labels with a common beginning are told apart by the token in which they part.

It is what the model thought of its own answer, and no rate of being right: models are sure too often.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate, chain

from packer.exchange import Token


def weigh(text: str, tokens: Sequence[Token], spans: Mapping[int, Sequence[tuple[int, int]]]) -> dict[int, float]:
    """The confidence of each answer in `text`, by its number: a probability, 0 to 1.

    `spans` says where an answer stands, in characters: a label in one place, a record's fields in several, of which the
    least confident counts. An answer is left out where it has no place or one of its tokens has no probability; all are
    where `tokens` do not spell `text`, but for one behind its end, which some servers show. A token without bytes is
    the beginning of the next one's character.

    Raises nothing, and takes linear time.
    """
    data = text.encode("utf-8", "surrogatepass")
    pieces = [token.piece for token in tokens]
    if b"".join(pieces) != data and (not pieces or b"".join(pieces[:-1]) != data):
        return {}
    ends = list(accumulate(map(len, pieces)))
    offset = _offsets(text, spans)
    found = {}
    for number, parts in spans.items():
        weights = [
            _product(tokens[bisect_right(ends, offset[start]) : bisect_left(ends, offset[end]) + 1])
            for start, end in parts
        ]
        known = [weight for weight in weights if weight is not None]
        if known and len(known) == len(weights):
            found[number] = min(known)
    return found


def _product(tokens: Sequence[Token]) -> float | None:
    if all(-math.inf < token.logprob <= 0 for token in tokens):  # NaN is neither
        return math.exp(math.fsum(token.logprob for token in tokens))
    return None


def _offsets(text: str, spans: Mapping[int, Sequence[tuple[int, int]]]) -> dict[int, int]:
    """How many bytes stand before each character at which a span begins or ends."""
    offsets = {}
    before = count = 0
    for place in sorted(set(chain.from_iterable(chain.from_iterable(spans.values())))):
        count += len(text[before:place].encode("utf-8", "surrogatepass"))
        offsets[place], before = count, place
    return offsets
