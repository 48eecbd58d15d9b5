"""Every slot gets exactly one result, and a text that stands in many slots is one question.

Law 1 is held here and nowhere else: whoever waits for a key is told once, all of them together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from packer.items import Decision, Item, Result, Status, normalise_text
from packer.task import Task

# Failed texts that are remembered, so that their copies are not paid for again; a bound, not a promise
_FAILED_REMEMBERED = 10_000


@dataclass(slots=True, eq=False)
class Slot:
    """An item's place in the output. `result` is None until it has ended; `wake` is called when it does.

    `key` is that of its text, empty until it is registered.
    """

    item: Item
    key: str = ""
    result: Result | None = None
    wake: Callable[[], None] | None = None

    def end(self, result: Result) -> None:
        """Give the item its one result."""
        assert self.result is None, "an item ends once"
        self.result = result
        if self.wake is not None:
            self.wake()


@dataclass(frozen=True, slots=True)
class Answer:
    """An item's first answer, as in `Result`."""

    label: str | None
    record: Any
    known: bool
    confidence: float | None


class Jury(Protocol):
    """Whoever may doubt an answer, and then gives the board another one for its key, once."""

    def doubts(self, key: str, text: str, answer: Answer) -> bool:
        """Whether it takes the item, which waits until it decides."""

    def leave(self, keys: set[str]) -> set[str]:
        """Nobody wants these any more; those that it had taken and gives up."""


@dataclass(slots=True)
class Board:
    """The slots that wait, by the key of their text, and how many have ended in each state.

    `jury` None: an answer ends its item at once.
    """

    task: Task
    make_key: Callable[[str], str]
    jury: Jury | None = field(default=None, init=False)
    items: int = field(default=0, init=False)
    known: int = field(default=0, init=False)
    counts: dict[Status, int] = field(default_factory=lambda: dict.fromkeys(Status, 0), init=False)
    _waiting: dict[str, list[Slot]] = field(default_factory=dict, init=False)
    _failed: dict[str, str] = field(default_factory=dict, init=False)

    def register(self, slots: Iterable[Slot]) -> dict[str, str]:
        """Take slots in; the keys and normalised texts for which nobody waits yet."""
        fresh: dict[str, str] = {}
        for slot in slots:
            self.items += 1
            text = normalise_text(slot.item.text)
            if not text:
                self._end(slot, Status.FAILED, error="the text is empty")
                continue
            slot.key = key = self.make_key(text)
            if key in self._failed:
                self._end(slot, Status.FAILED, error=self._failed[key])
            elif key in self._waiting:
                self._waiting[key].append(slot)
            else:
                self._waiting[key] = [slot]
                fresh[key] = text
        return fresh

    def is_empty(self) -> bool:
        """Whether nobody waits."""
        return not any(self._waiting.values())

    def leave(self, slots: Iterable[Slot]) -> set[str]:
        """Take back slots whose results nobody wants any more; the keys for which nobody waits now.

        A key stays on the board as long as its request is in flight, see `drop`.
        """
        left = set()
        for slot in slots:
            waiting = self._waiting.get(slot.key)
            if slot.result is None and waiting is not None and slot in waiting:
                waiting.remove(slot)
                self.items -= 1
                if not waiting:
                    left.add(slot.key)
        if self.jury is not None and left:
            for key in self.jury.leave(left):
                self.drop(key)
                left.remove(key)
        return left

    def tally(self) -> tuple[int, int, dict[Status, int]]:
        """Items, known ones, and ends by their state."""
        return self.items, self.known, dict(self.counts)

    def reset(self, tally: tuple[int, int, dict[Status, int]]) -> None:
        """Count from `tally` on again."""
        self.items, self.known, self.counts = tally

    def waits_for(self, key: str) -> bool:
        """Whether a key has no result yet."""
        return key in self._waiting

    def count_waiting(self) -> int:
        """The texts that have no result yet."""
        return len(self._waiting)

    def drop(self, key: str) -> None:
        """Forget a key for which nobody waits and nothing is in flight."""
        assert not self._waiting[key], "somebody waits for it"
        del self._waiting[key]

    def drop_unwanted(self, keys: Iterable[str]) -> set[str]:
        """Forget those of `keys` for which nobody waits any more, where nothing is in flight; they are returned."""
        unwanted = {key for key in keys if not self._waiting[key]}
        for key in unwanted:
            self.drop(key)
        return unwanted

    def answer(self, key: str, value: Any, *, known: bool, confidence: float | None = None) -> None:
        """End all who wait for `key` with its answer, unless the jury doubts it; `known` where it cost nothing now."""
        try:
            label, record = self.task.load(value)
        except Exception:  # noqa: BLE001  a model's validators are the user's code
            self.fail(key, "the ledger's record for this text no longer passes the task's model")
            return
        if self.jury is not None and (waiting := self._waiting[key]):
            text = normalise_text(waiting[0].item.text)
            if self.jury.doubts(key, text, Answer(label, record, known, confidence)):
                return
        self.decide(key, label, record, known=known, confidence=confidence)

    def decide(
        self,
        key: str,
        label: str | None,
        record: Any,
        *,
        known: bool,
        confidence: float | None,
        decision: Decision = Decision.FIRST,
        votes: int = 1,
    ) -> None:
        """End all who wait for `key` with an answer that nobody doubts any more."""
        for slot in self._waiting.pop(key):
            self.counts[Status.LABELLED] += 1
            self.known += known
            slot.end(Result(slot.item, Status.LABELLED, label, record, "", known, confidence, decision, votes))
            known = True  # the copies of a text cost nothing

    def fail(self, key: str, reason: str) -> None:
        """End all who wait for `key` as failed; copies of the text that come later fail with them."""
        if len(self._failed) >= _FAILED_REMEMBERED:
            self._failed.clear()
        self._failed[key] = reason
        self.give_up(key, Status.FAILED, reason)

    def give_up(self, key: str, status: Status, error: str) -> None:
        """End all who wait for `key` without an answer."""
        for slot in self._waiting.pop(key):
            self._end(slot, status, error=error)

    def _end(self, slot: Slot, status: Status, *, error: str) -> None:
        self.counts[status] += 1
        slot.end(Result(slot.item, status, error=error))
