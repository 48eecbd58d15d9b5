"""What one request may hold and what it costs at worst, known before it is written.

A reserve is a bound: bytes for tokens, max_tokens for the answer. An estimate is what a pack is planned by.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from statistics import fmean
from typing import Any

from packer.canaries import PER_PACK, Canary
from packer.estimates import AnswerAllowance, TokenScale
from packer.items import canonical_json, key_maker
from packer.packs import Envelope, Pack, PackLimits, Question
from packer.prompts import answer_schema, quote, write_answer, write_system, write_user
from packer.task import Task
from packer.usage import Price

# Part of every key: all that is sent besides the prompt and can change an answer
PARAMETERS: Mapping[str, Any] = {"temperature": 0}
# What a chat template adds round two messages, and the line that names the pack
_TEMPLATE_TOKENS = 32
# A record's strings can be of any length: a guess to start from, replaced by the first answers
_RECORD_ROW_TOKENS = 80
# What a line costs besides its text: number, full stop and quotes in tokens; in bytes all but the quoted text
_LINE_TOKENS, _LINE_BYTES = 5, 12

CountTokens = Callable[[Sequence[str]], list[int]]
BoundTokens = Callable[[str], int]


def make_keys(task: Task, model: str, ask: str = "") -> Callable[[str], str]:
    """A function from normalised text to the ledger key of its answer from `model`; `ask` as in `items.key_maker`."""
    return key_maker(fingerprint=task.fingerprint, model=model, parameters=PARAMETERS, ask=ask)


def name_job(task: Task, model: str, job: str) -> str:
    """The name under which the ledger sums up what jobs spend: that of `job`, with its task and model."""
    return canonical_json([task.fingerprint, model, job])


@dataclass(slots=True)
class Requests:
    """The constant part of a job's requests, and the caps that each of them keeps.

    `count` and `bound` are the token counters of `tokens.py`. `price` None means unknown: nothing can be reserved.
    `canaries` by their labels are those of an untrusted job: every pack of more than one item gets two of them.
    """

    task: Task
    limits: PackLimits
    price: Price | None
    count: CountTokens
    bound: BoundTokens
    canaries: Mapping[str, Sequence[Canary]] = field(default_factory=dict)
    system: str = field(init=False)
    schema: dict[str, object] = field(init=False)
    scale: TokenScale = field(default_factory=TokenScale, init=False)
    allowance: AnswerAllowance = field(init=False)
    _tokens: int = field(init=False)
    _bound: int = field(init=False)
    _answer: int = field(init=False)
    _row: float = field(init=False)
    _canary_tokens: int = field(default=0, init=False)  # of one pack's canaries, on average
    _canary_bound: int = field(default=0, init=False)  # of the longest that one pack can get

    def __post_init__(self) -> None:
        self.system = write_system(self.task)
        self.schema = answer_schema(self.task)
        schema = json.dumps(self.schema)
        self._tokens = sum(self.count([self.system, schema])) + _TEMPLATE_TOKENS
        self._bound = self.bound(self.system) + self.bound(schema) + _TEMPLATE_TOKENS
        rows = self._row_tokens()
        self.allowance = AnswerAllowance(row=max(rows))
        (self._answer,) = self.count([write_answer(self.task, "aaaa", {})])
        examples = rows if self.task.record_schema is None else self._example_tokens()
        self._row = sum(examples or rows) / len(examples or rows)
        if self.canaries:
            lines = [[write_user([canary.text], "") for canary in canaries] for canaries in self.canaries.values()]
            self._canary_tokens = round(PER_PACK * fmean(fmean(self.count(written)) for written in lines))
            self._canary_bound = sum(sorted(max(map(self.bound, written)) + 2 for written in lines)[-PER_PACK:])

    def questions(self, asked: Mapping[str, str]) -> Iterator[tuple[Question, str | None]]:
        """The texts of `asked` (by their keys) as questions, each with why it cannot be asked, None where it can."""
        counts = self.count(list(asked.values()))
        # by the plain count: what one odd usage taught the scale fails no item
        envelope = self.envelope(1, scaled=False)
        for (key, text), tokens in zip(asked.items(), counts, strict=True):
            question = Question(key, text, tokens + _LINE_TOKENS, self.bound(quote(text)) + _LINE_BYTES)
            yield question, envelope.why_not(question)

    def canaries_in(self, items: int) -> int:
        """How many canaries a pack of `items` gets."""
        return PER_PACK if self.canaries and items > 1 else 0

    def envelope(self, items: int, *, scaled: bool = True) -> Envelope:
        """What a pack of at most `items` questions may hold now; not `scaled`: by our own count of tokens alone."""
        room = int(self.limits.max_input_tokens / (self.scale.factor if scaled else 1.0))
        tokens = room - self._constant_tokens(items)
        cap = self.limits.max_request_usd
        if cap is None or self.price is None:
            return Envelope(items, tokens)
        per_token, per_row = self.price.input / 1_000_000, self.price.output / 1_000_000
        constant = self._constant_bound(items) * per_token + self.allowance.allow(0) * per_row
        row = (self.allowance.allow(2) - self.allowance.allow(1) + 1) * per_row
        return Envelope(items, tokens, cap - constant - self.canaries_in(items) * row, per_token, row)

    def max_tokens(self, pack: Pack, *, least: int = 0) -> int:
        """The `max_tokens` of a request for `pack`: what its answer may take, within the request's cap.

        `least` is what an earlier answer of this very pack has shown to be needed.
        Less than 1 where the cap leaves no room for an answer.
        """
        allowed = min(self.allowance.ceiling, max(least, self.allowance.allow(self.rows(pack))))
        cap = self.limits.max_request_usd
        if cap is None or self.price is None or not self.price.output:
            return allowed
        room = cap - (self._constant_bound(len(pack)) + pack.bound) * self.price.input / 1_000_000
        return min(allowed, int(room * 1_000_000 / self.price.output))

    def worst(self, pack: Pack, max_tokens: int) -> Decimal | None:
        """The most that a request for `pack` can cost, in USD; None where the price is unknown."""
        if self.price is None:
            return None
        bound = self._constant_bound(len(pack)) + pack.bound
        return (bound * self.price.input + max_tokens * self.price.output) / 1_000_000

    def estimate(self, pack: Pack) -> int:
        """The o200k tokens of a request's whole input."""
        return self._constant_tokens(len(pack)) + pack.tokens

    def rows(self, pack: Pack) -> int:
        """The rows of a whole answer to a request for `pack`."""
        return len(pack) + self.canaries_in(len(pack))

    def _constant_tokens(self, items: int) -> int:
        return self._tokens + (self._canary_tokens if self.canaries_in(items) else 0)

    def _constant_bound(self, items: int) -> int:
        return self._bound + (self._canary_bound if self.canaries_in(items) else 0)

    def expect_answer(self, rows: int) -> int:
        """The tokens of an answer of `rows` rows, each as long as labels, or records of examples, are on average."""
        return self._answer + round(self._row * rows)

    def _example_tokens(self) -> list[int]:
        """The tokens of a row for each example's record."""
        rows = [write_answer(self.task, "aaaa", {100: example.answer}) for example in self.task.examples]
        return [tokens - self._answer for tokens in self.count(rows)]

    def _row_tokens(self) -> list[int]:
        """The tokens of a row for each label; of a record, a guess."""
        if self.task.record_schema is not None:
            return [_RECORD_ROW_TOKENS]
        # what a second row adds to an answer: the braces round the rows are no part of it
        one = self.count([write_answer(self.task, "", {100: label}) for label in self.task.labels])
        two = self.count([write_answer(self.task, "", {100: label, 101: label}) for label in self.task.labels])
        return [both - single for both, single in zip(two, one, strict=True)]
