"""Which items a pilot asks next, and of which setting it is sure: packs grow until they are not sure to keep a promise.

The promise: at most a given share of items gets another answer in packs than alone. A setting is accepted only where a
true share above the promise would show itself with 95 % probability; all settings together are accepted wrongly in at
most 5 % of pilots:

- Settings of one line (a model and a shape) are tried from small packs to large ones, each with the line's whole error,
  and the first that is not accepted ends the line. Only the first that breaks the promise can be accepted wrongly
  (fixed sequence: Maurer, Hothorn and Lehmacher 1995). That needs no assumption of how errors grow.
- Lines share the error equally (Bonferroni).
- Looks inside a setting share it as `looks.py` has it. Where so many differ that even a perfect rest cannot meet the
  bound, the setting is given up: what is not asked is not paid for, and giving up early costs no error.

A pack is never asked part-full, because small packs err less: a setting's items are a multiple of its size. An item
that packs leave without an answer counts as differing; one without an answer alone is compared with nothing.

Asked alone twice, a model may differ from itself. Where no setting is accepted, some singles are asked again, so that
what no setting can keep is told from what packs spoil.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import count

from packer.errors import CallError
from packer.looks import Look, bound, exceeds, most_accepted
from packer.task import AnswerShape

_LOOKS = 6
_ASKED_AGAIN = 100  # singles


@dataclass(frozen=True, slots=True)
class Arm:
    """A setting: who is asked, how an answer's row is written, how many items a pack holds. `again`: a second time."""

    model: str
    shape: AnswerShape
    size: int
    again: bool = False

    def __str__(self) -> str:
        return "singles" if self.size == 1 else f"packs of {self.size}"


class Outcome(StrEnum):
    """What is known of a setting."""

    KEEPS = "keeps"  # sure to keep the promise
    BREAKS = "breaks"  # sure to break it
    UNCLEAR = "unclear"  # neither
    NOT_ASKED = "not asked"  # a smaller pack was not accepted, or the money had ended


@dataclass(frozen=True, slots=True)
class Ask:
    """Items `start` to `end` - 1 of the sample are to be asked in the manner of `arm`."""

    arm: Arm
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Standing:
    """What the pilot has seen of a setting.

    Of `items` that have an answer alone, `differing` have another one in packs; `failed` of these have none. `bound` is
    what the true share exceeds in at most 5 % of pilots (less where several lines share that), None without items.
    """

    arm: Arm
    outcome: Outcome
    items: int
    differing: int
    failed: int
    bound: float | None


