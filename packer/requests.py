"""What one request may hold and what it costs at worst, known before it is written.

A reserve is a bound: bytes for tokens, max_tokens for the answer. An estimate is what a pack is planned by.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from packer.estimates import AnswerAllowance, TokenScale
from packer.packs import Envelope, Pack, PackLimits
from packer.prompts import answer_schema, write_answer, write_system
from packer.task import Task
from packer.usage import Price

# What a chat template adds round two messages, and the line that names the pack
_TEMPLATE_TOKENS = 32
# A record's strings can be of any length: a guess to start from, replaced by the first answers
_RECORD_ROW_TOKENS = 80

CountTokens = Callable[[Sequence[str]], list[int]]
BoundTokens = Callable[[str], int]


@dataclass(slots=True)
class Requests:
    """The constant part of a job's requests, and the caps that each of them keeps.

    `count` and `bound` are the token counters of `tokens.py`. `price` None means unknown: nothing can be reserved.
    """

    task: Task
    limits: PackLimits
    price: Price | None
    count: CountTokens
    bound: BoundTokens
    system: str = field(init=False)
    schema: dict[str, object] = field(init=False)
    scale: TokenScale = field(default_factory=TokenScale, init=False)
    allowance: AnswerAllowance = field(init=False)
    _tokens: int = field(init=False)
    _bound: int = field(init=False)

    def __post_init__(self) -> None:
        self.system = write_system(self.task)
        self.schema = answer_schema(self.task)
        schema = json.dumps(self.schema)
        self._tokens = sum(self.count([self.system, schema])) + _TEMPLATE_TOKENS
        self._bound = self.bound(self.system) + self.bound(schema) + _TEMPLATE_TOKENS
        self.allowance = AnswerAllowance(row=self._first_row())

    def envelope(self, items: int, *, scaled: bool = True) -> Envelope:
        """What a pack of at most `items` questions may hold now; not `scaled`: by our own count of tokens alone."""
        tokens = int(self.limits.max_input_tokens / (self.scale.factor if scaled else 1.0)) - self._tokens
        cap = self.limits.max_request_usd
        if cap is None or self.price is None:
            return Envelope(items, tokens)
        per_token, per_row = self.price.input / 1_000_000, self.price.output / 1_000_000
        constant = self._bound * per_token + self.allowance.allow(0) * per_row
        row = (self.allowance.allow(2) - self.allowance.allow(1) + 1) * per_row
        return Envelope(items, tokens, cap - constant, per_token, row)

    def max_tokens(self, pack: Pack, *, least: int = 0) -> int:
        """The `max_tokens` of a request for `pack`: what its answer may take, within the request's cap.

        `least` is what an earlier answer of this very pack has shown to be needed.
        Less than 1 where the cap leaves no room for an answer.
        """
        allowed = min(self.allowance.ceiling, max(least, self.allowance.allow(len(pack))))
        cap = self.limits.max_request_usd
        if cap is None or self.price is None or not self.price.output:
            return allowed
        room = cap - (self._bound + pack.bound) * self.price.input / 1_000_000
        return min(allowed, int(room * 1_000_000 / self.price.output))

    def worst(self, pack: Pack, max_tokens: int) -> Decimal | None:
        """The most that a request for `pack` can cost, in USD; None where the price is unknown."""
        if self.price is None:
            return None
        return ((self._bound + pack.bound) * self.price.input + max_tokens * self.price.output) / 1_000_000

    def estimate(self, pack: Pack) -> int:
        """The o200k tokens of a request's whole input."""
        return self._tokens + pack.tokens

    def _first_row(self) -> float:
        if self.task.record_schema is not None:
            return _RECORD_ROW_TOKENS
        # what a second row adds to an answer: the braces round the rows are no part of it
        one = self.count([write_answer(self.task, "", {100: label}) for label in self.task.labels])
        two = self.count([write_answer(self.task, "", {100: label, 101: label}) for label in self.task.labels])
        return float(max(both - single for both, single in zip(two, one, strict=True)))
