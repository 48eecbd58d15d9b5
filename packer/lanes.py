"""Items are read ahead within a bound and handed out in the input's order, whatever order they end in."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable

from packer.items import Result
from packer.slots import Slot

# Items that are read ahead of the first one that has not ended: what a slow request may hold up, and memory's bound
LOOK_AHEAD = 10_000
LOOK_AHEAD_IN_BATCH = 50_000  # a batch holds up all that is in it
_LOOK_AHEAD_CHARACTERS = 32_000_000


class Lane:
    """The items of one stream: up to `look_ahead` are read ahead, ended in any order, handed out in the input's."""

    def __init__(self, look_ahead: int = LOOK_AHEAD) -> None:
        self._look_ahead = look_ahead
        self.news = asyncio.Event()
        self._slots: deque[Slot] = deque()
        self._characters = 0
        self._room = asyncio.Event()

    def add(self, slots: Iterable[Slot]) -> None:
        """Append items that were read."""
        for slot in slots:
            self._slots.append(slot)
            self._characters += len(slot.item.text)

    def take_ended(self) -> Iterable[Result]:
        """The results that are next in order, as far as they are there; then `news` tells of the one that is not."""
        while self._slots and (result := self._slots[0].result) is not None:
            self._slots.popleft()
            self._characters -= len(result.item.text)
            self._room.set()
            yield result
        if self._slots:
            self._slots[0].wake = self.news.set

    def take_back(self) -> Iterable[Slot]:
        """The items that nobody will be handed any more."""
        slots, self._slots = self._slots, deque()
        return slots

    def is_empty(self) -> bool:
        """Whether every item that was read has been handed out."""
        return not self._slots

    async def has_room(self) -> None:
        """Wait until more items may be read."""
        while len(self._slots) >= self._look_ahead or self._characters >= _LOOK_AHEAD_CHARACTERS:
            self._room.clear()
            await self._room.wait()
