"""Workers of one job in one event loop: real runners, a real lender and ledger, and a gateway that all of them ask."""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from parity import TASK, parity

from packer.borrowing import Borrowed
from packer.exchange import Charge, ChargeSource
from packer.items import Result
from packer.leases import Terms
from packer.lender import Lender
from packer.packs import PackLimits
from packer.prompts import read_user
from packer.requests import name_job
from packer.runner import Runner
from packer.testing import FakeClock, FakeTransport
from packer.usage import Price

PRICE = Price(Decimal("0.15"), Decimal("0.6"))


def make_terms(**given: Any) -> Terms:
    terms: dict[str, Any] = {"cap": None, "hold": False, "concurrency": None, "patience": 5.0}
    return Terms(name_job(TASK, "m", ""), TASK.fingerprint, "m", **(terms | given))


@dataclass
class Cluster:
    """A lender on `terms`, of a `kind` that may fail, and one gateway for all."""

    terms: Terms = field(default_factory=make_terms)
    ledger: Path | None = None
    charge: Decimal = Decimal("0.0001")
    seconds: float | Callable[[int], float] = 1.0
    fault: Any = None
    limits: PackLimits = field(default_factory=lambda: PackLimits(10))
    kind: type[Lender] = Lender
    lender: Lender = field(init=False)
    transport: FakeTransport = field(init=False)

    def __post_init__(self) -> None:
        self.transport = FakeTransport(
            TASK,
            parity,
            seconds=self.seconds,
            fault=self.fault,
            charge=Charge(self.charge, ChargeSource.HEADER),
        )

    def run(self, work: "Callable[[Cluster], Coroutine[Any, Any, Any]]") -> Any:
        """What `work` gives, with the lender open."""

        async def main() -> Any:
            self.lender = self.kind(self.ledger, self.terms)
            await self.lender.open(self.terms)
            try:
                return await work(self)
            finally:
                await self.lender.close()

        return FakeClock().run(main())

    def worker(self, **options: Any) -> Runner:
        """A new worker's runner."""
        given: dict[str, Any] = {
            "model": "m",
            "transport": self.transport,
            "ledger": Borrowed(self.lender, self.terms),
            "price": PRICE,
            "budget_usd": self.terms.cap,
            "on_doubt": "hold" if self.terms.hold else "retry",
            "limits": self.limits,
        }
        return Runner(TASK, **(given | options))

    async def label(self, texts: Sequence[str], **options: Any) -> list[Result]:
        """One worker labels `texts`."""
        async with self.worker(**options) as runner:
            return [result async for result in runner.stream(texts)]

    def asked(self) -> Counter[str]:
        """How often each text was asked."""
        return Counter(text for prompt in self.transport.prompts for text in read_user(prompt.user)[1])


def parts(texts: Sequence[str], workers: int) -> list[Sequence[str]]:
    """`texts` in as many parts as there are workers."""
    size = -(-len(texts) // workers)
    return [texts[start : start + size] for start in range(0, len(texts), size)]


async def gather(cluster: Cluster, texts: Sequence[str], workers: int) -> list[Result]:
    """All results of `texts`, in their order, each part labelled by a worker."""
    found = await asyncio.gather(*(cluster.label(part) for part in parts(texts, workers)))
    return [result for some in found for result in some]
