"""How a job's batches stand: all that are on their way or at the gateway, and the last of those that have ended."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from packer.batch_files import ENDED, GIVEN_UP
from packer.dashboard.bars import Share, line_up
from packer.drawing import shown
from packer.events import BatchStands
from packer.shown import count_of

_LAST = 5  # of those that have ended
_OVER = ENDED | {GIVEN_UP}
_BAD = _OVER - {"completed"}
_LATEST = datetime(9999, 1, 1, tzinfo=UTC).timestamp()  # what a gateway tells may be milliseconds, or nonsense


@dataclass(frozen=True, slots=True)
class Standings:
    """The batches of a run as each stood when it was last looked at, and how many of them have `ended`."""

    running: Sequence[BatchStands] = ()
    over: Sequence[BatchStands] = ()
    ended: int = 0


@dataclass(frozen=True, slots=True)
class BatchRow:
    """A batch in words; `states` are its requests that have ended."""

    name: str
    state: str
    tone: str
    states: Sequence[Share]
    counts: str
    until: str


class Batches:
    """Hears how batches stand."""

    def __init__(self) -> None:
        self._running: dict[int, BatchStands] = {}
        self._over: deque[BatchStands] = deque(maxlen=_LAST)
        self._ended = 0

    def event(self, event: BatchStands) -> bool:
        """Hear it; whether it is bad news."""
        self._running[event.batch] = event
        if event.state in _OVER:
            self._over.appendleft(self._running.pop(event.batch))
            self._ended += 1
        return event.state in _BAD

    def standings(self) -> Standings:
        """How they stand, which does not change."""
        return Standings(tuple(self._running.values()), tuple(self._over), self._ended)


def tell_lead(standings: Standings) -> str:
    """How many there are, and what to know of them; empty where there are none."""
    said = []
    if running := standings.running:
        asked = count_of(sum(batch.requests for batch in running), "request")
        said.append(f"{count_of(len(running), 'batch', 'batches')} with {asked} under way.")
        said.append("What the gateway has goes on without this program, and the same command collects it.")
    if standings.ended:
        said.append(f"{count_of(standings.ended, 'batch has', 'batches have')} ended in this run.")
    return " ".join(said)


def tell_batches(standings: Standings) -> list[BatchRow]:
    """Those that run, the first made first, and then the last that have ended."""
    return [_tell(batch) for batch in (*standings.running, *standings.over)]


def _tell(batch: BatchStands) -> BatchRow:
    is_over = batch.state in _OVER
    counts = f"{batch.ended:,} of {batch.requests:,} ended" + (f", {batch.failed:,} failed" if batch.failed else "")
    until = ""
    if not is_over and batch.expires is not None and batch.expires < _LATEST:
        until = f"{datetime.fromtimestamp(batch.expires, UTC):%Y-%m-%d %H:%M} UTC"
    return BatchRow(
        name=shown(batch.id) or "not made yet",
        state=shown(batch.state.replace("_", " ")),
        tone="bad" if batch.state in _BAD else "good" if is_over else "run",
        states=list(line_up([(batch.ended - batch.failed, "good"), (batch.failed, "bad")], batch.requests)),
        counts=counts,
        until=until,
    )