class Pilot:
    """The state of one pilot over a sample of `items` texts.

    `singles` is what every other arm is compared with; `lines` are the arms to be tried, a line's from small to large.
    `promise` is the share that may differ, between 0 and 1; `level` how sure an acceptance is.

    Raises `CallError` for a promise that cannot be, and for sizes that do not grow.
    """

    def __init__(
        self, items: int, *, singles: Arm, lines: Sequence[Sequence[Arm]], promise: float, level: float = 0.95
    ) -> None:
        if not 0 < promise < 1:
            raise CallError(f"the share that may differ: expected more than 0 and less than 1, got {promise}")
        for line in lines:
            sizes = [arm.size for arm in line]
            if sizes != sorted(set(sizes)):
                raise CallError(f"sizes of packs: expected each larger than the one before, got {sizes}")
        self.items = items
        self.singles = singles
        self.lines = [[arm for arm in line if arm != singles] for line in lines]
        self.promise = promise
        self.level = 1 - (1 - level) / max(1, len(lines))
        self.again = Arm(singles.model, singles.shape, 1, again=True)
        self._answers: dict[Arm, list[str | None]] = {arm: [] for arm in (singles, self.again, *self.arms())}
        self._looks: dict[Arm, list[Look]] = {arm: [] for arm in self.arms()}
        self._seen: dict[Arm, int] = dict.fromkeys(self.arms(), 0)  # items at the newest look
        self._outcomes: dict[Arm, Outcome] = {}

    def arms(self) -> Iterator[Arm]:
        """The settings beside singles, in the order in which they are tried."""
        for line in self.lines:
            yield from line

    def next_ask(self) -> Ask | None:
        """What is to be asked next, None where all is settled. Every item of it is then given to `record`."""
        for line in self.lines:
            for arm in line:
                ask = self._next_ask_of(arm)
                if ask is not None:
                    return ask
                if self._outcomes[arm] is not Outcome.KEEPS:
                    break
        if not self._is_floor_wanted():
            return None
        return self._missing(self.again, min(_ASKED_AGAIN, len(self._answers[self.singles])))

    def record(self, arm: Arm, answer: str | None) -> None:
        """The answer to the next item of `arm`, in the order of the sample; None where it has none."""
        self._answers[arm].append(answer)

    def standing(self, arm: Arm) -> Standing:
        """How `arm` stands."""
        pairs = self.pairs(arm)
        differing = sum(single != packed for single, packed in pairs)
        failed = sum(packed is None for _, packed in pairs)
        past = [look for look in self._looks.get(arm, ()) if look.items < len(pairs)]
        least = None if not pairs else bound(past, len(pairs), differing, level=self.level)
        return Standing(arm, self.outcome(arm), len(pairs), differing, failed, least)

    def outcome(self, arm: Arm) -> Outcome:
        """What is known of `arm`."""
        asked = self._answers[arm]
        return self._outcomes.get(arm, Outcome.UNCLEAR if asked else Outcome.NOT_ASKED)

    def pairs(self, arm: Arm) -> list[tuple[str, str | None]]:
        """The answers alone and in the manner of `arm`, of the items that have the first and were asked both ways."""
        return [(single, packed) for _, single, packed in self.compared(arm)]

    def compared(self, arm: Arm) -> list[tuple[int, str, str | None]]:
        """As `pairs`, with the item's place in the sample before each."""
        both = zip(count(), self._answers[self.singles], self._answers[arm], strict=False)
        return [(place, single, packed) for place, single, packed in both if single is not None]

    def asked(self, arm: Arm) -> int:
        """How many items were asked in the manner of `arm`."""
        return len(self._answers[arm])

    def can_tell(self, arm: Arm) -> bool:
        """Whether the sample is large enough to accept `arm`, should none of its answers differ."""
        return self._final(arm) >= 0

    def largest(self, arm: Arm) -> int:
        """How many items `arm` is asked at most: full packs only."""
        return self.items // arm.size * arm.size

    def _next_ask_of(self, arm: Arm) -> Ask | None:
        while arm not in self._outcomes:
            if not self.can_tell(arm):
                self._outcomes[arm] = Outcome.UNCLEAR
                break
            wanted = self._next_look(arm)
            ask = self._missing(self.singles, wanted) or self._missing(arm, wanted)
            if ask is not None:
                return ask
            self._look(arm, wanted)
        return None

    def _missing(self, arm: Arm, wanted: int) -> Ask | None:
        asked = len(self._answers[arm])
        return Ask(arm, asked, wanted) if asked < wanted else None

    def _next_look(self, arm: Arm) -> int:
        """The items after which `arm` is looked at next."""
        step = max(1, round(self.items / _LOOKS / arm.size)) * arm.size
        return min(self._seen[arm] + step, self.largest(arm))

    def _final(self, arm: Arm) -> int:
        """How many may differ at the last look, -1 where the sample is too small for any acceptance."""
        last = self._last(arm)
        return most_accepted(self._looks[arm], last, last, promise=self.promise, level=self.level)

    def _last(self, arm: Arm) -> int:
        """The items that will be compared at the last look, as far as is known."""
        most = self.largest(arm)
        return most - sum(answer is None for answer in self._answers[self.singles][:most])

    def _look(self, arm: Arm, asked: int) -> None:
        pairs = self.pairs(arm)
        differing = sum(single != packed for single, packed in pairs)
        last = self._last(arm)
        looks = self._looks[arm]
        self._seen[arm] = asked
        most = most_accepted(looks, len(pairs), last, promise=self.promise, level=self.level)
        if differing <= most:
            self._outcomes[arm] = Outcome.KEEPS
        elif differing > self._final(arm) or asked == self.largest(arm):
            is_sure = exceeds(len(pairs), differing, self.promise, level=self.level)
            self._outcomes[arm] = Outcome.BREAKS if is_sure else Outcome.UNCLEAR
        else:
            looks.append(Look(len(pairs), most))

    def _is_floor_wanted(self) -> bool:
        firsts = [line[0] for line in self.lines if line]
        failed = [arm for arm in firsts if self._outcomes[arm] is not Outcome.KEEPS and self._answers[arm]]
        return bool(firsts) and len(failed) == len(firsts)
