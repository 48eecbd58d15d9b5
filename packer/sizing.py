"""How large the next pack may be follows evidence: it halves when over a tenth of the rows fail, and grows back slowly.

A pack that fails as a whole now and then says nothing of its size: the gateway fails others alike. What counts is
whether rows fail more often than one in ten, over all packs of late: a cumulative sum of log-likelihood ratios (Page
1954, "Continuous inspection schemes") between one in twenty and one in five. Three packs in a row that fail whole are
enough, one in thirty is not however long it goes on, and what is lost a little everywhere is found within some packs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

_FEW, _MANY = 0.05, 0.2  # of the rows; the sum neither falls nor rises at about a tenth
_FAILED = math.log(_MANY / _FEW)
_SOUND = math.log((1 - _MANY) / (1 - _FEW))
_ENOUGH = 4.0  # the sum at which packs are too large: three that fail whole, one after the other, come to 4.2
_CLEAN_ROWS = 200  # sound rows after which the pack grows by one


@dataclass(slots=True)
class PackSizer:
    """The size of the next pack, between 1 and `cap`."""

    cap: int
    size: int = field(init=False)
    _evidence: float = field(default=0.0, init=False)  # that it is too large
    _clean: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.size = self.cap

    def lower(self, cap: int) -> None:
        """Hold at most `cap` from now on."""
        self.cap = min(self.cap, cap)
        if self.size > self.cap:
            self._set(self.cap)

    def answered(self, asked: int, sound: int) -> None:
        """Book a pack's answer: how many rows were asked, how many came back sound."""
        if asked > self.size:
            return  # planned before the last change: no news about this size
        # by rows: what is asked again in small packs counts for as much as it is
        step = (_FAILED * (asked - sound) + _SOUND * sound) / self.size
        self._evidence = min(_ENOUGH, max(0.0, self._evidence + step))
        self._clean += sound
        if self._evidence == _ENOUGH and self.size > 1:
            self._set(self.size // 2)
        elif self._clean >= _CLEAN_ROWS and self.size < self.cap and not self._evidence:
            self._set(self.size + 1)

    def _set(self, size: int) -> None:
        self.size = size
        self._evidence = 0.0
        self._clean = 0
