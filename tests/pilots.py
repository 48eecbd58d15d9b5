"""Pilots without a gateway: models whose errors follow a known law, and a pilot run to its end over them."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from packer.pilot import Arm, Outcome, Pilot
from packer.task import AnswerShape

_MOST_ITEMS = 300

Law = Callable[[int, int], float]
"""A pack's size and an item's number in it, from 1, to the probability that packs change the item's answer."""


def arms(*sizes: int, model: str = "m", shape: AnswerShape = AnswerShape.LINE) -> list[Arm]:
    """A line of settings."""
    return [Arm(model, shape, size) for size in sizes]


@dataclass
class Model:
    """Alone it answers "a"; in packs an item's answer changes where the item's own draw is under the law's share.

    `nested` gives an item one draw for all sizes: what a small pack spoils, a large one spoils too. `moods` is how
    often it gives no answer alone; `fickle` how often a single that is asked again has another answer.
    """

    law: Law
    seed: int
    nested: bool = True
    moods: float = 0.0
    fickle: float = 0.0
    _draws: dict[str, list[float]] = field(default_factory=dict)

    def answer(self, arm: Arm, item: int) -> str | None:
        """What it says of `item` in the manner of `arm`."""
        if arm.again:
            return "b" if self._draw("again", item) < self.fickle else "a"
        if arm.size == 1:
            return None if self._draw("alone", item) < self.moods else "a"
        drawn = self._draw("packed" if self.nested else f"{arm.shape} {arm}", item)
        return "b" if drawn < self.law(arm.size, item % arm.size + 1) else "a"

    def _draw(self, what: str, item: int) -> float:
        drawn = self._draws.get(what)
        if drawn is None:
            rng = random.Random(f"{self.seed} {what}")
            drawn = self._draws[what] = [rng.random() for _ in range(_MOST_ITEMS)]
        return drawn[item]


def run_pilot(pilot: Pilot, model: Model) -> int:
    """Ask all that `pilot` wants to have asked; the number of requests."""
    requests = 0
    while (ask := pilot.next_ask()) is not None:
        for item in range(ask.start, ask.end):
            pilot.record(ask.arm, model.answer(ask.arm, item))
        requests += -(-(ask.end - ask.start) // ask.arm.size)
    return requests


def accepted(pilot: Pilot) -> list[Arm]:
    """The settings that are sure to keep the promise."""
    return [arm for arm in pilot.arms() if pilot.outcome(arm) is Outcome.KEEPS]


def true_share(law: Law, size: int) -> float:
    """The share that packs of `size` change."""
    return sum(law(size, number) for number in range(1, size + 1)) / size


def constant(shares: Mapping[int, float]) -> Law:
    """A law by the size alone."""
    return lambda size, _: shares[size]
