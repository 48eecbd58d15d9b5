"""Which request gets which fault: by its number, by its texts, by chance; always the same for the same seed."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from gateway.annotators import chance
from gateway.faults import FAULTS

Script: TypeAlias = Callable[[int, Sequence[str]], str]
"""A request's number, from 1, and its texts to a fault's name; empty for none."""


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

    Raises `ValueError` with what was wanted.
    """
    scripts, shares = [], {}
    for word in words:
        left, _, right = word.partition("=")
        name = right if right in FAULTS else left
        if name not in FAULTS:
            raise ValueError(
                f"{word}: expected NAME, NAME=SHARE, NUMBER=NAME or FROM-TO=NAME; --list-faults has the names"
            )
        try:
            if name == right:
                first, _, last = left.partition("-")
                scripts.append(between(int(first), int(last or first), name))
            elif right:
                shares[name] = float(right)
            else:
                scripts.append(always(name))
        except ValueError:
            raise ValueError(f"{word}: expected a number beside the fault's name") from None
    return first_of(mixed(shares, seed=seed), *scripts) if shares else first_of(*scripts)
