"""Which request gets which fault: by its number, by its texts, by chance; always the same for the same seed."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from gateway.annotators import chance
from gateway.faults import FAULTS

Script: TypeAlias = Callable[[int, Sequence[str]], str]
"""A request's number, from 1, and its texts to a fault's name; empty for none."""

_PLACES = re.compile(r"(?P<first>[0-9]+)(?:-(?P<last>[0-9]+))?")


def no_fault(number: int, texts: Sequence[str]) -> str:
    """Everything is well."""
    return ""


def at(places: Mapping[int, str]) -> Script:
    """Faults at these numbers."""
    return lambda number, texts: places.get(number, "")


def between(first: int, last: int, name: str) -> Script:
    """One fault from `first` to `last`, both included."""
    return lambda number, texts: name if first <= number <= last else ""


def always(name: str) -> Script:
    """One fault for all."""
    return lambda number, texts: name


def mixed(shares: Mapping[str, float], *, seed: int) -> Script:
    """Each fault for its share of the requests."""

    def script(number: int, texts: Sequence[str]) -> str:
        place = chance(seed, "fault", number)
        for name, share in shares.items():
            if place < share:
                return name
            place -= share
        return ""

    return script


def first_of(*scripts: Script) -> Script:
    """The first of several scripts that has a fault for a request."""
    return lambda number, texts: next(filter(None, (script(number, texts) for script in scripts)), "")


def read_script(words: Sequence[str], *, seed: int) -> Script:
    """`error-503` (always), `error-503=0.05` (a share), `7=hang` (at a number), `10-20=brownout` (from, to).

    The narrower word wins: numbers before shares, shares before what is always. Raises `ValueError` with what was
    wanted.
    """
    numbered, shares, rest = [], {}, []
    for word in words:
        left, equals, right = word.partition("=")
        places = _PLACES.fullmatch(left)
        if word in FAULTS:
            rest.append(always(word))
        elif right in FAULTS and places:
            first, last = int(places["first"]), int(places["last"] or places["first"])
            if not 1 <= first <= last:
                raise ValueError(f"{word}: requests are counted from 1, and FROM is not beyond TO")
            numbered.append(between(first, last, right))
        elif left in FAULTS and equals:
            shares[left] = _read_share(word, right)
        else:
            raise ValueError(
                f"{word}: expected NAME, NAME=SHARE, NUMBER=NAME or FROM-TO=NAME; --list-faults has the names"
            )
    if sum(shares.values()) > 1:
        raise ValueError("the shares of all faults together are more than 1")
    return first_of(*numbered, mixed(shares, seed=seed), *rest)


def _read_share(word: str, given: str) -> float:
    try:
        share = float(given)
    except ValueError:
        share = math.nan
    if not 0 <= share <= 1:
        raise ValueError(f"{word}: expected a share of the requests, from 0 to 1")
    return share
