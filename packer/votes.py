"""An item is asked until more than half of all the votes that it may get are for one answer, or none can get there.

Which items are doubtful at first: where the gateway tells how sure the model was, those that are less sure than a
share; where it does not, every item gets a second vote, in another pack and another order, and the two must agree. A
vote without an answer counts as one that nobody got.

Votes are only as good as they are independent. Where each is right with probability p > 1/2 on its own, most of K are
right more often than one (Condorcet's jury theorem, 1785). Where a text is hard itself, all votes err together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum, auto
from typing import Any

from packer.cascade import Threshold

MOST_VOTES = (3, 5, 7, 9)
BELOW = 0.9


@dataclass(frozen=True, slots=True)
class Vote:
    """One answer to an item, None where none came; `confidence` None where it is unknown."""

    answer: Any
    confidence: float | None = None


class Standing(Enum):
    """Where the votes of an item lead."""

    SAFE = auto()
    OPEN = auto()  # one more vote can tell
    DOUBTFUL = auto()  # no further vote can make it safe


@dataclass(frozen=True, slots=True)
class DoubtResult:
    """What came of doubtful items.

    `asked_again` texts got more than one answer of the job's own model, `votes` answers more in all; `changed` of them
    ended with another label than their first. `escalated` texts got the answer of the stronger model, of which
    `overruled` were another. `doubtful` are in doubt still. `cut` answers were not asked for, because of `stopped`.
    `vote_usd` and `escalate_usd` are what the requests for these were charged in this run, None where that is unknown.
    `threshold` is what a sample chose, None where none was asked for.
    """

    asked_again: int = 0
    votes: int = 0
    changed: int = 0
    escalated: int = 0
    overruled: int = 0
    doubtful: int = 0
    cut: int = 0
    stopped: str | None = None
    vote_requests: int = 0
    vote_usd: Decimal | None = Decimal(0)
    escalate_requests: int = 0
    escalate_usd: Decimal | None = Decimal(0)
    threshold: Threshold | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """When votes are safe: `most` is what an item gets at most, `below` the confidence under which it is doubtful.

    `most` is odd. With 1 there is no voting: an item whose confidence is unknown is asked once more, since two votes
    that differ are the only sign of doubt that there is.
    """

    most: int = 1
    below: float = BELOW

    def judge(self, votes: Sequence[Vote]) -> Standing:
        """Where `votes` lead, the first of which has an answer."""
        unknown = votes[0].confidence is None
        if len(votes) == 1 and unknown:
            return Standing.OPEN if self.below <= 1 else Standing.DOUBTFUL
        if len(votes) == 1 + unknown and weigh(votes) >= self.below:
            return Standing.SAFE
        need, leading = self.most // 2 + 1, _count(votes, lead(votes))
        if self.most > 1 and leading >= need:
            return Standing.SAFE
        return Standing.OPEN if leading + self.most - len(votes) >= need and self.most > 1 else Standing.DOUBTFUL


def lead(votes: Sequence[Vote]) -> Any:
    """The answer that most of `votes` gave; of several, the one that was given first."""
    # max keeps the first of equals
    return max((vote.answer for vote in votes if vote.answer is not None), key=lambda answer: _count(votes, answer))


def weigh(votes: Sequence[Vote]) -> float:
    """How sure the leading answer is: the mean of the probabilities that the votes gave it, as far as they are known.

    A vote for another answer gave it 0; one for it whose confidence is unknown gave it 1. So it is the model's
    confidence after one vote, and without log-probabilities the share of votes that agree.
    """
    answer = lead(votes)
    given = (1.0 if vote.confidence is None else vote.confidence for vote in votes if vote.answer == answer)
    return sum(given) / len(votes)


def _count(votes: Sequence[Vote], answer: Any) -> int:
    return sum(vote.answer == answer for vote in votes)
