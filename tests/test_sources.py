"""Sources: items come as they arrive, and what blocks never blocks the event loop."""

import asyncio
import queue
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator

import pytest

from packer.sources import slices


async def collect(source: Iterable[int] | AsyncIterable[int], patience: float = 0.05) -> list[list[int]]:
    return [items async for items in slices(source, size=10, patience=patience)]


def test_a_source_comes_in_slices_of_at_most_the_size() -> None:
    assert asyncio.run(collect(range(25))) == [list(range(10)), list(range(10, 20)), list(range(20, 25))]


@pytest.mark.parametrize("count", [0, 10])
def test_no_slice_is_empty(count: int) -> None:
    assert asyncio.run(collect(range(count))) == [list(range(10))][: count // 10]


def test_an_error_comes_after_what_was_read() -> None:
    def broken() -> Iterator[int]:
        yield from range(3)
        raise ValueError("line 4")

    async def also_broken() -> AsyncIterator[int]:
        for number in range(3):
            yield number
        raise ValueError("line 4")

    async def read(source: Iterable[int] | AsyncIterable[int], seen: list[int]) -> None:
        async for items in slices(source, size=10, patience=0.05):
            seen.extend(items)

    for source in (broken(), also_broken()):
        seen: list[int] = []
        with pytest.raises(ValueError, match="line 4"):
            asyncio.run(read(source, seen))
        assert seen == [0, 1, 2]


def test_a_source_that_blocks_passes_on_what_came_and_blocks_nobody() -> None:
    lines: queue.Queue[int | None] = queue.Queue()

    def pipe() -> Iterator[int]:
        while (line := lines.get()) is not None:
            yield line

    async def work() -> list[list[int]]:
        seen = []
        lines.put(1)
        taken = slices(pipe(), size=10, patience=0.0)
        seen.append(await anext(taken))
        waiting = asyncio.ensure_future(anext(taken))
        await asyncio.sleep(0.02)  # the loop runs while the pipe is silent
        assert not waiting.done()
        lines.put(2)
        seen.append(await waiting)
        lines.put(None)
        return seen

    assert asyncio.run(work()) == [[1], [2]]


def test_an_async_source_is_passed_on_when_it_pauses() -> None:
    async def pausing() -> AsyncIterator[int]:
        yield 1
        yield 2
        await asyncio.sleep(0.2)
        yield 3

    assert asyncio.run(collect(pausing(), patience=0.05)) == [[1, 2], [3]]
