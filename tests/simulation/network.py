"""A simulated gateway: it reads the prompt, decides the request's fate, bills, and writes the truth down.

What it bills is decided when a request arrives: a client that dies is billed all the same.
"""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from decimal import ROUND_FLOOR, Decimal
from typing import Any, Literal

from packer.errors import Failure, TransportError
from packer.exchange import Charge, ChargeSource, Prompt, Reply, StopReason
from packer.items import canonical_json
from packer.prompts import read_user, write_answer
from packer.task import Task
from packer.usage import Price, Usage, cost
from simulation.fates import BILLED, UNSENT, WELL, Mix
from simulation.history import Sent

PRICE = Price(Decimal("0.15"), Decimal("0.60"))
_NANO = Decimal("1e-9")


@dataclass
class _Record:
    """A request as it is known so far, and the usage that its reply will tell."""

    sent: Sent
    usage: Usage

    def note(self, **changes: Any) -> None:
        """Write down what became of it."""
        self.sent = replace(self.sent, **changes)


@dataclass
class Network:
    """The gateway of a whole job, over all its runs. `tells` is how it tells charges; it never changes its ways.

    `poison` is a text that it refuses; `slots` how many requests it takes at once. `balance` None means plenty.
    """

    task: Task
    gold: Callable[[str], str]
    rng: random.Random
    tells: Literal["header", "body", "silent"]
    seconds: tuple[float, ...]
    slots: int
    poison: str
    balance: Decimal | None
    mix: Mix = WELL
    run: int = 0
    now: Callable[[], float] = lambda: 0.0
    records: list[_Record] = field(default_factory=list)
    in_flight: int = 0

    async def send(self, prompt: Prompt, *, deadline: float) -> Reply:
        """The transport's one method."""
        fate = self._draw()
        if fate in UNSENT:
            await asyncio.sleep(0.01)
            raise TransportError(Failure(fate), "no way there")
        seconds = self.rng.choice(self.seconds) * (0.5 + self.rng.random())
        if seconds >= deadline or (fate == Failure.LOST and self.rng.random() < 0.5):
            fate, seconds = Failure.LOST, deadline  # it hangs; else a lost connection is reset
        record = self._arrive(prompt, fate)
        self.in_flight += 1
        try:
            await asyncio.sleep(seconds)
            return self._answer(prompt, record, seconds)
        finally:
            self.in_flight -= 1

    def refused_settings(self) -> tuple[str, ...]:
        """None."""
        return ()

    def is_free(self) -> bool:
        """It takes money."""
        return False

    async def aclose(self) -> None:
        """Nothing to close."""

    def _draw(self) -> str:
        if not self.mix.others or self.rng.random() * 100 < self.mix.right:
            return "right"
        fate = self.rng.choice(self.mix.others)
        # where no charge is ever told, nobody can find out that a bill or a usage is wrong
        return "right" if self.tells == "silent" and fate in {"over the reserve", "stale usage"} else fate

    def _arrive(self, prompt: Prompt, fate: str) -> _Record:
        nonce, texts = read_user(prompt.user)
        if self.poison in texts:
            fate = Failure.BAD_REQUEST
        elif self.in_flight >= self.slots:
            fate = Failure.RATE_LIMITED
        size = len((prompt.system + prompt.user + canonical_json(prompt.schema)).encode())
        sent = Sent(
            number=len(self.records) + 1,
            run=self.run,
            at=self.now(),
            nonce=nonce,
            texts=tuple(texts),
            max_tokens=prompt.max_tokens,
            worst=_bill(Usage(size, prompt.max_tokens)),
            billed=Decimal(0),
            told=None,
            fate=fate,
            arrived={},
            honest=True,
        )
        record = _Record(sent, Usage(size // 4, 0))
        is_billed = True if fate not in set(Failure) else BILLED.get(Failure(fate), False)
        if self.rng.random() < 0.5 if is_billed is None else is_billed:
            written = min(prompt.max_tokens, len(self._write(sent)) // 3 + 1)
            record.usage = Usage(size // 4, written)
            is_over = fate == "over the reserve"
            record.note(billed=sent.worst * 3 + _NANO if is_over else _bill(record.usage), honest=not is_over)
        if self.balance is not None:
            if record.sent.billed > self.balance:
                record.note(fate=Failure.QUOTA, billed=Decimal(0), honest=True)
            self.balance -= record.sent.billed
        self.records.append(record)
        return record

    def _answer(self, prompt: Prompt, record: _Record, seconds: float) -> Reply:
        sent, tells = record.sent, self.tells != "silent"
        fate = sent.fate
        if fate in set(Failure):
            told = fate == Failure.CUT and tells
            if told:
                record.note(told=sent.billed)
            charge = Charge(sent.billed, self._source()) if told else None
            wait = self.rng.choice((None, 0.0, 1.0, 30.0)) if fate == Failure.RATE_LIMITED else None
            raise TransportError(Failure(fate), f"the gateway says {fate}", retry_after=wait, charge=charge)
        garbled = fate == "garbled charge"
        if tells and not garbled:
            record.note(told=sent.billed)
        text = self._write(sent)
        whole = len(text) <= prompt.max_tokens * 3
        if fate == "truncated":
            text, whole = text[: self.rng.randrange(len(text))], False
        if whole and fate in {"right", "swapped", "garbled charge", "over the reserve", "stale usage"}:
            record.note(arrived={one: self.gold(one) for one in sent.texts})
        elif fate not in {"shifted", "foreign", "prose", "filtered"}:
            # rows that came through whole count as answers too
            record.note(arrived=self._rows_in(text[: prompt.max_tokens * 3], sent.texts))
        usage = Usage(1, 1) if fate == "stale usage" else record.usage
        stop = StopReason.STOP if whole else StopReason.MAX_TOKENS
        return Reply(
            text[: prompt.max_tokens * 3],
            StopReason.CONTENT_FILTER if fate == "filtered" else stop,
            seconds,
            usage,
            None if record.sent.told is None else Charge(record.sent.told, self._source()),
            None if self.balance is None or self.rng.random() < 0.2 else self.balance,
            garbled_charge=garbled and tells,
        )

    def _write(self, sent: Sent) -> str:
        nonce = "zzzz" if sent.fate == "foreign" else sent.nonce
        rows = {number: self.gold(text) for number, text in enumerate(sent.texts, 1)}
        match sent.fate:
            case "foreign":
                rows = {number: self.gold(f"not {text}") for number, text in enumerate(sent.texts, 1)}
            case "prose":
                return "I cannot help with that, sorry."
            case "filtered":
                return ""
            case "shifted":
                rows = {number + 1: label for number, label in rows.items()}
            case "lost row":
                del rows[len(rows)]
            case "swapped":
                rows = dict(sorted(rows.items(), reverse=True))
            case "unknown label":
                rows[1] = "no such label"
        return write_answer(self.task, nonce, rows)

    def _rows_in(self, text: str, texts: tuple[str, ...]) -> dict[str, str]:
        """The texts whose row stands whole in `text`, with their labels."""
        rows = ((one, f'"{number} {self.gold(one)}"') for number, one in enumerate(texts, 1))
        # a row is whole once something stands behind it
        return {one: self.gold(one) for one, row in rows if row in text[:-1]}

    def _source(self) -> ChargeSource:
        return ChargeSource.HEADER if self.tells == "header" else ChargeSource.BODY


def _bill(usage: Usage) -> Decimal:
    return cost(usage, PRICE).quantize(_NANO, ROUND_FLOOR)
