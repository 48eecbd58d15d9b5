"""Texts come in as streams or one by one, and each goes to the job once the ledger was asked what it knows.

What nobody waits for any more is taken back: it is not bought, unless it is in flight already.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Mapping

from packer.crew import Crew
from packer.items import Item, Result
from packer.job import Job
from packer.journal import Found, Journal
from packer.lanes import LOOK_AHEAD, LOOK_AHEAD_IN_BATCH, Lane
from packer.options import read_item
from packer.slots import Slot
from packer.sources import slices

_SLICE = 500  # items looked up, shuffled and packed together
_ELSEWHERE = 0.25  # seconds between two looks at what somebody else is asking


class Intake:
    """How texts reach `job`. `linger` is how long, in seconds, a single text waits for others to share its pack.

    `known` is set once the ledger knows all that it can know: answers of earlier runs may still be on their way to it.
    """

    def __init__(self, job: Job, journal: Journal, crew: Crew, *, linger: float) -> None:
        self._job = job
        self._journal = journal
        self._crew = crew
        self._linger = linger
        self.known = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._feeding = 0
        self._flush_at = 0.0
        self._lingering: list[Slot] = []

    async def stream(self, items: Iterable[Item | str] | AsyncIterable[Item | str]) -> AsyncGenerator[Result, None]:
        """As `Runner.stream`."""
        lane = Lane(LOOK_AHEAD_IN_BATCH if self._job.route.is_patient else LOOK_AHEAD)
        feeder = asyncio.create_task(self._feed(items, lane))
        self._crew.listeners.add(lane.news)
        try:
            while True:
                lane.news.clear()
                for result in lane.take_ended():
                    yield result
                self._crew.check()
                if lane.is_empty() and feeder.done():
                    feeder.result()
                    self._crew.raise_kept()
                    return
                await lane.news.wait()
        finally:
            self._crew.listeners.discard(lane.news)
            feeder.cancel()
            await asyncio.gather(feeder, return_exceptions=True)
            # a stream that is left early: what was read ahead and not sent is not bought
            self._job.leave(lane.take_back())

    async def submit(self, item: Item | str) -> Result:
        """As `Runner.submit`."""
        news = asyncio.Event()
        slot = Slot(read_item(item), wake=news.set)
        self._lingering.append(slot)
        if len(self._lingering) >= self._job.sizer.size:
            self.send_lingering()
        elif len(self._lingering) == 1:
            self._loop.call_later(self._linger, self.send_lingering)
        self._crew.listeners.add(news)
        try:
            while slot.result is None:
                self._crew.check()
                await news.wait()
                news.clear()
        finally:
            self._crew.listeners.discard(news)
            if slot.result is None:
                self._take_back(slot)
        return slot.result

    def is_empty(self) -> bool:
        """Whether nobody waits for a result."""
        return not self._lingering and not self._job.is_waiting()

    def wait(self, now: float) -> float:
        """Seconds for which a pack that is not full may still be filled; 0 where nothing more is to come."""
        return max(0.0, self._flush_at - now) if self._feeding else 0.0

    def send_lingering(self) -> None:
        """Let what waits for company go without it."""
        slots, self._lingering = self._lingering, []
        if slots:
            self._crew.start(self._register(slots))

    async def _feed(self, items: Iterable[Item | str] | AsyncIterable[Item | str], lane: Lane) -> None:
        self._feeding += 1
        try:
            async for taken in slices(items, size=_SLICE, patience=self._linger):
                fresh = [Slot(read_item(item)) for item in taken]
                lane.add(fresh)
                # the crew's task, not this one's: a stream that is left must not leave its texts half registered
                await asyncio.shield(self._crew.start(self._register(fresh)))
                lane.news.set()
                await lane.has_room()
        finally:
            self._feeding -= 1
            lane.news.set()
            self._job.wake()

    async def _register(self, slots: list[Slot]) -> None:
        await self.known.wait()
        if elsewhere := await self._recall(self._job.board.register(slots)):
            self._crew.start(self._wait_for(elsewhere))

    async def _recall(self, fresh: Mapping[str, str]) -> dict[str, str]:
        """Give the job what is known of `fresh`, and what is to be asked; what somebody else is asking is returned."""
        found = await self._journal.find(list(fresh), confidences=self._job.confidence) if fresh else Found({}, {})
        # where nothing is asked any more, nobody is waited for
        elsewhere = found.elsewhere if self._job.stopped is None else frozenset()
        self._job.account.doubtful |= found.doubtful
        here = {key: text for key, text in fresh.items() if key not in elsewhere}
        self._job.recall(here, found.answers, found.confidences)
        self._flush_at = self._loop.time() + self._linger
        self._job.wake()
        return {key: fresh[key] for key in elsewhere}

    async def _wait_for(self, elsewhere: Mapping[str, str]) -> None:
        while elsewhere:
            await asyncio.sleep(_ELSEWHERE)
            left = self._job.board.drop_unwanted(elsewhere)
            elsewhere = await self._recall({key: text for key, text in elsewhere.items() if key not in left})

    def _take_back(self, slot: Slot) -> None:
        if slot in self._lingering:
            self._lingering.remove(slot)
        else:
            self._job.leave([slot])
