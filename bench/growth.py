"""How time and cost grow with items, pack size, latency and limit: `python bench/growth.py`. The clock is simulated.

Whole jobs, with ledger and limiter, on a gateway that refuses what is beyond its slots (429). A request takes a
second before its first token, and 20 ms a token of its answer, unless the table says otherwise. What this machine's CPU
takes is not in the seconds: "CPU" is what was measured of it while the job ran, the gateway's model included.
"""

import time
from dataclasses import dataclass, replace
from decimal import Decimal

import packer
from packer.errors import Failure, TransportError
from packer.exchange import Prompt, Reply
from packer.testing import FakeClock, FakeTransport
from packer.tokens import count_tokens

TASK = packer.Task(["spam", "ham"], instructions="Messages of a phone, as spam or ham. " * 20)
PRICE = packer.Price(Decimal("0.15"), Decimal("0.60"))
REFUSED = 0.05  # seconds until a refusal comes


@dataclass(frozen=True)
class Case:
    """One job: `first` is the seconds before a request's first token, `token` those of each."""

    items: int = 20_000
    pack: int = 20
    slots: int = 60
    first: float = 1.0
    token: float = 0.02


@dataclass(frozen=True)
class Taken:
    """What a job took: on the simulated clock, of requests and refusals, of money and of CPU."""

    seconds: float
    requests: int
    refused: int
    usd: Decimal
    cpu: float


class Capped(FakeTransport):
    """A gateway with so many slots: what comes beyond them is refused at once."""

    def __init__(self, case: Case) -> None:
        super().__init__(TASK, lambda text: "spam" if "7" in text else "ham")
        self._case = case
        self._held = 0
        self.refused = 0

    async def send(self, prompt: Prompt, *, deadline: float) -> Reply:
        """Answer, or refuse."""
        self.prompts.clear()
        if self._held >= self._case.slots:
            self._seconds = REFUSED
            await super().send(prompt, deadline=deadline)
            self.refused += 1
            raise TransportError(Failure.RATE_LIMITED, "too many requests")
        self._held += 1
        reply = self.right_reply(prompt)
        input_tokens, output_tokens = count_tokens([prompt.system + prompt.user, reply.text])
        self._seconds = self._case.first + self._case.token * output_tokens
        try:
            await super().send(prompt, deadline=deadline)
        finally:
            self._held -= 1
        return replace(reply, seconds=self._seconds, usage=packer.Usage(input_tokens, output_tokens))


def run(case: Case) -> Taken:
    """Label so many messages on a simulated clock."""
    gateway = Capped(case)
    limits = packer.PackLimits(max_items=case.pack)

    async def work() -> Taken:
        runner = packer.Runner(TASK, model="m", transport=gateway, ledger=None, limits=limits, price=PRICE)
        texts = (f"message {number}: are we still on for lunch, or shall I go alone?" for number in range(case.items))
        async with runner:
            labelled = [result.label async for result in runner.stream(texts)]
            told = runner.statistics()
        if None in labelled:
            raise SystemExit("a message ended without a label")
        return Taken(told.seconds, told.requests, gateway.refused, told.settled, time.process_time() - began)

    began = time.process_time()
    return FakeClock().run(work())


def show(title: str, cases: dict[str, Case]) -> None:
    """Print a table."""
    print(f"\n{title:18}{'seconds':>9}{'items/s':>9}{'requests':>10}{'refused':>9}{'USD/million':>13}{'CPU s':>7}")
    for name, case in cases.items():
        taken = run(case)
        rate = case.items / taken.seconds
        million = taken.usd / case.items * 1_000_000
        print(
            f"{name:18}{taken.seconds:9.0f}{rate:9.0f}{taken.requests:10,}{taken.refused:9}{million:13.2f}{taken.cpu:7.1f}",
            flush=True,
        )


def main() -> None:
    """Print the tables."""
    usual = Case()
    print("20,000 messages in packs of 20, 60 slots, 1 s and 20 ms a token, unless the first column says otherwise")
    show("items", {f"{items:,}": replace(usual, items=items) for items in (1_000, 10_000, 100_000)})
    show("items in a pack", {f"{pack}": replace(usual, pack=pack) for pack in (1, 5, 10, 20, 40, 80)})
    show("s to first token", {f"{first:g}": replace(usual, first=first) for first in (0.2, 1.0, 5.0, 20.0)})
    show("slots", {f"{slots}": replace(usual, slots=slots) for slots in (5, 20, 60, 200)})


if __name__ == "__main__":
    main()
