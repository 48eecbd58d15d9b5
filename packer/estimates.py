"""What the next request will take, learned from what the last ones took. Estimates plan; bounds reserve.

Both start from what can be known without a reply, so that the first request of a job is already close.
"""

from __future__ import annotations

from dataclasses import dataclass, field

_WEIGHT = 0.2  # of a new observation: about ten replies forget the first guess
_MARGIN = 1.3
_SPARE = 16  # tokens: the braces round the rows, the nonce, a closing line feed
_FORGET = 0.98
GROWTH = 4  # of an allowance that cut an answer


@dataclass(slots=True)
class TokenScale:
    """How many of the model's tokens one o200k token stands for; between 0.8 and 2.5 for the models measured."""

    factor: float = 1.0
    _seen: bool = field(default=False, init=False)

    def estimate(self, tokens: int) -> int:
        """The model's tokens for `tokens` of o200k, rounded up."""
        return -int(-tokens * self.factor // 1)

    def observed(self, *, counted: int, reported: int) -> None:
        """Book a reply: what we counted (o200k) for its input, and what the gateway reported."""
        if counted <= 0 or reported <= 0:
            return
        ratio = min(max(reported / counted, 0.5), 3.0)
        self.factor = self.factor + _WEIGHT * (ratio - self.factor) if self._seen else ratio
        self._seen = True


@dataclass(slots=True)
class AnswerAllowance:
    """`max_tokens` for a pack: tight, since it is reserved, counted by rate limits and paid for when an answer runs on.

    `row` is the first guess of a row's tokens (the longest row that the task allows, or a guess for a record);
    `ceiling` is the most that is ever asked for.
    """

    row: float
    ceiling: int = 16_384
    _learned: float | None = field(default=None, init=False)
    _raised: int = field(default=1, init=False)

    def allow(self, rows: int) -> int:
        """The `max_tokens` for an answer of `rows` rows."""
        row = self.row if self._learned is None else self._learned
        # one longest row to spare: a single's only row may be the longest
        return min(self.ceiling, int((row * rows * _MARGIN + self.row + _SPARE) * self._raised))

    def answered(self, rows: int, output_tokens: int) -> None:
        """Book a whole answer: its rows and what it took (hidden reasoning included, where a model reasons)."""
        row = max(output_tokens - _SPARE, rows) / rows
        self._learned = row if self._learned is None else max(row, self._learned * _FORGET)
        self._raised = 1

    def truncated(self, allowed: int, rows: int) -> None:
        """Book an answer that ended at its `max_tokens`, `allowed` for `rows` rows: the next ones may take more."""
        # answers in flight with the same allowance are cut too: only the first of them raises it
        if self.allow(rows) <= allowed < self.ceiling:
            self._raised *= GROWTH
