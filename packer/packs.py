"""Every question stands in exactly one pack, in the order given, and no pack passes a cap.

A question is a text that is asked once, however many items carry it. Sizes are arguments: this file counts nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal

from packer.errors import CallError
from packer.items import MAX_ITEMS_CEILING

# The default of an untrusted job: what an attack can reach is one pack
UNTRUSTED_ITEMS = 5


@dataclass(frozen=True, slots=True)
class Question:
    """A normalised text that is to be asked, with its ledger key.

    `tokens` estimates its line in a prompt; `bound` is a number of tokens that no tokenizer passes (its UTF-8 bytes).
    """

    key: str
    text: str
    tokens: int
    bound: int


@dataclass(frozen=True, slots=True)
class Pack:
    """Questions that share one prompt, numbered from 1 in this order. A pack of one is a single."""

    questions: tuple[Question, ...]

    def __len__(self) -> int:
        return len(self.questions)

    @property
    def texts(self) -> list[str]:
        """The texts in the order of their numbers."""
        return [question.text for question in self.questions]

    @property
    def keys(self) -> tuple[str, ...]:
        """The ledger keys in the order of the numbers."""
        return tuple(question.key for question in self.questions)

    def without(self, keys: Collection[str]) -> Pack:
        """The pack without the questions that have one of `keys`; it may be empty."""
        return Pack(tuple(question for question in self.questions if question.key not in keys))

    @property
    def tokens(self) -> int:
        """The estimate for all lines together."""
        return sum(question.tokens for question in self.questions)

    @property
    def bound(self) -> int:
        """The bound for all lines together."""
        return sum(question.bound for question in self.questions)


def usual_items(wanted: int | None = None, *, untrusted: bool) -> int:
    """How many items a pack holds where a call says nothing: as the task has it (`wanted`), fewer where `untrusted`."""
    items = PackLimits().max_items if wanted is None else wanted
    return min(items, UNTRUSTED_ITEMS) if untrusted else items


@dataclass(frozen=True, slots=True)
class PackLimits:
    """The caps of one request.

    `max_items` is the pack's size at most (1 to 100). `max_input_tokens` caps the estimate of the whole input, system
    message included. `max_request_usd` caps the worst case of a request's cost, None for no cap.
    """

    max_items: int = 20
    max_input_tokens: int = 8_000
    max_request_usd: Decimal | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.max_items <= MAX_ITEMS_CEILING:
            raise CallError(f"max_items: expected 1 to {MAX_ITEMS_CEILING}, got {self.max_items}")
        if self.max_input_tokens < 1:
            raise CallError(f"max_input_tokens: expected at least 1, got {self.max_input_tokens}")
        if self.max_request_usd is not None and not self.max_request_usd > 0:
            raise CallError(f"max_request_usd: expected more than 0, got {self.max_request_usd}")


@dataclass(frozen=True, slots=True)
class Envelope:
    """What the next pack may hold, the constant part of its request taken off.

    `items` is its size, `tokens` the estimate of its lines. `usd` is the money left for its lines and its answer's rows
    in the worst case, at `token_usd` for each token of a line's bound and `row_usd` for each row; None for no cap.
    """

    items: int
    tokens: int
    usd: Decimal | None = None
    token_usd: Decimal = Decimal(0)
    row_usd: Decimal = Decimal(0)

    def why_not(self, question: Question) -> str | None:
        """None where `question` fits a pack of its own, else the cap that it passes, in words."""
        if question.tokens > self.tokens:
            return f"too long: about {question.tokens} tokens, and a request has room for {max(self.tokens, 0)}"
        if self.usd is not None and self.worst(question) > self.usd:
            return "too long: asking it alone could cost more than the cap of one request"
        return None

    def worst(self, question: Question) -> Decimal:
        """What `question` adds to the worst cost of a request, in USD."""
        return question.bound * self.token_usd + self.row_usd


def plan_packs(questions: Iterable[Question], envelope: Envelope) -> Iterator[Pack]:
    """Group `questions` into packs that stay inside `envelope`, lazily: one pack is held at a time.

    A question that alone passes a cap (`Envelope.why_not`) stands alone.
    """
    held: list[Question] = []
    tokens, usd = 0, Decimal(0)
    for question in questions:
        full = len(held) >= envelope.items or tokens + question.tokens > envelope.tokens
        if envelope.usd is not None:
            worst = envelope.worst(question)
            full = full or usd + worst > envelope.usd
            usd += worst
        if held and full:
            yield Pack(tuple(held))
            held, tokens, usd = [], 0, Decimal(0) if envelope.usd is None else worst
        held.append(question)
        tokens += question.tokens
    if held:
        yield Pack(tuple(held))


def split_pack(pack: Pack, parts: int) -> tuple[Pack, ...]:
    """`pack` as `parts` packs of nearly equal size, in order; at most one a question."""
    parts = min(parts, len(pack))
    size, larger = divmod(len(pack), parts)
    packs, start = [], 0
    for part in range(parts):
        end = start + size + (part < larger)
        packs.append(Pack(pack.questions[start:end]))
        start = end
    return tuple(packs)
