"""What a job will send, counted by the code that sends it: the same questions, packs, estimates and worst cases.

Nothing leaves, nothing is locked and nothing is written. Memory does not grow with the table. What cannot be known
before is left out: refusals, splits and resends. The packs of a run are these as long as it is the number of items that
fills them; where a cap on tokens or money does, the order inside the look-ahead and what replies teach change a few.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from packer.items import normalise_text
from packer.packs import Pack, Question, plan_packs
from packer.requests import Requests
from packer.seen import Seen
from packer.usage import Price, Usage, cost

_SLICE = 1_000  # texts counted and looked up together

FindAnswers = Callable[[Sequence[str]], Mapping[str, Any]]


@dataclass(slots=True)
class Load:
    """Requests, and what they are expected to take in o200k tokens.

    `worst` is the sum of their worst cases in USD, None where no price is known. `longest` is the most tokens, input
    and `max_tokens` together, of one of them.
    """

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    worst: Decimal | None = Decimal(0)
    longest: int = 0

    def add(self, pack: Pack, requests: Requests) -> None:
        """Count the request for `pack`."""
        input_tokens, max_tokens = requests.estimate(pack), requests.max_tokens(pack)
        self.requests += 1
        self.input_tokens += input_tokens
        self.output_tokens += min(requests.expect_answer(requests.rows(pack)), max_tokens)
        worst = requests.worst(pack, max_tokens)
        self.worst = None if worst is None or self.worst is None else self.worst + worst
        self.longest = max(self.longest, input_tokens + max_tokens)

    def __str__(self) -> str:
        return f"{self.input_tokens:,} tokens in, {self.output_tokens:,} out"

    @property
    def tokens(self) -> int:
        """Input and output together."""
        return self.input_tokens + self.output_tokens

    def cost(self, price: Price) -> Decimal:
        """What it is expected to cost, in USD."""
        return cost(Usage(self.input_tokens, self.output_tokens), price)


@dataclass(slots=True)
class Plan:
    """What a table comes to.

    `items` are its rows and `empty` those without a text; `texts` the distinct texts, of which `known` are answered in
    the ledger and `too_long` cannot be asked. The others are asked: in `packs`, or each alone in `singles`. `constant`
    are the input tokens that each request has besides its texts.
    """

    items: int = 0
    empty: int = 0
    texts: int = 0
    known: int = 0
    too_long: int = 0
    constant: int = 0
    packs: Load = field(default_factory=Load)
    singles: Load = field(default_factory=Load)

    @property
    def asked(self) -> int:
        """The texts that are asked."""
        return self.texts - self.known - self.too_long


def plan_job(
    texts: Iterable[str], *, requests: Requests, make_key: Callable[[str], str], find: FindAnswers | None = None
) -> Plan:
    """What it takes to label `texts`; `find` gives the answers that are known, None where none is.

    Raises `InputError` where the disk has no room to remember which texts came before.
    """
    plan = Plan(constant=requests.estimate(Pack(())))
    for pack in plan_packs(_ask(texts, plan, requests, make_key, find), requests.envelope(requests.limits.max_items)):
        plan.packs.add(pack, requests)
    return plan


def _ask(
    texts: Iterable[str], plan: Plan, requests: Requests, make_key: Callable[[str], str], find: FindAnswers | None
) -> Iterator[Question]:
    rows = iter(texts)
    seen = Seen()
    try:
        while taken := list(itertools.islice(rows, _SLICE)):
            asked: dict[str, str] = {}
            for given in taken:
                plan.items += 1
                text = normalise_text(given)
                if not text:
                    plan.empty += 1
                elif seen.add(key := make_key(text), plan.items) is None:
                    asked[key] = text
            plan.texts += len(asked)
            for key in find(list(asked)) if find is not None and asked else ():
                plan.known += 1
                del asked[key]
            for question, reason in requests.questions(asked):
                if reason is None:
                    plan.singles.add(Pack((question,)), requests)
                    yield question
                else:
                    plan.too_long += 1
    finally:
        seen.close()
