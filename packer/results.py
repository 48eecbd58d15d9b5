"""Results are a list like any other; only what is shown of them is short, however many there are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from packer.events import Statistics
from packer.items import Result, Status, plain_record
from packer.shown import count_of, cut_text, html_table, pad_text, show_text
from packer.standing import count_items, write_cost

_ROWS = 10  # of a table
_WIDTH = 80  # terminal cells of a line
_ANSWER = 24  # of which an answer takes at most
_COLUMNS = ("#", "answer", "text")


class Results(list[Result]):
    """A list of results, in the order of the items, with the `statistics` of their job at its end.

    In a notebook or a prompt it is shown as a count, the cost and its first rows. What is sliced out of it or added to
    it is a plain list. `earlier` are the statistics from before the first item.
    """

    def __init__(self, results: Iterable[Result], *, earlier: Statistics, statistics: Statistics) -> None:
        super().__init__(results)
        self.statistics = statistics
        self._earlier = earlier

    def __repr__(self) -> str:
        rows = [*self._rows()]
        wide = min(max((len(answer) for _, answer, _ in rows), default=0), _ANSWER)
        table = [f"{place:>4}  {pad_text(answer, wide)}  {text}" for place, answer, text in rows]
        lines = [*map(show_text, self._head()), *table, self._rest()]
        return "\n".join(cut_text(line.rstrip(), _WIDTH) for line in lines if line)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return html_table(self._head(), _COLUMNS, self._rows(), self._rest())

    def _head(self) -> Iterator[str]:
        now = self.statistics
        yield f"items {count_items(now)}"
        yield f"cost {write_cost(self._earlier, now)}"
        if now.stopped is not None:
            yield f"stopped: {now.stopped}; the same call again goes on"

    def _rows(self) -> Iterator[tuple[str, str, str]]:
        for place, result in enumerate(self[:_ROWS]):
            # the place is that in this list, so that results[3] is the row 3
            yield str(place), show_text(_write_answer(result)), show_text(result.item.text[: _WIDTH * 4])

    def _rest(self) -> str:
        left = len(self) - _ROWS
        return f"and {count_of(left, 'more row')}" if left > 0 else ""


def _write_answer(result: Result) -> str:
    if result.status is not Status.LABELLED:
        return f"({result.status}) {result.error}".rstrip()
    if result.label is not None:
        return result.label
    return ", ".join(f"{name}: {value}" for name, value in plain_record(result.record).items())
