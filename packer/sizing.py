"""How large the next pack may be follows evidence: it shrinks at once on failures and grows back slowly.

Shrinks when over a tenth of the rows asked in the last packs failed. Grows by one after a clean run, up to the cap.
"""

from __future__ import annotations

from dataclasses import dataclass, field

_WINDOW = 40  # rows looked at before a verdict: two full packs of the default size
_TOLERATED = 0.1
_CLEAN_ROWS = 200  # rows without an excess of failures before the pack grows by one


@dataclass(slots=True)
class PackSizer:
    """The size of the next pack, between 1 and `cap`."""

    cap: int
    size: int = field(init=False)
    _asked: int = field(default=0, init=False)
    _failed: int = field(default=0, init=False)
    _clean: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.size = self.cap

    def lower(self, cap: int) -> None:
        """Hold at most `cap` from now on."""
        self.cap = min(self.cap, cap)
        if self.size > self.cap:
            self.size = self.cap
            self._asked = self._failed = self._clean = 0

    def answered(self, asked: int, sound: int) -> None:
        """Book a pack's answer: how many rows were asked, how many came back sound."""
        if asked > self.size:
            return  # planned before the last change: no news about this size
        self._asked += asked
        self._failed += asked - sound
        # A pack that lost half of its rows is evidence enough; small losses wait for a window
        if (asked > 1 and sound * 2 < asked) or (self._asked >= _WINDOW and self._failed > _TOLERATED * self._asked):
            self.size = max(1, self.size // 2)
            self._asked = self._failed = self._clean = 0
        elif self._asked >= _WINDOW:
            self._clean += self._asked
            self._asked = self._failed = 0
            if self._clean >= _CLEAN_ROWS and self.size < self.cap:
                self.size += 1
                self._clean = 0
