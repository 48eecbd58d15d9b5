"""A canary is a text with its right label that stands in a pack among the items: an attack on the pack hits it too.

What is numbered on a prompt, canaries included, becomes numbers of the pack in this file and nowhere else. Behind
it a canary has no number, so that none can reach an item, the ledger, or a count of items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from packer.errors import CallError
from packer.items import normalise_text
from packer.task import Task

PER_PACK = 2  # of different labels: an attack that gives every line one label gives it to a canary of another


@dataclass(frozen=True, slots=True)
class Canary:
    """A text as it is sent, and the label that is right for it."""

    text: str
    label: str


@dataclass(frozen=True, slots=True)
class Canaries:
    """The canaries of one request, by their numbers on its prompt; none in a single, which has no neighbour to harm."""

    by_number: Mapping[int, Canary] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.by_number)

    def mix(self, texts: Sequence[str]) -> list[str]:
        """All texts of the prompt, in the order of their numbers: the pack's `texts` with the canaries among them."""
        items = iter(texts)
        numbers = range(1, len(texts) + len(self) + 1)
        return [self.by_number[number].text if number in self.by_number else next(items) for number in numbers]

    def sift(self, rows: Mapping[int, Any]) -> tuple[dict[int, Any], dict[str, str | None]]:
        """The pack's rows by the pack's numbers, and what was missed: a canary's label, and what came (None: no row).

        Where something was missed there are no rows: nothing tells which of them were hit too. An answer without any
        row accuses nobody.
        """
        if not self.by_number:
            return dict(rows), {}
        missed: dict[str, str | None] = {}
        if rows:
            missed = {
                canary.label: rows.get(number)
                for number, canary in self.by_number.items()
                if rows.get(number) != canary.label
            }
        return {} if missed else self.renumber(rows), missed

    def renumber(self, rows: Mapping[int, Any]) -> dict[int, Any]:
        """What stands by the prompt's numbers by the pack's; what is a canary's is left out."""
        return {
            number - sum(canary < number for canary in self.by_number): row
            for number, row in rows.items()
            if number not in self.by_number
        }


def find_canaries(task: Task) -> dict[str, tuple[Canary, ...]]:
    """The task's canaries by their labels. Raises `CallError` where they are of fewer than two labels."""
    if task.record_schema is not None:
        raise CallError("untrusted: expected a task with labels; a record has no one right answer to hold a canary to")
    found: dict[str, tuple[Canary, ...]] = {}
    for canary in task.canaries:
        label = str(canary.answer)
        found[label] = (*found.get(label, ()), Canary(normalise_text(canary.text), label))
    if len(found) < PER_PACK:
        raise CallError(
            f"untrusted: expected canaries of at least two labels, got {len(found)}: add [[canaries]] with text and "
            "label to the task file, texts like the items whose label is beyond doubt"
        )
    return found
