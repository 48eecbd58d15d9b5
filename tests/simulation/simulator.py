"""Runs a scenario and writes its history: one process after the other, on one disk, against one gateway."""

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal

from packer import failpoints
from packer.events import Statistics
from packer.items import Result
from packer.ledger import Spending
from packer.packs import PackLimits
from packer.requests import make_keys
from packer.runner import Runner
from packer.task import Task
from simulation.clock import Killed, SimulatedLoop, run, thread_seconds
from simulation.disk import Disk
from simulation.history import History, Image, Run, Shown
from simulation.network import PRICE, Network
from simulation.scenario import RunPlan, Scenario, draw_scenario, is_asked_alone

MODEL = "simulated"
ASK = "alone"
LABELS = ("spam", "ham", "neither")
TASK = Task(LABELS)


def gold(text: str) -> str:
    """The right label of a normalised text."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=1).digest()
    return LABELS[digest[0] % len(LABELS)]


_NOTHING = Image((), {}, Spending(Decimal(0), Decimal(0), Decimal(0)), ())  # a disk on which nothing was written


def simulate(seed: int) -> History:
    """The history of the scenario with this number."""
    return simulate_scenario(draw_scenario(seed))


def simulate_scenario(scenario: Scenario) -> History:
    """What becomes of `scenario`."""
    rng = random.Random(scenario.seed)
    network = Network(TASK, gold, rng, scenario.tells, scenario.seconds, scenario.slots, "poison", scenario.balance)
    disk = Disk()
    runs = []
    for number, plan in enumerate(scenario.runs, 1):
        is_last = number == len(scenario.runs)
        if is_last:
            network.balance, network.slots, network.seconds, network.poison = None, 1000, (0.5,), ""
        runs.append(_Process(scenario, plan, number, network, disk, is_last=is_last).run())
    return History(
        seed=scenario.seed,
        texts=scenario.texts,
        cap=scenario.cap,
        last_cap=scenario.last_cap,
        gold=gold,
        key=_make_keys(scenario),
        requests=tuple(record.sent for record in network.records),
        runs=tuple(runs),
    )


def _make_keys(scenario: Scenario) -> Callable[[str], str]:
    ours, theirs = make_keys(TASK, MODEL), make_keys(TASK, MODEL, ASK)
    return lambda text: (theirs if scenario.alone and is_asked_alone(text) else ours)(text)


@dataclass
class _Process:
    scenario: Scenario
    plan: RunPlan
    number: int
    network: Network
    disk: Disk
    is_last: bool
    shown: list[Shown] = field(default_factory=list)
    statistics: Statistics | None = None
    died_at: str | None = None
    passed: int = 0

    def run(self) -> Run:
        plan, network = self.plan, self.network
        loop = SimulatedLoop(thread_seconds(random.Random(plan.seed)))
        network.run, network.mix, network.now, network.in_flight = self.number, plan.mix, loop.time, 0
        self.disk.breaks, self.disk.at, self.disk.keeps = plan.breaks, plan.at, plan.keeps
        before, first = self.disk.read(), len(network.records) + 1
        error: BaseException | None = None
        failpoints.put(self._pass)
        try:
            with self.disk.mounted():
                run(loop, self._work())
        except Killed:
            self.statistics = None
        except Exception as raised:  # noqa: BLE001  the checker looks at it
            error = raised
        finally:
            failpoints.put(None)
        after = self.disk.read()
        return Run(
            number=self.number,
            died_at=self.died_at,
            hold=plan.hold,
            sent=range(first, len(network.records) + 1),
            shown=tuple(self.shown),
            statistics=self.statistics,
            error=error,
            before=before,
            after=after or _NOTHING,
            seconds=loop.now,
        )

    async def _work(self) -> None:
        scenario, plan = self.scenario, self.plan
        runner = Runner(
            TASK,
            model=MODEL,
            transport=self.network,
            ledger=None,
            limits=PackLimits(max_items=plan.max_items),
            budget_usd=scenario.last_cap if self.is_last else scenario.cap,
            price=PRICE,
            concurrency=plan.concurrency,
            on_doubt="hold" if plan.hold else "retry",
            seed=plan.seed,
        )
        async with runner:
            if plan.stop_after is not None:
                asyncio.get_running_loop().call_later(plan.stop_after, runner.stop, "interrupted")
            ours = scenario.texts[: len(scenario.texts) - scenario.alone]
            if scenario.alone:
                await self._ask_in_two_ways(runner, ours, scenario.texts[len(ours) :])
            else:
                await self._show(runner, ours)
        if not scenario.alone:
            self.statistics = runner.statistics()

    async def _show(self, runner: Runner, texts: Sequence[str]) -> None:
        try:
            async for result in runner.stream(self._read(texts)):
                self.shown.append(Shown(result, len(self.network.records)))
        finally:
            self.statistics = runner.statistics()

    async def _ask_in_two_ways(self, runner: Runner, ours: Sequence[str], theirs: Sequence[str]) -> None:
        limits = PackLimits(1 if self.plan.seed % 2 else self.plan.max_items)
        sibling = runner.sibling(ASK, limits=limits)
        async with sibling:
            alone = asyncio.ensure_future(self._collect(sibling, theirs))
            try:
                await self._show(runner, ours)
            finally:
                await asyncio.wait([alone])
                failed = alone.exception()
            if failed is not None:
                raise failed
            # a caller who asks in two ways gets the results of one after those of the other
            self.shown += [Shown(result, len(self.network.records)) for result in alone.result()]
        self.statistics = _add_up(runner.statistics(), sibling.statistics())

    async def _collect(self, runner: Runner, texts: Sequence[str]) -> list[Result]:
        return [result async for result in runner.stream(self._read(texts))]

    async def _read(self, texts: Sequence[str]) -> AsyncIterator[str]:
        for text in texts:
            if self.plan.trickles:
                await asyncio.sleep(0.05)
            yield text

    def _pass(self, name: str) -> None:
        if self.plan.kill is None or name != self.plan.kill[0] or self.died_at is not None:
            return
        self.passed += 1
        if self.passed == self.plan.kill[1]:
            self.died_at = name
            raise Killed(name)


def _add_up(ours: Statistics, theirs: Statistics) -> Statistics:
    """The statistics of all who ask in a job: money, pace and what is in flight are everybody's already."""
    own = ("items", "labelled", "failed", "doubt", "pending", "known", "packs", "requests")
    sums = {name: getattr(ours, name) + getattr(theirs, name) for name in own}
    return replace(ours, **sums, stopped=ours.stopped or theirs.stopped)
