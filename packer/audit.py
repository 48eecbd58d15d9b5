"""A promise about packing is held against items that are asked again, each alone; what breaks it is smaller packs.

The share of packed items that get another answer alone is the disagreement. Which items are asked again hangs on their
keys and a seed only, so that a second run finds the answers of the first. With a small share two items of one pack are
seldom both among them, so that the trials are nearly independent, as the bounds want them.

The evidence is looked at again and again, and whoever looks often enough is shown something by chance. So it is looked
at after 20, 30, 45, ... items (each time half as many more), and look k may be wrong with probability 0.05 / (k (k +
1)): over any number of looks that adds up to 0.05 at most (Lan and DeMets, Discrete sequential boundaries for clinical
trials, Biometrika 70, 1983, with the union bound). The promise is broken where Clopper and Pearson's lower bound of
that level lies above it. Packs of about one size are one test; smaller ones begin with a count of their own.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from packer.intervals import Interval, lower_bound, proportion, upper_bound

MAX_DISAGREEMENT = 0.03
_ERROR = 0.05  # of all looks at packs of one size together
_FIRST = 20  # items before the first look
_GROWTH = 1.5
_PLACES = (5, 10, 20, 50, 100)  # where a stretch of a pack ends


@dataclass(frozen=True, slots=True)
class Stretch:
    """The items that stood at the numbers `least` to `most` of their packs, and how many got another answer alone."""

    least: int
    most: int
    items: int
    errors: int


@dataclass(frozen=True, slots=True)
class AuditResult:
    """What came of asking packed items again, each alone.

    `agreed` of `asked` got the same answer; `disagreement` is the share that did not, with its two-sided interval of
    95 %. `broken` where it is over `promise` for packs of some size, as the rule above decides. `by_position` leaves
    out items that were labelled in earlier runs, whose place is not known.
    """

    asked: int
    agreed: int
    disagreement: Interval
    promise: float
    broken: bool
    by_position: tuple[Stretch, ...]

    @property
    def is_kept(self) -> bool:
        """Whether the promise holds for sure: by the one-sided bound of 95 %."""
        return not self.broken and upper_bound(self.asked - self.agreed, self.asked) <= self.promise


@dataclass(slots=True)
class Evidence:
    """Whether packs of about one size break `promise`, looked at as the evidence grows."""

    promise: float
    asked: int = field(default=0, init=False)
    errors: int = field(default=0, init=False)
    _looks: int = field(default=0, init=False)
    _next: float = field(default=_FIRST, init=False)

    def is_broken_by(self, *, agreed: bool) -> bool:
        """Book one item; whether this look at all of them shows that the promise is broken."""
        self.asked += 1
        self.errors += not agreed
        if self.asked < self._next:
            return False
        self._looks += 1
        self._next *= _GROWTH
        level = 1 - _ERROR / (self._looks * (self._looks + 1))
        return lower_bound(self.errors, self.asked, level=level) > self.promise


@dataclass(slots=True)
class Audit:
    """The state of an audit: who is asked again, what came of it, and how large packs may be (`cap`).

    Raises `CallError` where scipy is missing.
    """

    share: float
    promise: float
    cap: int
    seed: int = 0
    asked: int = field(default=0, init=False)
    agreed: int = field(default=0, init=False)
    broken: bool = field(default=False, init=False)
    _evidence: dict[int, Evidence] = field(default_factory=dict, init=False)
    _places: dict[int, tuple[int, int]] = field(default_factory=dict, init=False)  # end of a stretch -> items, errors

    def __post_init__(self) -> None:
        # scipy may be absent, and takes 0.4 s: now, and not in the middle of the job
        lower_bound(1, 2)

    def chooses(self, key: str) -> bool:
        """Whether the item with this key is asked again."""
        digest = hashlib.blake2b(f"{self.seed} {key}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") < self.share * 2**64

    def compared(self, *, agreed: bool, size: int | None = None, number: int = 0) -> bool:
        """Book one that stood at `number` in a pack of `size`, None for an earlier run; whether `cap` went down."""
        self.asked += 1
        self.agreed += agreed
        if size is None:
            return False
        end = next(place for place in _PLACES if number <= place)
        items, errors = self._places.get(end, (0, 0))
        self._places[end] = (items + 1, errors + (not agreed))
        bound = self.cap
        while size <= bound // 2:
            bound //= 2
        if size > bound or not self._evidence.setdefault(bound, Evidence(self.promise)).is_broken_by(agreed=agreed):
            return False  # a pack that left before the cap went down says nothing of those to come
        self.broken = True
        self.cap = bound // 2
        return True

    def result(self) -> AuditResult:
        """What has come of it so far."""
        starts = {end: start + 1 for start, end in zip((0, *_PLACES), _PLACES, strict=False)}
        places = sorted(self._places.items())
        return AuditResult(
            asked=self.asked,
            agreed=self.agreed,
            disagreement=proportion(self.asked - self.agreed, self.asked),
            promise=self.promise,
            broken=self.broken,
            by_position=tuple(Stretch(starts[end], end, items, errors) for end, (items, errors) in places),
        )
